"use strict";
// How series look: colour, symbol and dash together, so that no two are told apart by colour alone. And the theme.
page.SYMBOLS = ["circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x", "star"];
page.METHOD_DASHES = ["solid", "longdash", "dashdot"];
page.CONTROL_DASHES = ["dash", "dot", "longdashdot"];
page.DASH_ARRAYS = { solid: "none", longdash: "9 3", dashdot: "5 3 1 3", dash: "5 3", dot: "1.5 2.5", longdashdot: "9 3 1 3" };

page.css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
page.isDark = () => document.documentElement.dataset.theme === "dark";

// Black and dark blue of the palette would vanish on a dark ground: the same hues, lighter.
page.LIGHTER = { "#000000": "#d7dde3", "#0072B2": "#3d9bd8" };
page.color = (number) => {
  const color = page.study.colors[number % page.study.colors.length];
  return page.isDark() ? page.LIGHTER[color] || color : color;
};

page.places = {};
page.study.series.filter((one) => one.method !== "dense").forEach((one, place) => { page.places[one.name] = place; });
page.seriesOf = (name) => page.study.series.find((one) => one.name === name);

// Style number `place` of lines in general; `open` symbols and broken lines are for controls.
page.style = (place, open) => {
  const symbol = page.SYMBOLS[place % page.SYMBOLS.length];
  const dashes = open ? page.CONTROL_DASHES : page.METHOD_DASHES;
  const dash = dashes[Math.floor(place / page.study.colors.length) % dashes.length];
  return { color: page.color(place), symbol, open: Boolean(open), dash };
};

page.styleOf = (name) => {
  const series = page.seriesOf(name);
  if (!series || series.method === "dense") return { color: page.css("--soft"), symbol: "circle", open: false, dash: "dash" };
  return page.style(page.places[name], series.role === "control");
};

// ---------------------------------------------------------------- symbols of the legend, as plotly draws them

page.SHAPES = {
  "circle": "M5,0A5,5 0 1,1 0,-5A5,5 0 0,1 5,0Z",
  "square": "M-4.5,-4.5H4.5V4.5H-4.5Z",
  "triangle-up": "M0,-5.5L5.2,3.6H-5.2Z",
  "triangle-down": "M0,5.5L5.2,-3.6H-5.2Z",
  "diamond": "M0,-6L6,0L0,6L-6,0Z",
  "cross": "M-1.8,-5H1.8V-1.8H5V1.8H1.8V5H-1.8V1.8H-5V-1.8H-1.8Z",
  "x": "M-5,-2.5L-2.5,-5L0,-2.5L2.5,-5L5,-2.5L2.5,0L5,2.5L2.5,5L0,2.5L-2.5,5L-5,2.5L-2.5,0Z",
  "star": "M0,-6L1.5,-2L5.7,-1.9L2.4,0.8L3.5,4.9L0,2.5L-3.5,4.9L-2.4,0.8L-5.7,-1.9L-1.5,-2Z",
};

page.svg = (tag, attributes, ...children) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes || {})) element.setAttribute(name, value);
  element.append(...children.filter(page.known));
  return element;
};

page.sample = (style) => page.svg("svg", { width: 36, height: 14, viewBox: "-18 -7 36 14", "aria-hidden": "true" },
  page.svg("line", { x1: -17, x2: 17, y1: 0, y2: 0, stroke: style.color, "stroke-width": 2, "stroke-dasharray": page.DASH_ARRAYS[style.dash] }),
  page.svg("path", { d: page.SHAPES[style.symbol], fill: style.open ? page.css("--card") : style.color, stroke: style.color, "stroke-width": 1.8 }));

// ---------------------------------------------------------------- scales of heat maps, told apart with any colour vision

page.SCALE = [[0, "#fdf6d8"], [0.25, "#b4dccf"], [0.5, "#68b1cf"], [0.75, "#2a5d9f"], [1, "#182a5e"]];
// Orange is for nothing at all: a unit of which little is left must not look as one that is gone.
page.GONE_KEPT = [[0, "#D55E00"], [1e-9, "#D55E00"], [1e-9, "#eaf1f5"], [0.5, "#86b9dc"], [1, "#00507d"]];

// ---------------------------------------------------------------- theme

page.setTheme = (theme, remember) => {
  document.documentElement.dataset.theme = theme;
  const button = document.getElementById("theme");
  button.textContent = theme === "dark" ? "Light" : "Dark";
  button.setAttribute("aria-label", `Change to the ${theme === "dark" ? "light" : "dark"} theme`);
  if (remember) {
    try { window.localStorage.setItem("sparsewood-theme", theme); } catch (error) { /* no storage: not remembered */ }
  }
  page.changed();
};
