// The page without its plots: dark or light, where the reader is, and tables that sort.
"use strict";
const root = document.documentElement;
const find = (selector, within = document) => [...within.querySelectorAll(selector)];

// ---- dark or light ---------------------------------------------------------------------------------------------------
const themeListeners = [];
function setTheme(name) {
  root.dataset.theme = name;
  const button = document.getElementById("theme");
  button.setAttribute("aria-pressed", String(name === "dark"));
  button.textContent = name === "dark" ? "Light page" : "Dark page";
  themeListeners.forEach((listener) => listener());
}
document.getElementById("theme").addEventListener("click", () => setTheme(root.dataset.theme === "dark" ? "light" : "dark"));

setTheme(root.dataset.theme);

// Paper is white and narrow: print in light colours and at its width, then return.
let before = null;
// What is folded up is printed whole.
let folded = [];
window.addEventListener("beforeprint", () => {
  before = root.dataset.theme;
  folded = find("details:not([open])");
  folded.forEach((each) => { each.open = true; });
  root.classList.add("printing");
  setTheme("light");
});
window.addEventListener("afterprint", () => {
  folded.forEach((each) => { each.open = false; });
  root.classList.remove("printing");
  setTheme(before);
});

// ---- the section being read is marked in the navigation ----------------------------------------------------------------
const links = new Map(find(".side ol > li > a").map((link) => [link.hash.slice(1), link]));
const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    links.forEach((link) => link.removeAttribute("aria-current"));
    links.get(entry.target.id).setAttribute("aria-current", "true");
  }
}, { rootMargin: "-15% 0px -80% 0px" });
links.forEach((_, id) => seen.observe(document.getElementById(id)));

// ---- tables that sort: a cell's data-value where it has one, else its text --------------------------------------------
const cellValue = (row, column) => {
  const cell = row.cells[column];
  return cell.dataset.value ?? cell.textContent.trim();
};
const compare = (a, b) => {
  const empty = (value) => value === "" || value === "–";
  if (empty(a) || empty(b)) return empty(a) - empty(b) || 0;
  const [x, y] = [Number(a), Number(b)];
  return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, "en", { numeric: true }) : x - y;
};
find("table.sortable").forEach((table) => {
  const heads = find("thead th", table);
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const first = head.classList.contains("number") ? "descending" : "ascending";
    const other = first === "ascending" ? "descending" : "ascending";
    const order = head.getAttribute("aria-sort") === first ? other : first;
    heads.forEach((each) => each.setAttribute("aria-sort", each === head ? order : "none"));
    const sign = order === "ascending" ? 1 : -1;
    const missing = (row) => ["", "–"].includes(cellValue(row, column));
    const rows = [...table.tBodies[0].rows].sort((a, b) =>
      missing(a) - missing(b) || sign * compare(cellValue(a, column), cellValue(b, column)));
    table.tBodies[0].append(...rows);
  }));
});
