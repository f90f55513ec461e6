"use strict";
// Sorting, filtering, opening cards, the theme, printing. The page is complete without it.

const root = document.documentElement;
const THEMES = ["system", "light", "dark"];

/** Storage may be forbidden for a file: then the choice lasts as long as the page. */
const memory = {
  get() { try { return localStorage.getItem("neurosae-theme"); } catch { return null; } },
  set(value) { try { localStorage.setItem("neurosae-theme", value); } catch { /* not remembered */ } },
};

function applyTheme(theme) {
  if (theme === "system") delete root.dataset.theme;
  else root.dataset.theme = theme;
}

let theme = THEMES.includes(memory.get()) ? memory.get() : "system";
applyTheme(theme); // before the first paint

function setUpTheme() {
  const button = document.getElementById("theme");
  const show = () => { button.textContent = `Theme: ${theme}`; };
  button.hidden = false;
  button.addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    memory.set(theme);
    applyTheme(theme);
    show();
  });
  show();
}

/** Numbers by size, words by alphabet; what is missing comes last either way. */
function compare(a, b, numeric, ascending) {
  if (a === "" || b === "") return (a === "") - (b === "");
  const order = numeric ? Number(a) - Number(b) : a.localeCompare(b, "en", { numeric: true });
  return ascending ? order : -order;
}

function sortBy(table, column, header) {
  const body = table.tBodies[0];
  const key = (row) => row.cells[column].dataset.sort;
  const rows = [...body.rows];
  const numeric = rows.every((row) => key(row) === "" || Number.isFinite(Number(key(row))));
  const before = header.getAttribute("aria-sort");
  const ascending = before === "none" ? !numeric : before === "descending"; // numbers start with the largest
  rows.sort((one, other) => compare(key(one), key(other), numeric, ascending));
  body.append(...rows);
  for (const each of table.tHead.rows[0].cells) each.setAttribute("aria-sort", "none");
  header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
}

function setUpTable(sheet) {
  const table = sheet.querySelector("table");
  table.tHead.querySelectorAll("th").forEach((header, column) => {
    header.querySelector("button")?.addEventListener("click", () => sortBy(table, column, header));
  });
  const word = sheet.querySelector("[data-filter]");
  if (!word) return;
  const menus = [...sheet.querySelectorAll("select[data-column]")];
  const count = sheet.querySelector(".count");
  const filter = () => {
    const wanted = word.value.trim().toLowerCase();
    let shown = 0;
    for (const row of table.tBodies[0].rows) {
      const chosen = menus.every((menu) => !menu.value || row.cells[menu.dataset.column].textContent === menu.value);
      row.hidden = !(chosen && row.textContent.toLowerCase().includes(wanted));
      shown += !row.hidden;
    }
    count.textContent = `${shown} of ${table.tBodies[0].rows.length} rows`;
  };
  word.addEventListener("input", filter);
  for (const menu of menus) menu.addEventListener("change", filter);
}

function setUpCards() {
  const field = document.getElementById("card-filter");
  if (!field) return;
  const cards = [...document.querySelectorAll(".card[data-search]")];
  const count = document.getElementById("card-count");
  field.addEventListener("input", () => {
    const wanted = field.value.trim().toLowerCase();
    for (const card of cards) card.hidden = !card.dataset.search.includes(wanted);
    count.textContent = `${cards.filter((card) => !card.hidden).length} of ${cards.length} features`;
  });
  for (const button of document.querySelectorAll("[data-open]")) {
    button.addEventListener("click", () => {
      for (const card of cards) card.open = button.dataset.open === "true";
    });
  }
}

/** On paper everything is open. */
function setUpPrinting() {
  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const each of opened) each.open = true;
  });
  window.addEventListener("afterprint", () => {
    for (const each of opened) each.open = false;
  });
}

/** The section that is being read, in the list of sections. */
function setUpNavigation() {
  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
  const observer = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((each) => each.isIntersecting)) {
      for (const link of links.values()) link.removeAttribute("aria-current");
      links.get(entry.target.id)?.setAttribute("aria-current", "true");
    }
  }, { rootMargin: "-10% 0px -80% 0px" });
  for (const section of document.querySelectorAll("main > section[id]")) observer.observe(section);
}

document.addEventListener("DOMContentLoaded", () => {
  setUpTheme();
  document.querySelectorAll("[data-table]").forEach(setUpTable);
  setUpCards();
  setUpPrinting();
  setUpNavigation();
});
