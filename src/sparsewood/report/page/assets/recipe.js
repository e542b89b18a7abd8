"use strict";
// The recipe of a point: what was done, for each seed, in a dialog.
page.dialog = document.getElementById("recipe");

page.shortRecipe = (text, lines = 7) => {
  const all = text.split("\n").filter((line) => line.trim() && !line.trim().startsWith("#"));
  const kept = all.slice(0, lines).map((line) => (line.length > 64 ? `${line.slice(0, 61)}...` : line));
  if (all.length > lines) kept.push(`... (${all.length - lines} more lines: click)`);
  return kept;
};

page.recipeOf = (point) => page.records("rows")[point.rows[0]].recipe;

page.showRecipe = (point) => {
  const rows = point.rows.map((number) => page.records("rows")[number]);
  const text = page.make("pre", { tabindex: "0", "aria-label": "recipe" });
  const recipes = page.unique(rows.map((row) => row.recipe));
  const select = page.make("select", { "aria-label": "recipe of seed", onchange: () => show(recipes[select.selectedIndex]) },
    ...recipes.map((recipe) => page.make("option", {}, `seed ${rows.filter((row) => row.recipe === recipe).map((row) => row.seed).join(", ")}`)));
  const show = (recipe) => { text.textContent = recipe; };
  const copy = page.button("Copy the recipe", () => page.copy(text.textContent, copy));
  const columns = [["seed", (row) => row.seed], ["accuracy [%]", (row) => page.percent(row.accuracy)], ["before [%]", (row) => page.percent(row.before)],
    ["compression", (row) => page.fixed(row.compression, 2)], ["speed-up", (row) => page.fixed(row.speedup, 2)],
    ["bytes", (row) => page.short(row.bytes)], ["latency [ms]", (row) => page.fixed(row.latency, 3)], ["seconds", (row) => page.short(row.seconds)], ["cell", (row) => row.hash.slice(0, 12)]];
  const used = columns.filter(([, value]) => rows.some((row) => value(row) !== ""));
  const table = page.make("table", {},
    page.make("thead", {}, page.make("tr", {}, ...used.map(([label]) => page.make("th", { scope: "col", class: "n" }, label)))),
    page.make("tbody", {}, ...rows.map((row) => page.make("tr", {}, ...used.map(([, value]) => page.make("td", { class: "n" }, String(value(row))))))));
  page.dialog.replaceChildren(
    page.make("div", { class: "head" },
      page.make("div", {}, page.make("h3", { id: "recipe-title" }, `${point.series}, ${page.amount(point.amount)}`), page.make("span", { class: "dim" }, point.problem)),
      page.button("Close", () => page.dialog.close())),
    page.make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "seeds" }, table),
    page.make("div", { class: "bar", style: "margin: 0.9rem 0 0" }, recipes.length > 1 ? select : page.make("span", { class: "dim" }, "One recipe for all seeds"), copy),
    text);
  show(recipes[0]);
  page.dialog.showModal();
};

// A click beside the dialog closes it.
page.dialog.addEventListener("click", (event) => { if (event.target === page.dialog) page.dialog.close(); });
