"use strict";
// Choosing what is drawn: selects that depend on one another, and tabs that are filled when they are first opened.

// What was chosen last for problem, method, amount: other selects of the same name begin with it.
page.chosen = {};

// A select for each key ({key, label, text}); each offers what is there given the ones before. `draw(records, values)`
// gets the records that fit all of them. Keys with one value only have no select. Returns a function that refills.
page.chooser = (host, records, keys, draw) => {
  const bar = page.make("div", { class: "bar" });
  host.append(bar);
  const values = {};
  const fields = keys.map(({ key, label }) => {
    const select = page.make("select", { "data-key": key, onchange: () => { page.chosen[key] = values[key] = options(select)[select.selectedIndex]; fill(); } });
    const field = page.make("label", { class: "field" }, label, select);
    bar.append(field);
    return { select, field };
  });
  const known = new Map();
  const options = (select) => known.get(select);
  const fill = () => {
    let fitting = records();
    keys.forEach(({ key, text }, place) => {
      const { select, field } = fields[place];
      const found = page.unique(fitting.map((record) => record[key]));
      if (found.every((value) => typeof value === "number")) found.sort((a, b) => a - b);
      known.set(select, found);
      const wanted = [values[key], page.chosen[key]].find((value) => found.includes(value));
      values[key] = page.known(wanted) ? wanted : found[typeof found[0] === "number" ? Math.floor((found.length - 1) / 2) : 0];
      select.replaceChildren(...found.map((value) => page.make("option", { selected: value === values[key] }, text ? text(value) : String(value))));
      field.hidden = found.length < 2;
      field.style.display = found.length < 2 ? "none" : "";
      fitting = fitting.filter((record) => record[key] === values[key]);
    });
    draw(fitting, values);
  };
  fill();
  return fill;
};

page.KEYS = {
  problem: { key: "problem", label: "problem" },
  method: { key: "method", label: "method" },
  amount: { key: "amount", label: "asked", text: (value) => page.amount(value) },
  layer: { key: "layer", label: "layer", text: (value) => value || "all layers" },
};

// parts: [{id, title, build(panel)}]. Arrow keys go from tab to tab, as in any tab list.
page.tabs = (host, label, parts) => {
  const list = page.make("div", { role: "tablist", "aria-label": label });
  const built = new Set();
  const tabs = parts.map((part, place) => page.make("button", {
    type: "button", role: "tab", id: `tab-${part.id}`, "aria-controls": `panel-${part.id}`, "aria-selected": "false", tabindex: "-1",
    onclick: () => open(place),
    onkeydown: (event) => {
      const steps = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: parts.length - 1 };
      if (!(event.key in steps)) return;
      event.preventDefault();
      const next = (steps[event.key] + parts.length) % parts.length;
      open(next);
      tabs[next].focus();
    },
  }, part.title));
  const panels = parts.map((part) => page.make("div", { role: "tabpanel", id: `panel-${part.id}`, "aria-labelledby": `tab-${part.id}`, tabindex: "0", hidden: true }));
  const open = (place) => {
    tabs.forEach((tab, at) => { tab.setAttribute("aria-selected", String(at === place)); tab.tabIndex = at === place ? 0 : -1; });
    panels.forEach((panel, at) => { panel.hidden = at !== place; });
    if (!built.has(place)) { built.add(place); parts[place].build(panels[place]); }
    page.charts.forEach((chart) => { if (chart.seen && chart.stale && chart.plot.offsetParent) chart.draw(); });
  };
  list.append(...tabs);
  host.append(list, ...panels);
  open(0);
};
