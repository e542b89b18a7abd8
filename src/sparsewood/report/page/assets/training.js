"use strict";
// Trainings epoch by epoch: loss and accuracy, on training data (dashed) and validation data (solid), a colour for each seed.
page.buildTraining = (panel) => {
  const now = { records: [] };
  const grid = page.make("div", { class: "grid" });
  const note = "Solid with symbols: validation data. Dashed: training data.";
  const loss = page.chart(grid, { title: "Loss", figure: () => page.curves(now.records, "loss", "loss", 1), note });
  const accuracy = page.chart(grid, { title: "Accuracy", figure: () => page.curves(now.records, "accuracy", "accuracy [%]", 100), note });
  page.chooser(panel, () => page.records("curves"), [page.KEYS.problem, page.KEYS.method, page.KEYS.amount, { key: "stage", label: "stage" }], (records, values) => {
    now.records = records;
    const where = `${values.method}, ${values.problem}, asked ${page.amount(values.amount)}, ${values.stage}`;
    loss.rename(`Loss: ${where}`);
    accuracy.rename(`Accuracy: ${where}`);
    loss.update();
    accuracy.update();
  });
  panel.append(grid);
};

page.curves = (records, what, title, factor) => {
  const data = [];
  records.forEach((one, place) => {
    for (const part of ["train", "validation"]) {
      const values = one[`${part}_${what}`];
      if (!values.some(page.known)) continue;
      const style = { ...page.style(place, false), dash: part === "train" ? "dash" : "solid" };
      data.push(page.line(style, {
        name: `seed ${one.seed}, ${part}`, mode: part === "train" ? "lines" : "lines+markers", x: one.epochs, y: values.map((value) => (page.known(value) ? factor * value : null)),
        line: { color: style.color, width: part === "train" ? 1.4 : 2, dash: style.dash },
        marker: { color: style.color, symbol: style.symbol, size: 5 },
        hovertext: values.map((value, at) => `seed ${one.seed}, ${part}, epoch ${one.epochs[at]}<br>${what} ${page.known(value) ? Number((factor * value).toPrecision(4)) : ""}`),
      }));
    }
  });
  if (!data.length) return null;
  const layout = page.layout({
    xaxis: { title: { text: "epoch", standoff: 8 } }, yaxis: { title: { text: title, standoff: 8 } }, hovermode: "closest",
    showlegend: true, legend: { orientation: "h", y: -0.22, font: { size: 11 } },
  });
  return { data, layout, height: 400 };
};
