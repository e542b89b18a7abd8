"use strict";
// What single units do: a measure of each, layer by layer, and how the activations of some are spread.
page.buildMemorization = (panel) => {
  const now = { one: null, layer: null };
  const records = () => page.study.memorization;
  const scatter = page.chart(panel, { title: "Units", figure: () => page.unitScatter(now.one), note: "A point is a unit; points are moved to the side by a fixed pattern so that they do not hide one another. Lines are means. Dead units are left out." });
  const below = page.make("div", { style: "margin-top: 1rem" });
  const violins = page.chart(below, { title: "Activations", figure: () => page.violins(now), note: "Violins of sampled activations: the box is the quartiles with a line at the median, the dashed line the mean. Units that memorize most are on the left." });
  let layers = null;
  page.chooser(panel, records, [{ key: "source", label: "network" }, { key: "measure", label: "measure" }], (found, values) => {
    now.one = found[0];
    scatter.rename(`${values.measure} of every unit: ${values.source}`);
    scatter.update();
    if (layers) layers();
  });
  panel.prepend(panel.lastElementChild);
  if (!page.study.memorization.some((one) => Object.keys(one.activations).length)) return;
  panel.append(below);
  const named = () => Object.keys(now.one.activations).map((layer) => ({ layer }));
  layers = page.chooser(below, named, [page.KEYS.layer], (_, values) => {
    now.layer = values.layer;
    violins.rename(`Activations of single units: ${values.layer || "no layer sampled"}, ${now.one.source}`);
    violins.update();
  });
  below.prepend(below.lastElementChild);
};

// Measures of units lie in [0, 1]; one that does not is shown whole.
page.unitRange = (one) => {
  const inside = Object.values(one.scores).every((scores) => scores.every((score) => !page.known(score) || (score >= 0 && score <= 1)));
  return inside ? { range: [-0.05, 1.05] } : {};
};

page.GOLDEN = (Math.sqrt(5) - 1) / 2;

page.unitScatter = (one) => {
  if (!one) return null;
  const layers = Object.keys(one.scores);
  if (!layers.length) return null;
  const data = layers.map((layer, column) => {
    const seen = one.scores[layer].map((score, unit) => ({ score, unit })).filter(({ score }) => page.known(score));
    return {
      type: "scatter", mode: "markers", name: page.plain(layer), hoverinfo: "text",
      x: seen.map((_, at) => column + 0.35 * (2 * ((at * page.GOLDEN) % 1) - 1)), y: seen.map(({ score }) => score),
      marker: { size: 5.5, color: page.color(column % 2), opacity: 0.8, symbol: column % 2 ? "diamond" : "circle" },
      hovertext: seen.map(({ score, unit }) => `<b>${page.plain(layer)}</b>, unit ${unit}<br>${page.plain(one.measure)} ${page.fixed(score, 3)}`),
    };
  });
  const means = layers.map((layer) => { const known = one.scores[layer].filter(page.known); return known.reduce((sum, score) => sum + score, 0) / known.length; });
  const bands = layers.map((_, column) => column).filter((column) => column % 2).map((column) => ({ type: "rect", yref: "paper", y0: 0, y1: 1, x0: column - 0.5, x1: column + 0.5, fillcolor: page.css("--band"), line: { width: 0 }, layer: "below" }));
  const lines = means.map((mean, column) => ({ type: "line", x0: column - 0.42, x1: column + 0.42, y0: mean, y1: mean, line: { color: page.css("--text"), width: 2 } })).filter((line) => Number.isFinite(line.y0));
  const every = Math.ceil(layers.length / 40);
  const shown = layers.map((_, column) => column).filter((column) => column % every === 0);
  const layout = page.layout({
    shapes: [...bands, ...lines], hovermode: "closest", margin: { l: 56, r: 14, t: 10, b: 70 },
    xaxis: { tickvals: shown, ticktext: shown.map((column) => page.plain(layers[column])), range: [-0.5, layers.length - 0.5], showgrid: false, tickangle: layers.length > 5 ? -40 : 0, zeroline: false },
    yaxis: { title: { text: page.plain(one.measure), standoff: 8 }, ...page.unitRange(one) },
  });
  return { data, layout, height: 420 };
};

page.violins = ({ one, layer }) => {
  const units = one && one.activations[layer];
  if (!units || !units.length) return null;
  const score = (unit) => (one.scores[layer] ? one.scores[layer][unit] : null);
  const data = units.map(({ unit, values }, place) => ({
    type: "violin", name: `unit ${unit}`, y: values, x0: place, box: { visible: true, width: 0.18 }, meanline: { visible: true, width: 1.5 }, points: "outliers", spanmode: "hard",
    marker: { size: 3, color: page.color(1) }, line: { color: page.color(0), width: 1.2 }, fillcolor: page.isDark() ? "rgba(86, 180, 233, 0.3)" : "rgba(0, 114, 178, 0.22)", hoveron: "violins+points",
  }));
  const layout = page.layout({
    xaxis: { tickvals: units.map((_, place) => place), ticktext: units.map(({ unit }) => (page.known(score(unit)) ? `${unit}<br>${page.fixed(score(unit), 2)}` : String(unit))), title: { text: `unit, and its ${page.plain(one.measure)}`, standoff: 8 }, showgrid: false, zeroline: false },
    yaxis: { title: { text: "activation", standoff: 8 } },
  });
  return { data, layout, height: 380 };
};
