"use strict";
// Layer by layer: how much is gone, what is left of each unit, what pruning one layer alone costs.
// The end of a long name says most of what it is, but for ".weight", which nearly all have.
page.tail = (name, most) => {
  const short = name.length > most ? name.replace(/\.weight(?=$| \()/, "") : name;
  return short.length > most ? `\u2026${short.slice(1 - most)}` : short;
};

page.rowTicks = (names, width, least = 0) => {
  const most = Math.max(least, width < 560 ? 14 : 28);
  const ticks = page.spaced(names.length, 85);
  return { tickvals: ticks, ticktext: ticks.map((place) => page.plain(page.tail(names[place], most))), autorange: "reversed", showgrid: false, ticks: "", tickfont: { size: 11 } };
};
// Every field has a name, or where that many would hide one another, every second, third...
page.spaced = (count, most) => Array.from({ length: count }, (_, place) => place).filter((place) => place % Math.ceil(count / Math.max(1, most)) === 0);
// Between fields, unless it would hide them.
page.gap = (count, room, most = 2) => Math.max(0, Math.min(most, Math.floor(room / count / 4)));
page.heightFor = (rows, each, width) => Math.min(1400, Math.max(260, (width < 560 ? 190 : 120) + each * rows));

page.buildLayers = (panel) => {
  const chart = page.chart(panel, { title: "Sparsity of each layer", figure: (width) => page.layerMap(now.records, width), note: "Share of a layer's weights that is gone, mean over seeds. Point at a field for the size of the layer." });
  const now = { records: [] };
  page.chooser(panel, () => page.records("layers"), [page.KEYS.problem, page.KEYS.amount], (records, values) => {
    now.records = records;
    chart.rename(`Sparsity of each layer: ${values.problem}, asked ${page.amount(values.amount)}`);
    chart.update();
  });
  panel.prepend(panel.lastElementChild);
};

page.layerMap = (all, width) => {
  const records = all.filter((one) => page.isOn(one.method) || !page.seriesOf(one.method));
  if (!records.length) return null;
  const layers = page.unique(records.map((one) => one.layer));
  const methods = page.unique(records.map((one) => one.method));
  const at = new Map(records.map((one) => [`${one.layer}\n${one.method}`, one]));
  const field = (value) => layers.map((layer) => methods.map((method) => { const one = at.get(`${layer}\n${method}`); return one ? value(one) : null; }));
  const data = [{
    type: "heatmap", z: field((one) => 100 * one.sparsity), zmin: 0, zmax: 100, colorscale: page.SCALE, xgap: page.gap(methods.length, width - 120), ygap: page.gap(layers.length, 1250), colorbar: page.colorbar("gone [%]", width), hoverinfo: "text",
    hovertext: field((one) => `<b>${page.plain(one.layer)}</b><br>${page.plain(one.method)}<br>${page.percent(one.sparsity)} % gone<br>${page.short(one.size * (1 - one.sparsity))} of ${page.short(one.size)} weights left`),
    text: field((one) => page.fixed(100 * one.sparsity, one.sparsity > 0.99 && one.sparsity < 1 ? 1 : 0)), texttemplate: layers.length <= 60 && page.fits(methods.length, width) ? "%{text}" : "",
  }];
  const columns = page.spaced(methods.length, width / 16);
  const layout = page.layout({
    xaxis: { tickvals: columns, ticktext: columns.map((place) => page.cut(methods[place], width)), showgrid: false, ticks: "", side: "bottom", tickangle: methods.length > 4 ? -40 : 0 },
    yaxis: page.rowTicks(layers, width), margin: { l: 60, r: 10, t: 10, b: 40 },
  });
  return { data, layout, height: page.heightFor(layers.length, 28, width) };
};

// ---------------------------------------------------------------- units

page.buildUnitMaps = (panel) => {
  const now = { records: [] };
  const chart = page.chart(panel, { title: "What is left of each unit", figure: (width) => page.unitMap(now.records, width), note: "A row is a layer, a field one of its units (outputs). Rows are as wide as one another, however many units they have. Orange: the unit is gone; blue: the darker, the more of its weights is there." });
  page.chooser(panel, () => page.records("unit_maps"), [page.KEYS.problem, page.KEYS.method, page.KEYS.amount], (records, values) => {
    now.records = records;
    chart.rename(`What is left of each unit: ${values.method}, ${values.problem}, asked ${page.amount(values.amount)}`);
    chart.update();
  });
  panel.prepend(panel.lastElementChild);
};

page.unitMap = (records, room) => {
  if (!records.length) return null;
  const width = Math.min(1024, Math.max(...records.map((one) => one.kept.length)));
  const unit = (one, column) => Math.min(one.kept.length - 1, Math.floor((column * one.kept.length) / width));
  const columns = Array.from({ length: width }, (_, column) => column);
  const field = (value) => records.map((one) => columns.map((column) => (one.kept.length ? value(one, unit(one, column)) : null)));
  const gone = (one) => one.kept.filter((share) => share === 0).length;
  const data = [{
    type: "heatmap", z: field((one, at) => 100 * one.kept[at]), zmin: 0, zmax: 100, colorscale: page.GONE_KEPT, ygap: page.gap(records.length, 1250, 3), colorbar: page.colorbar("kept [%]", room), hoverinfo: "text",
    hovertext: field((one, at) => `<b>${page.plain(one.layer)}</b>, unit ${at}<br>${page.percent(one.kept[at], 1)} % kept`),
  }];
  const names = records.map((one) => `${one.layer} (${one.kept.length - gone(one)}/${one.kept.length})`);
  const layout = page.layout({ xaxis: { showticklabels: false, showgrid: false, ticks: "", title: { text: room < 560 ? "units, in order" : "units of the layer, in order" } }, yaxis: page.rowTicks(names, room, 20), margin: { l: 60, r: 10, t: 10, b: 40 } });
  return { data, layout, height: page.heightFor(records.length, 30, room) };
};

// ---------------------------------------------------------------- sensitivity

page.buildSensitivity = (panel) => {
  const now = { records: [] };
  const chart = page.chart(panel, { title: "Sensitivity of single layers", figure: () => page.sensitivity(now.records), note: "Accuracy when one layer alone is pruned, without training afterwards." });
  page.chooser(panel, () => page.records("sensitivity"), [{ key: "source", label: "network" }, { key: "granularity", label: "what is pruned" }], (records, values) => {
    now.records = records;
    chart.rename(`Sensitivity of single layers: ${values.source}, ${values.granularity}`);
    chart.update();
  });
  panel.prepend(panel.lastElementChild);
};

page.sensitivity = (records) => {
  if (!records.length) return null;
  const data = records.map((one, place) => page.line(page.style(place, false), {
    name: page.plain(one.layer), x: one.sparsity.map((value) => 100 * value), y: one.accuracy.map((value) => (page.known(value) ? 100 * value : null)),
    hovertext: one.sparsity.map((value, at) => `<b>${page.plain(one.layer)}</b><br>${page.percent(value, 1)} % gone: accuracy ${page.percent(one.accuracy[at])} %`),
  }));
  const layout = page.layout({
    xaxis: { title: { text: "sparsity of the layer [%]", standoff: 10 } }, yaxis: { title: { text: "accuracy [%]", standoff: 8 } }, hovermode: "closest",
    showlegend: true, legend: { orientation: "h", y: -0.2, font: { size: 11 } },
  });
  return { data, layout, height: 440 + 14 * Math.ceil(records.length / 4) };
};
