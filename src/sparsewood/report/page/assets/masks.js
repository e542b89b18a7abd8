"use strict";
// What was chosen: how alike masks are, and where the threshold lies among the scores.
page.buildOverlaps = (panel) => {
  const now = { records: [] };
  const chart = page.chart(panel, { title: "Overlap of masks", figure: (width) => page.overlap(now.records[0], width) });
  const records = () => page.records("overlaps").map((one) => ({ ...one, of: one.of || "all" }));
  page.chooser(panel, records, [page.KEYS.problem, page.KEYS.amount, { key: "between", label: "between" }, { key: "of", label: "of" }], (found, values) => {
    now.records = found;
    const of = values.between === "seeds" ? ` of ${values.of}` : "";
    chart.rename(`Overlap of masks between ${values.between}${of}: ${values.problem}, asked ${page.amount(values.amount)}`);
    chart.update();
  });
  panel.prepend(panel.lastElementChild);
};

// Without the methods that are switched off.
page.shownOverlap = (one) => {
  const kept = one.names.map((_, place) => place).filter((place) => one.between !== "methods" || page.isOn(one.names[place]));
  const part = (matrix) => kept.map((row) => kept.map((column) => matrix[row][column]));
  return { ...one, names: kept.map((place) => one.names[place]), matrix: part(one.matrix), chances: one.chances.length ? part(one.chances) : [] };
};

page.overlap = (all, width) => {
  const one = all && page.shownOverlap(all);
  if (!one || !one.names.length) return null;
  const places = page.spaced(one.names.length, width / 16);
  const byChance = (row, column) => (one.chances.length && row !== column ? `, by chance ${page.fixed(one.chances[row][column], 3)}` : "");
  const data = [{
    type: "heatmap", z: one.matrix, zmin: 0, zmax: 1, colorscale: page.SCALE, xgap: page.gap(one.names.length, width - 120), ygap: page.gap(one.names.length, 1250), colorbar: page.colorbar("overlap", width), hoverinfo: "text",
    hovertext: one.matrix.map((line, row) => line.map((value, column) => `<b>${page.plain(one.names[row])}</b> and <b>${page.plain(one.names[column])}</b><br>${page.fixed(value, 3)} of what either keeps is kept by both${byChance(row, column)}`)),
    text: one.matrix.map((line) => line.map((value) => page.fixed(value, 2))), texttemplate: page.fits(one.names.length, width) ? "%{text}" : "",
  }];
  const layout = page.layout({
    xaxis: { tickvals: places, ticktext: places.map((place) => page.cut(one.names[place], width)), showgrid: false, ticks: "", tickangle: one.names.length > 4 ? -40 : 0 },
    yaxis: page.rowTicks(one.names, width), margin: { l: 60, r: 10, t: 10, b: 40 },
  });
  const chance = page.chanceLevel(one);
  return { data, layout, height: page.heightFor(one.names.length, 36, width), note: `Jaccard index: kept by both / kept by either.${chance}` };
};

// What random masks would have: each pair has a chance level of its own, as methods keep other shares of the layers.
page.chanceLevel = (one) => {
  const pairs = one.chances.flatMap((row, at) => row.slice(0, at)).map((value) => page.fixed(value, 3));
  if (!pairs.length) return page.known(one.chance) && one.names.length > 1 ? ` Independent random masks of these densities would have ${page.fixed(one.chance, 3)}, the mean over pairs: that is the chance level.` : "";
  const [low, high] = [pairs.reduce((a, b) => (Number(a) < Number(b) ? a : b)), pairs.reduce((a, b) => (Number(a) > Number(b) ? a : b))];
  return low === high ? ` Independent random masks of these densities would have ${low}: that is the chance level.`
    : ` Independent random masks of these densities would have ${low} to ${high}, by pair: point at a field for its chance level.`;
};

page.buildHistograms = (panel) => {
  const now = { records: [] };
  const chart = page.chart(panel, { title: "Scores", figure: () => page.histogram(now.records[0]) });
  page.chooser(panel, () => page.records("histograms"), [page.KEYS.problem, page.KEYS.method, page.KEYS.amount, page.KEYS.layer], (records, values) => {
    now.records = records;
    chart.rename(`Scores: ${values.method}, ${values.problem}, asked ${page.amount(values.amount)}, ${values.layer || "all layers"}`);
    chart.update();
  });
  panel.prepend(panel.lastElementChild);
};

page.histogram = (one) => {
  if (!one) return null;
  const middle = one.edges.slice(1).map((edge, at) => (edge + one.edges[at]) / 2);
  const width = one.edges.slice(1).map((edge, at) => edge - one.edges[at]);
  const bars = (name, counts, color, pattern) => ({
    type: "bar", name, x: middle, y: counts, width, hoverinfo: "text", marker: { color, line: { width: 0 }, pattern: { shape: pattern, bgcolor: color, fgcolor: page.css("--card"), size: 6, solidity: 0.22 } },
    hovertext: counts.map((count, at) => `${name}: ${count.toLocaleString("en")}<br>scores ${one.edges[at].toPrecision(3)} to ${one.edges[at + 1].toPrecision(3)}`),
  });
  const sum = (counts) => counts.reduce((total, count) => total + count, 0);
  const layout = page.layout({
    barmode: "stack", bargap: 0, showlegend: true, legend: { orientation: "h", y: 1.12, x: 0 }, margin: { l: 60, r: 14, t: 30, b: 48 },
    xaxis: { title: { text: one.logarithm ? "log10 of the score" : "score", standoff: 10 } }, yaxis: { title: { text: "scores in the bin", standoff: 8 }, exponentformat: "SI" },
  });
  if (page.known(one.threshold)) {
    layout.shapes = [{ type: "line", yref: "paper", y0: 0, y1: 1, x0: one.threshold, x1: one.threshold, line: { color: page.css("--text"), width: 2, dash: "dash" } }];
    layout.annotations = [{ x: one.threshold, y: 1, yref: "paper", yanchor: "top", xanchor: "left", showarrow: false, text: " threshold", font: { size: 12 } }];
  }
  const zeros = one.zeros ? ` ${one.zeros.toLocaleString("en")} scores are 0 and have no logarithm.` : "";
  return {
    data: [bars("removed", one.removed, page.color(1), "/"), bars("kept", one.kept, page.color(0), "")], layout, height: 400,
    note: `${sum(one.kept).toLocaleString("en")} kept, ${sum(one.removed).toLocaleString("en")} removed.${zeros}`,
  };
};
