"use strict";
// Everything that the study has, in order.
page.start = () => {
  document.getElementById("theme").addEventListener("click", () => page.setTheme(page.isDark() ? "light" : "dark", true));
  document.getElementById("nav").append(page.make("a", { href: "#title" }, "Top"));
  page.buildTradeoff();
  page.buildResults();
  page.buildDifferences();
  const size = (name) => (Array.isArray(page.study[name]) ? page.study[name].length : page.study[name].length);
  const parts = [
    { id: "layers", title: "Layers", data: "layers", build: page.buildLayers },
    { id: "units", title: "Units", data: "unit_maps", build: page.buildUnitMaps },
    { id: "structure", title: "Structure", data: "networks", build: page.buildNetworks },
    { id: "scores", title: "Scores", data: "histograms", build: page.buildHistograms },
    { id: "overlap", title: "Overlap", data: "overlaps", build: page.buildOverlaps },
    { id: "sensitivity", title: "Sensitivity", data: "sensitivity", build: page.buildSensitivity },
    { id: "memorization", title: "Memorization", data: "memorization", build: page.buildMemorization },
    { id: "training", title: "Training", data: "curves", build: page.buildTraining },
  ].filter((part) => size(part.data));
  if (parts.length) page.tabs(page.section("inside", "Inside the networks"), "Inside the networks", parts);
  page.setTheme(document.documentElement.dataset.theme, false);
};

page.start();
