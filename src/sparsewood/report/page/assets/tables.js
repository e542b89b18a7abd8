"use strict";
// Tables: sorted by any column, filtered by words, copied as CSV or Markdown.

// columns: [{key, label, number, text(record), value(record), csv: [[name, record => value]...]}]; `tail(record)` may give a
// last cell with a button. `records()` gives the rows. Returns a function that draws anew.
page.table = (host, { name, columns, records, tail }) => {
  const state = { key: null, falling: false, words: "" };
  const count = page.make("span", { class: "dim", "aria-live": "polite" });
  const filter = page.make("input", { type: "search", placeholder: "filter, e.g. 8\u00d7 digits", "aria-label": `Filter: ${name}`, oninput: () => { state.words = filter.value; draw(); } });
  const copiers = page.make("span", { class: "group" });
  for (const [label, write] of [["CSV", page.asCsv], ["Markdown", page.asMarkdown]]) {
    const button = page.button(`Copy as ${label}`, () => page.copy(write(columns, shown(), name), button));
    copiers.append(button);
  }
  const head = page.make("tr");
  const body = page.make("tbody");
  const box = page.make("div", { class: "scroll tall", role: "region", "aria-label": name, tabindex: "0" },
    page.make("table", {}, page.make("caption", { class: "hidden" }, `${name}. ${page.study.verdict}`), page.make("thead", {}, head), body));
  for (const column of columns) {
    const button = page.button(column.label, () => sort(column.key));
    head.append(page.make("th", { scope: "col", class: column.number ? "n" : null, "aria-sort": "none", "data-key": column.key }, button));
  }
  if (tail) head.append(page.make("th", { scope: "col", class: "details" }, page.make("span", { class: "hidden" }, "details")));
  host.append(page.make("div", { class: "bar" }, filter, copiers, count), box);

  const sort = (key) => {
    state.falling = state.key === key ? !state.falling : false;
    state.key = key;
    for (const cell of head.children) {
      if (cell.dataset.key) cell.setAttribute("aria-sort", cell.dataset.key !== key ? "none" : state.falling ? "descending" : "ascending");
    }
    draw();
  };
  const shown = () => {
    const words = state.words.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = records().filter((record) => {
      const text = columns.map((column) => page.cell(column, record)).join(" ").toLowerCase();
      return words.every((word) => text.includes(word));
    });
    const column = columns.find((one) => one.key === state.key);
    return column ? page.sorted(rows, column, state.falling) : rows;
  };
  const draw = () => {
    const rows = shown();
    body.replaceChildren(...rows.map((record) => page.make("tr", {},
      ...columns.map((column) => page.make("td", { class: column.number ? "n" : column.whole ? "whole-words" : null }, page.cell(column, record))),
      tail ? page.make("td", { class: "details" }, tail(record)) : null)));
    const all = records().length;
    count.textContent = rows.length === all ? `${all} rows` : `${rows.length} of ${all} rows`;
  };
  draw();
  return draw;
};

page.cell = (column, record) => (column.text ? column.text(record) : page.known(record[column.key]) ? String(record[column.key]) : "");

// Rows without a value are last, whichever way the others are sorted; equal ones stay as they are.
page.sorted = (rows, column, falling) => {
  const value = column.value || ((record) => record[column.key]);
  const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b);
  return rows.slice().sort((one, other) => {
    const [a, b] = [value(one), value(other)];
    if (!page.known(a) || !page.known(b)) return Number(!page.known(a)) - Number(!page.known(b));
    return falling ? -compare(a, b) : compare(a, b);
  });
};

page.asCsv = (columns, rows) => {
  // A field that begins like a formula gets a quote before it: tables are opened by programs that would run it.
  const field = (value) => {
    const text = page.known(value) ? String(value) : "";
    const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
    return /[",\n\r]/.test(safe) ? `"${safe.replace(/"/g, '""')}"` : safe;
  };
  const cells = columns.flatMap((column) => column.csv || [[column.key, column.value || ((record) => record[column.key])]]);
  const lines = [cells.map(([name]) => name), ...rows.map((record) => cells.map(([, value]) => value(record)))];
  return `${lines.map((line) => line.map(field).join(",")).join("\n")}\n`;
};

page.asMarkdown = (columns, rows, name) => {
  const safe = (text) => text.replace(/\\/g, "\\\\").replace(/\|/g, "\\|").replace(/</g, "&lt;").replace(/[\r\n]+/g, " ");
  const line = (cells) => `| ${cells.join(" | ")} |`;
  return [
    `${name}. Mean \u00b1 sample standard deviation over seeds. ${page.study.verdict}`, "",
    line(columns.map((column) => safe(column.label))), line(columns.map((column) => (column.number ? "---:" : "---"))),
    ...rows.map((record) => line(columns.map((column) => safe(page.cell(column, record))))), "",
  ].join("\n");
};
