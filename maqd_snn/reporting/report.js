"use strict";
// Tables whose header cells can be pressed: each press sorts by that column, a second one the other way round.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  const column = (row, at) => {
    let place = 0;
    for (const cell of row.cells) {
      if (place === at) return cell;
      place += cell.colSpan;
    }
    return null;
  };
  const key = (row, at) => {
    const cell = column(row, at);
    if (!cell) return null;
    const text = cell.dataset.v ?? cell.textContent.trim();
    if (text === "" || text === "\u2013") return null;
    const value = Number(text);
    return Number.isNaN(value) ? text.toLowerCase() : value;
  };
  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en");
  [...table.tHead.rows[0].cells].forEach((head) => {
    let at = 0;
    for (let left = head.previousElementSibling; left; left = left.previousElementSibling) at += left.colSpan;
    const button = document.createElement("button");
    button.type = "button";
    while (head.firstChild) button.append(head.firstChild);
    head.append(button);
    button.addEventListener("click", () => {
      const state = head.getAttribute("aria-sort");
      const next = state === "descending" ? "ascending" : state === "ascending" ? "" : "descending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      let rows = [...original];
      if (next) {
        head.setAttribute("aria-sort", next);
        const sign = next === "ascending" ? 1 : -1;
        rows = rows
          .map((row, index) => ({ row, index, value: key(row, at) }))
          .sort((a, b) => {
            if (a.value === null || b.value === null) return (a.value === null) - (b.value === null) || a.index - b.index;
            return sign * compare(a.value, b.value) || a.index - b.index;
          })
          .map((entry) => entry.row);
      }
      body.append(...rows);
    });
  });
}
// The sample browser: without this script all samples stand below one another.
const browser = document.querySelector(".browser");
if (browser) {
  const samples = [...browser.querySelectorAll(".one")];
  const picks = [...browser.querySelectorAll(".pick")];
  let at = 0;
  const show = (index) => {
    at = (index + samples.length) % samples.length;
    samples.forEach((sample, place) => sample.toggleAttribute("hidden", place !== at));
    picks.forEach((pick, place) => pick.setAttribute("aria-pressed", String(place === at)));
  };
  picks.forEach((pick, place) => pick.addEventListener("click", () => show(place)));
  browser.querySelector(".previous").addEventListener("click", () => show(at - 1));
  browser.querySelector(".next").addEventListener("click", () => show(at + 1));
  browser.querySelector(".picks").addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    show(at + step);
    picks[at].focus();
  });
  browser.classList.add("live");
  show(0);
}
