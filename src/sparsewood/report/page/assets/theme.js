"use strict";
// Before anything is drawn: the theme that was chosen last, else the one the system asks for.
(function () {
  let chosen = null;
  try { chosen = window.localStorage.getItem("sparsewood-theme"); } catch (error) { /* no storage: not remembered */ }
  const dark = window.matchMedia && window.matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = chosen === "dark" || chosen === "light" ? chosen : dark ? "dark" : "light";
})();
