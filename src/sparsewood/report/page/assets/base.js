"use strict";
// What all scripts of the page share: the study, what is chosen, elements, numbers as text, files and the clipboard.
const page = { study: JSON.parse(document.getElementById("study").textContent), state: null, memory: {} };

// ---------------------------------------------------------------- the study

page.state = {
  axis: page.study.axes.length ? page.study.axes[0].key : null,
  logarithmic: true,
  near: false,
  off: new Set(), // names of the series that are switched off
};

// Where there are very many lines, the controls of single methods are switched off to begin with.
page.MOST_LINES = 20;
page.isCommon = (series) => series.role === "method" || !series.of;
if (page.study.series.length > page.MOST_LINES) {
  page.state.off = new Set(page.study.series.filter((series) => !page.isCommon(series)).map((series) => series.name));
}

page.listeners = [];
page.onChange = (listener) => page.listeners.push(listener);
page.changed = () => page.listeners.forEach((listener) => listener());
page.isOn = (name) => !page.state.off.has(name);

// Columns -> one object for each row. A column is a list, or its different values and which of them is in each row.
page.decode = (table) => {
  const names = Object.keys(table.columns);
  const columns = names.map((name) => {
    const column = table.columns[name];
    return Array.isArray(column) ? column : column.at.map((place) => column.values[place]);
  });
  return Array.from({ length: table.length }, (_, row) => {
    const record = {};
    names.forEach((name, at) => { record[name] = columns[at][row]; });
    return record;
  });
};

page.records = (name) => {
  if (!page.memory[name]) page.memory[name] = page.decode(page.study[name]);
  return page.memory[name];
};

page.unique = (values) => Array.from(new Set(values));
page.known = (value) => value !== null && value !== undefined;

// ---------------------------------------------------------------- elements

// make("td", {class: "n"}, "text", element): text is always text, never markup.
page.make = (tag, attributes, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && page.known(value)) element.setAttribute(name, value);
  }
  element.append(...children.filter(page.known));
  return element;
};

page.button = (text, action, attributes) => page.make("button", { type: "button", onclick: action, ...attributes }, text);

page.section = (id, title, lead) => {
  const section = page.make("section", { id, "aria-labelledby": `${id}-title` },
    page.make("h2", { id: `${id}-title` }, title), lead ? page.make("p", { class: "lead" }, lead) : null);
  document.getElementById("main").append(section);
  document.getElementById("nav").append(page.make("a", { href: `#${id}` }, title));
  return section;
};

// Buttons of which one is pressed.
page.switches = (caption, options, current, choose) => {
  const group = page.make("div", { class: "group", role: "group", "aria-label": caption }, page.make("span", { class: "caption" }, caption));
  for (const option of options) {
    const button = page.button(option.text, () => {
      for (const other of group.querySelectorAll("button")) other.setAttribute("aria-pressed", String(other === button));
      choose(option.value);
    }, { "aria-pressed": String(option.value === current), "data-value": String(option.value) });
    group.append(button);
  }
  return group;
};

page.say = (text) => { document.getElementById("said").textContent = text; };

// ---------------------------------------------------------------- numbers

page.fixed = (value, digits) => (page.known(value) ? value.toFixed(digits) : "");
page.percent = (value, digits = 2) => (page.known(value) ? (100 * value).toFixed(digits) : "");
page.amount = (value) => `${Number(value.toPrecision(4))}\u00d7`;

// 12.3k, 4.56M: three significant digits.
page.short = (value) => {
  if (!page.known(value)) return "";
  const step = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]].find(([size]) => Math.abs(value) >= size);
  if (!step) return String(Number(value.toPrecision(3)));
  return `${Number((value / step[0]).toPrecision(3))}${step[1]}`;
};

// How a measure is written: the mean, and what is written for it and its deviation.
page.FORMATS = {
  accuracy: (value) => page.percent(value), accuracy5: (value) => page.percent(value), before: (value) => page.percent(value),
  validation: (value) => page.percent(value), train_accuracy: (value) => page.percent(value),
  compression: (value) => page.fixed(value, 2), speedup: (value) => page.fixed(value, 2), latency_ratio: (value) => page.fixed(value, 2),
  size_nz: page.short, flops_nz: page.short, bytes: page.short, latency: (value) => page.fixed(value, 3), seconds: page.short,
};

page.spread = (record, measure) => {
  const write = page.FORMATS[measure];
  if (!page.known(record[measure])) return "";
  const deviation = record[`${measure}_std`];
  return page.known(deviation) ? `${write(record[measure])} \u00b1 ${write(deviation)}` : write(record[measure]);
};

// ---------------------------------------------------------------- files and clipboard

page.save = (name, content, type) => {
  const address = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  const link = page.make("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  window.setTimeout(() => URL.revokeObjectURL(address), 1000);
};

page.fileName = (text) => text.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-+|-+$/g, "").slice(0, 80) || "chart";

page.copy = async (text, button) => {
  let copied = false;
  try {
    await navigator.clipboard.writeText(text);
    copied = true;
  } catch (error) { // not allowed here: the way from before there was a clipboard
    const area = page.make("textarea", { class: "hidden" });
    area.value = text;
    (button.closest("dialog") || document.body).append(area);
    area.select();
    try { copied = document.execCommand("copy"); } catch (refused) { copied = false; }
    area.remove();
    button.focus();
  }
  page.flash(button, copied ? "Copied" : "Could not copy");
};

page.flash = (button, text) => {
  if (!button.dataset.text) button.dataset.text = button.textContent;
  button.textContent = text;
  page.say(text);
  window.clearTimeout(Number(button.dataset.timer));
  button.dataset.timer = window.setTimeout(() => { button.textContent = button.dataset.text; }, 1600);
};
