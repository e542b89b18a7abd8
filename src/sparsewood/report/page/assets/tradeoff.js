"use strict";
// Accuracy over what was gained, a chart for each problem; one legend for all of them.
page.buildTradeoff = () => {
  if (!page.study.points.length) return;
  const section = page.section("accuracy", "Accuracy and what it costs",
    "Points are means over seeds, bars one sample standard deviation both ways. The broad band marks the Pareto front of what is switched on: no shown network is as good in both respects and better in one. Point at a network for its recipe, click for all of it.");
  const bar = page.make("div", { class: "bar look" });
  const set = (key) => (value) => { page.state[key] = value; page.changed(); };
  bar.append(
    page.switches("accuracy over", page.study.axes.map((axis) => ({ text: axis.label, value: axis.key })), page.state.axis, set("axis")),
    page.switches("x axis", [{ text: "log", value: true }, { text: "linear", value: false }], page.state.logarithmic, set("logarithmic")),
    page.switches("y axis", [{ text: "all", value: false }, { text: "near dense", value: true }], page.state.near, set("near")));
  const meaning = page.make("p", { class: "note look", style: "margin: -0.4rem 0 0.9rem" });
  const explain = () => { meaning.textContent = page.study.axes.filter((axis) => axis.key === page.state.axis).map((axis) => `${axis.title}; ${axis.better === "larger" ? "more" : "less"} is better`).join(""); };
  page.onChange(explain);
  explain();
  section.append(bar, meaning);
  page.legend(section);
  const grid = page.make("div", { class: "grid" });
  section.append(grid);
  for (const problem of page.unique(page.records("points").map((point) => point.problem))) {
    page.chart(grid, { title: problem, figure: (width) => page.tradeoff(problem, width), onclick: (event) => {
      const point = event.points[0].customdata;
      if (page.known(point)) page.showRecipe(page.records("points")[point]);
    } });
  }
};

page.legend = (host) => {
  const boxes = [];
  const list = page.make("ul");
  const draw = () => {
    list.replaceChildren(...page.study.series.map((series, place) => page.make("li", {},
      page.make("label", { class: page.isOn(series.name) ? "" : "off" }, boxes[place], page.sample(page.styleOf(series.name)), series.name,
        series.role === "control" && series.method !== "dense" ? page.make("span", { class: "of" }, series.of ? `control of ${series.of}` : "control") : null))));
  };
  for (const series of page.study.series) {
    boxes.push(page.make("input", { type: "checkbox", checked: true, "data-series": series.name, onchange: (event) => {
      if (event.target.checked) page.state.off.delete(series.name);
      else page.state.off.add(series.name);
      page.changed();
      event.target.focus();
    } }));
  }
  const only = (keep) => () => {
    page.state.off = new Set(page.study.series.filter((series) => !keep(series)).map((series) => series.name));
    page.changed();
  };
  const group = page.make("div", { class: "group small" }, page.make("span", { class: "caption" }, "Shown in charts and tables:"),
    page.button("All", only(() => true)), page.button("None", only(() => false)),
    page.button("Without controls of single methods", only(page.isCommon)),
    page.button("Methods only", only((series) => series.role === "method")), page.button("Controls only", only((series) => series.role === "control")));
  host.append(page.make("div", { class: "legend", role: "group", "aria-label": "Methods and controls" }, group, list));
  const sync = () => { boxes.forEach((box, place) => { box.checked = page.isOn(page.study.series[place].name); }); draw(); };
  page.onChange(sync);
  sync();
};

page.tradeoff = (problem, width) => {
  const axis = page.study.axes.find((one) => one.key === page.state.axis);
  const all = page.records("points").map((point, place) => ({ ...point, place })).filter((point) => point.problem === problem && page.isOn(point.series));
  const points = all.filter((point) => page.known(point[axis.key]) && page.known(point.accuracy));
  const dense = all.find((point) => page.seriesOf(point.series).method === "dense" && page.known(point.accuracy));
  const others = axis.absolute ? page.otherNetworks(problem, axis.key) : [];
  if (!points.length && !dense) return null;
  const data = [page.frontTrace(points, axis)];
  for (const series of page.study.series) {
    const own = points.filter((point) => point.series === series.name).sort((a, b) => a[axis.key] - b[axis.key]);
    if (own.length) data.push(page.seriesTrace(series, own, axis));
  }
  if (others.length) data.push(page.othersTrace(others, axis.key));
  const x = { title: { text: width < 640 ? axis.label : axis.title, standoff: 10 }, type: page.state.logarithmic ? "log" : "linear", exponentformat: "SI", ...page.ratioTicks(axis, points) };
  const y = { title: { text: "accuracy [%]", standoff: 8 }, zeroline: false };
  if (page.state.near && dense) y.range = [100 * dense.accuracy - 10, Math.min(100.5, 100 * Math.max(...points.map((point) => point.accuracy), dense.accuracy) + 1.5)];
  const layout = page.layout({ xaxis: x, yaxis: y, hovermode: "closest", uirevision: `${axis.key}${page.state.logarithmic}${page.state.near}` });
  if (dense) Object.assign(layout, page.denseLine(dense));
  return { data, layout, height: width > 900 ? 500 : 400, note: page.tradeoffNote(problem, all.length - points.length, dense) };
};

