"use strict";
// The table of means and the table of paired differences.
page.buildResults = () => {
  if (!page.study.points.length) return;
  const section = page.section("means", "Means over seeds", "Mean \u00b1 sample standard deviation (n - 1). Sort by a heading, filter by words; copies have the rows that are shown.");
  page.flagGaps(section);
  const columns = page.meanColumns();
  const draw = page.table(section, {
    name: "Means over seeds", columns, records: () => page.records("points").filter((point) => page.isOn(point.series)),
    tail: (point) => page.button("recipe", () => page.showRecipe(point), { class: "small", "aria-label": `Recipe of ${point.series}, ${page.amount(point.amount)}, ${point.problem}` }),
  });
  let shown = Array.from(page.state.off).join("\n");
  page.onChange(() => {
    const now = Array.from(page.state.off).join("\n");
    if (now !== shown) draw();
    shown = now;
  });
};

// Beside every table: that it has gaps, if it has.
page.flagGaps = (section) => { if (!page.study.whole) section.append(page.make("p", {}, page.make("a", { class: "flag", href: "#verdict" }, page.study.verdict))); };

page.meanColumns = () => {
  const role = (point) => { const { role: is, of } = page.seriesOf(point.series); return is === "control" && of ? `control of ${of}` : is; };
  const measure = (key, label) => ({
    key, label, number: true, text: (point) => page.spread(point, key), value: (point) => point[key],
    csv: [[key, (point) => point[key]], [`${key}_std`, (point) => point[`${key}_std`]]],
  });
  const measures = [
    measure("accuracy", "accuracy [%]"), measure("accuracy5", "top-5 [%]"), measure("before", "before retraining [%]"), measure("validation", "validation [%]"),
    measure("compression", "compression"), measure("speedup", "speed-up"), measure("size_nz", "parameters left"), measure("flops_nz", "multiply-adds left"),
    measure("bytes", "bytes"), measure("latency", "latency [ms]"), measure("latency_ratio", "latency ratio"),
  ].filter((column) => page.records("points").some((point) => page.known(point[column.key])));
  return [
    { key: "problem", label: "problem" },
    { key: "series", label: "method", whole: true, csv: [["method", (point) => page.seriesOf(point.series).method]] },
    { key: "role", label: "role", text: role, value: role, csv: [["role", (point) => page.seriesOf(point.series).role], ["of", (point) => page.seriesOf(point.series).of]] },
    { key: "amount", label: "asked", number: true, text: (point) => page.amount(point.amount), value: (point) => point.amount },
    { key: "seeds", label: "seeds", number: true, text: (point) => String(point.rows.length), value: (point) => point.rows.length },
    ...measures,
  ];
};

// What an interval says: only one that does not contain 0 tells the two apart.
page.conclusion = (one) => {
  if (!page.known(one.low) || !page.known(one.high)) return "one pair";
  return one.low > 0 ? "higher" : one.high < 0 ? "lower" : "not told apart";
};

page.buildDifferences = () => {
  if (!page.study.differences.length) return;
  const section = page.section("differences", "Differences of the same seeds", "Accuracy of the method less that of the control in percentage points, seed by seed: the mean, and the interval that holds it with 95 % confidence (Student's t). Where the interval holds 0, the two are not told apart. Nothing is corrected for the number of comparisons: of a hundred pairs that are alike, about five would be told apart.");
  page.flagGaps(section);
  const signed = (value) => (page.known(value) ? `${value > 0 ? "+" : value < 0 ? "\u2212" : ""}${Math.abs(value).toFixed(2)}` : "");
  const on = (name) => !page.study.series.some((series) => series.method === name) || page.study.series.some((series) => series.method === name && page.isOn(series.name));
  const draw = page.table(section, {
    name: "Differences of the same seeds", records: () => page.records("differences").filter((one) => on(one.method) && on(one.control)),
    columns: [
      { key: "problem", label: "problem" }, { key: "method", label: "method" }, { key: "control", label: "control" },
      { key: "amount", label: "asked", number: true, text: (one) => page.amount(one.amount), value: (one) => one.amount },
      { key: "pairs", label: "pairs", number: true },
      { key: "mean", label: "difference [points]", number: true, text: (one) => signed(one.mean), value: (one) => one.mean },
      { key: "interval", label: "95 % interval", number: true, text: (one) => (page.known(one.low) ? `${signed(one.low)} to ${signed(one.high)}` : ""), value: (one) => one.low,
        csv: [["low", (one) => one.low], ["high", (one) => one.high]] },
      { key: "conclusion", label: "method is", text: page.conclusion, value: page.conclusion },
    ],
  });
  page.onChange(draw);
};
