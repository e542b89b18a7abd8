"use strict";
// Charts: drawn when they are first seen, drawn again when what is chosen changes, saved as PNG and SVG.
page.charts = [];

// Names as plotly shows them: it reads a little markup, which names must not be.
page.plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

page.axis = (extra) => ({
  gridcolor: page.css("--grid"), linecolor: page.css("--line"), zerolinecolor: page.css("--line"), tickcolor: page.css("--line"),
  ticks: "outside", ticklen: 4, automargin: true, title: { text: "", standoff: 10 }, ...extra,
});

page.layout = (extra) => ({
  paper_bgcolor: page.css("--card"), plot_bgcolor: page.css("--plot"), showlegend: false, dragmode: page.coarse() ? false : "zoom",
  font: { family: page.css("--sans"), size: 12.5, color: page.css("--text") }, margin: { l: 56, r: 14, t: 10, b: 48 },
  hoverlabel: { align: "left", bgcolor: page.css("--card"), bordercolor: page.css("--line"), font: { color: page.css("--text"), family: page.css("--sans"), size: 12 } },
  ...extra, xaxis: page.axis(extra.xaxis), yaxis: page.axis(extra.yaxis),
});

page.coarse = () => window.matchMedia("(pointer: coarse)").matches;

// Beside the fields, or above them where there is little room.
page.colorbar = (title, width) => (width < 560
  ? { orientation: "h", thickness: 10, len: 1, x: 0.5, y: 1, yanchor: "bottom", outlinewidth: 0, title: { text: title, side: "top", font: { size: 11 } }, tickfont: { size: 10 } }
  : { thickness: 12, outlinewidth: 0, title: { text: title, side: "right" }, tickfont: { size: 11 } });

// Names of fields, cut where there is little room; and whether numbers fit into `count` fields side by side.
page.cut = (name, width) => {
  const most = width < 560 ? 13 : 24;
  return page.plain(name.length > most ? `${name.slice(0, most - 1)}\u2026` : name);
};
page.fits = (count, width) => count * 34 < width - (width < 560 ? 120 : 260);

// A card with a heading, a drawing and buttons. `figure(width)` gives {data, layout, height}, or null if there is nothing.
page.chart = (host, { title, figure, note, onclick, level = "h3" }) => {
  const plot = page.make("div", { class: "plot", role: "img", "aria-label": title });
  const remark = page.make("p", { class: "note", "aria-live": "off" });
  const chart = { title, plot, figure, seen: false, stale: true };
  const buttons = page.make("span", { class: "group small" });
  for (const format of ["png", "svg"]) {
    buttons.append(page.button(format.toUpperCase(), () => page.download(chart, format), { "aria-label": `${title}: save as ${format.toUpperCase()}` }));
  }
  const heading = page.make(level, {}, title);
  host.append(page.make("div", { class: "card" }, page.make("div", { class: "head" }, heading, buttons), plot, remark));
  chart.rename = (text) => { chart.title = text; heading.textContent = text; plot.setAttribute("aria-label", text); };
  chart.draw = () => {
    const made = chart.figure(plot.clientWidth);
    chart.stale = false;
    remark.textContent = (made && made.note) || (made ? note || "" : "Nothing to draw for this choice.");
    plot.style.height = `${made ? made.height || 380 : 40}px`;
    if (!made) { Plotly.purge(plot); plot.replaceChildren(); return; }
    Plotly.react(plot, made.data, made.layout, { displayModeBar: false, responsive: true, doubleClick: "reset" });
    if (onclick && !chart.listens) { plot.on("plotly_click", onclick); chart.listens = true; }
  };
  chart.update = () => { chart.stale = true; if (chart.seen && plot.offsetParent) chart.draw(); };
  page.charts.push(chart);
  page.watcher.observe(plot);
  return chart;
};

page.watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const chart = page.charts.find((one) => one.plot === entry.target);
    if (!chart || !entry.isIntersecting) continue;
    chart.seen = true;
    if (chart.stale) chart.draw();
  }
}, { rootMargin: "400px" });

// Charts that are open but out of sight are drawn when they come into sight.
page.onChange(() => page.charts.forEach((chart) => {
  chart.stale = true;
  const box = chart.plot.getBoundingClientRect();
  const near = chart.plot.offsetParent && box.bottom > -400 && box.top < window.innerHeight + 400;
  if (chart.seen && near) chart.draw();
  else if (chart.seen) { page.watcher.unobserve(chart.plot); page.watcher.observe(chart.plot); }
}));

// A saved chart stands alone: it has a title, and a legend where it has more than one series.
page.download = (chart, format) => {
  const made = chart.figure(960);
  if (!made) return;
  const named = made.data.filter((trace) => trace.name && trace.showlegend !== false).length;
  const layout = {
    ...made.layout, width: 960, height: Math.max(600, made.height || 0), showlegend: named > 1 || Boolean(made.layout.showlegend),
    title: { text: page.plain(chart.title), x: 0.02, xanchor: "left", font: { size: 16 } },
    margin: { ...made.layout.margin, t: 56, r: Math.max(24, made.layout.margin.r || 0) },
  };
  const options = { format, filename: page.fileName(chart.title), width: layout.width, height: layout.height, scale: format === "png" ? 2 : 1 };
  Plotly.downloadImage({ data: made.data, layout }, options).then(() => page.say(`Saved ${options.filename}.${format}`));
};

// Paper is white, and about 700 pixels wide.
window.addEventListener("beforeprint", () => {
  page.themeBefore = document.documentElement.dataset.theme;
  page.setTheme("light", false);
  for (const chart of page.charts) {
    if (!chart.plot.offsetParent) continue;
    chart.seen = true;
    chart.draw();
    if (chart.plot.data) Plotly.relayout(chart.plot, { width: Math.min(680, chart.plot.offsetWidth) });
  }
});
window.addEventListener("afterprint", () => {
  page.charts.forEach((chart) => { if (chart.plot.data) Plotly.relayout(chart.plot, { width: null, autosize: true }); });
  page.setTheme(page.themeBefore || "light", false);
});

// A line with symbols in one of the styles of look.js.
page.line = (style, extra) => ({
  type: "scatter", mode: "lines+markers", hoverinfo: "text", line: { color: style.color, width: 2, dash: style.dash },
  marker: { color: style.color, size: 8, symbol: style.open ? `${style.symbol}-open` : style.symbol, line: { color: style.color, width: style.open ? 2 : 0 } },
  ...extra,
});