page.tradeoffNote = (problem, without, dense) => {
  const missing = page.records("failures").filter((one) => one.problem === problem).length;
  return [
    dense ? "" : "No dense control is shown.",
    without ? `${without} points have no value on this axis.` : "",
    missing ? `${missing} network${missing > 1 ? "s" : ""} of this problem ${missing > 1 ? "are" : "is"} missing, see the top of the page.` : "",
  ].filter(Boolean).join(" ");
};

// Powers of two for ratios, as they were asked for.
page.ratioTicks = (axis, points) => {
  if (axis.absolute || !page.state.logarithmic || !points.length) return {};
  const values = points.map((point) => point[axis.key]);
  const [low, high] = [Math.floor(Math.log2(Math.min(...values))), Math.ceil(Math.log2(Math.max(...values)))];
  const step = Math.max(1, Math.ceil((high - low) / 8));
  const ticks = Array.from({ length: Math.floor((high - low) / step) + 1 }, (_, at) => 2 ** (low + at * step));
  return high - low < 1 ? {} : { tickvals: ticks, ticktext: ticks.map((tick) => page.amount(tick)) };
};

page.onFront = (point, axis) => point[`above_${axis.key}`].every((name) => !page.isOn(name));

page.frontTrace = (points, axis) => {
  const front = points.filter((point) => page.onFront(point, axis)).sort((a, b) => a[axis.key] - b[axis.key]);
  const color = page.isDark() ? "rgba(240, 200, 90, 0.42)" : "rgba(230, 159, 0, 0.32)";
  return {
    type: "scatter", mode: "lines+markers", name: "Pareto front", hoverinfo: "skip", x: front.map((point) => point[axis.key]), y: front.map((point) => 100 * point.accuracy),
    line: { color, width: 9 }, marker: { color, size: 19, symbol: "circle", line: { width: 1.5, color: page.css("--bad") } }, meta: front.map((point) => point.place),
  };
};

page.seriesTrace = (series, points, axis) => {
  const bars = (values, color) => ({ type: "data", array: values, thickness: 1.3, width: 3, color });
  const style = page.styleOf(series.name);
  return page.line(style, {
    name: page.plain(series.name), x: points.map((point) => point[axis.key]), y: points.map((point) => 100 * point.accuracy),
    error_x: { ...bars(points.map((point) => point[`${axis.key}_std`] || 0), style.color), symmetric: false, arrayminus: points.map((point) => Math.min(point[`${axis.key}_std`] || 0, 0.9 * point[axis.key])) },
    error_y: bars(points.map((point) => 100 * (point.accuracy_std || 0)), style.color),
    customdata: points.map((point) => point.place), hovertext: points.map((point) => page.hover(series, point)),
  });
};

page.hover = (series, point) => {
  const control = series.role === "control" && series.of ? ` (control of ${page.plain(series.of)})` : "";
  const seeds = `${point.rows.length} seed${point.rows.length > 1 ? "s" : ""}`;
  const lines = [`<b>${page.plain(series.name)}</b>${control}`, `asked ${page.amount(point.amount)}, ${seeds}`, `accuracy ${page.spread(point, "accuracy")} %`];
  for (const axis of page.study.axes) if (page.known(point[axis.key])) lines.push(`${axis.label} ${page.spread(point, axis.key)}`);
  return [...lines, "", ...page.shortRecipe(page.recipeOf(point)).map((line) => page.plain(line).replace(/^ +/, (space) => "\u00a0".repeat(space.length)))].join("<br>");
};

page.denseLine = (dense) => {
  const [y, std, color] = [100 * dense.accuracy, 100 * (dense.accuracy_std || 0), page.css("--soft")];
  const across = { xref: "paper", x0: 0, x1: 1, layer: "below" };
  return {
    shapes: [{ type: "rect", ...across, y0: y - std, y1: y + std, fillcolor: color, opacity: 0.18, line: { width: 0 } },
      { type: "line", ...across, y0: y, y1: y, line: { color, width: 1.4, dash: "dash" } }],
    annotations: [{ xref: "paper", x: 1, xanchor: "right", y: y + std, yanchor: "bottom", showarrow: false, text: `dense ${page.fixed(y, 2)} %`, font: { size: 11, color } }],
  };
};

// Dense networks of other problems on the same data ("digits, x" and "digits, y"): a smaller architecture may be the better choice.
page.otherNetworks = (problem, key) => page.records("points").filter((point) => point.problem !== problem && page.isOn(point.series)
  && point.problem.includes(",") && point.problem.split(",")[0] === problem.split(",")[0] && page.seriesOf(point.series).method === "dense" && page.known(point[key]) && page.known(point.accuracy));

page.othersTrace = (points, key) => ({
  type: "scatter", mode: "markers+text", name: "other dense networks", hoverinfo: "text", x: points.map((point) => point[key]), y: points.map((point) => 100 * point.accuracy),
  marker: { symbol: "star-diamond", size: 13, color: page.css("--soft") }, text: points.map((point) => page.plain(point.problem.split(",").slice(1).join(",").trim())), textposition: "top center",
  hovertext: points.map((point) => `<b>${page.plain(point.problem)}</b><br>dense<br>accuracy ${page.spread(point, "accuracy")} %`),
});
