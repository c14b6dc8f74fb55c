"use strict";
const all = (what, where = document) => [...where.querySelectorAll(what)];
const say = (text) => { document.getElementById("said").textContent = text; };

// what works with this script alone
all("[hidden]").forEach((element) => { element.hidden = false; });

// sorting: rows without a value come last, rows that are alike stay as they are
function sort(button) {
  const head = button.closest("th"), table = button.closest("table"), body = table.tBodies[0];
  const other = { ascending: "descending", descending: "ascending" };
  const order = other[head.getAttribute("aria-sort")] ?? button.dataset.first;
  const sign = order === "ascending" ? 1 : -1, column = Number(button.dataset.c);
  const value = (row) => {
    const cell = row.cells[column];
    return column === 0 ? cell.textContent.trim() : cell.dataset.v === undefined ? null : Number(cell.dataset.v);
  };
  const compare = (a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === null || y === null) return (x === null) - (y === null);
    return sign * (column === 0 ? x.localeCompare(y, "en", { numeric: true }) : x - y);
  };
  all("th[aria-sort]", table).forEach((each) => each.setAttribute("aria-sort", "none"));
  head.setAttribute("aria-sort", order);
  body.append(...[...body.rows].sort(compare));
  say(`Sorted by ${button.textContent}, ${order}.`);
}

// filtering: every word must be in the name or the class of an entry
function filter(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = (element) => words.every((word) => element.dataset.words.toLowerCase().includes(word));
  all("[data-words]").forEach((element) => { element.hidden = !fits(element); });
  const rows = all("section > .scroll > .grid > tbody > tr");
  const left = rows.filter((row) => !row.hidden).length;
  document.getElementById("found").textContent = words.length ? `${left} of ${rows.length}` : "";
}

// columns
function show(button) {
  const shown = button.getAttribute("aria-pressed") === "true";
  const table = document.getElementById(button.dataset.table);
  all(`.g${button.dataset.group}`, table).forEach((cell) => { cell.hidden = !shown; });
}

// a page in a file may have no clipboard: then the text is selected and copied the old way
async function copy(button) {
  const code = button.closest(".command").querySelector("code");
  let done = false;
  try {
    await navigator.clipboard.writeText(code.textContent);
    done = true;
  } catch {
    getSelection().selectAllChildren(code);
    done = document.execCommand("copy");
  }
  button.textContent = done ? "Copied" : "Selected";
  say(done ? "Copied." : "Selected: copy it with your keyboard.");
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
}

// a card that is pointed at is open; whether there is one
function open() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target?.matches("details")) return false;
  target.open = true;
  target.scrollIntoView();
  target.querySelector("summary").focus({ preventScroll: true });
  return true;
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button?.dataset.c !== undefined) sort(button);
  else if (button?.dataset.group !== undefined) {
    button.setAttribute("aria-pressed", button.getAttribute("aria-pressed") === "true" ? "false" : "true");
    show(button);
  } else if (button?.classList.contains("copy")) copy(button);
  // to where one is already a link would not go, and the card may have been closed since
  else if (location.hash && event.target.closest("a")?.getAttribute("href") === location.hash && open()) {
    event.preventDefault();
  }
});
document.getElementById("filter").addEventListener("input", (event) => filter(event.target.value));
addEventListener("hashchange", open);
all("button[data-group]").forEach(show);
open();

// on paper the cards are open
const closed = new Set();
addEventListener("beforeprint", () => {
  all("details.card:not([open]), details.failure:not([open])").forEach((each) => {
    each.open = true;
    closed.add(each);
  });
});
addEventListener("afterprint", () => {
  closed.forEach((each) => { each.open = false; });
  closed.clear();
});
