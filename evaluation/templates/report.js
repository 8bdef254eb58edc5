"use strict";
// The page reads without this script; it adds sorting, filtering, the tips of the box plots and other slices.

// A cell's value: its data-value where it has one, else its text; "" sorts last in both directions.
const names = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
function valueOf(row, column) {
  const cell = row.cells[column];
  return cell.dataset.value ?? cell.textContent.trim();
}
function compare(a, b) {
  const x = Number(a), y = Number(b);
  return Number.isNaN(x) || Number.isNaN(y) ? names.compare(a, b) : x - y;
}
function sortBy(header) {
  const table = header.closest("table");
  const body = table.tBodies[0];
  const column = Number(header.dataset.column);
  const down = header.getAttribute("aria-sort") === "ascending";
  for (const other of table.querySelectorAll("th[aria-sort]")) other.setAttribute("aria-sort", "none");
  header.setAttribute("aria-sort", down ? "descending" : "ascending");
  const rows = Array.from(body.rows, (row) => [valueOf(row, column), row]);
  rows.sort(([a], [b]) => (a === "") - (b === "") || (a === "" ? 0 : down ? compare(b, a) : compare(a, b)));
  body.append(...rows.map(([, row]) => row));
}
for (const button of document.querySelectorAll("th[aria-sort] button")) {
  button.addEventListener("click", () => sortBy(button.closest("th")));
}

// Filters: every word must occur in the row; the team and the remarks narrow further.
const form = document.getElementById("filters");
const cases = document.getElementById("cases");
function filter() {
  const words = form.elements.words.value.toLowerCase().split(/\s+/).filter(Boolean);
  const team = form.elements.team?.value ?? "";
  const remarked = form.elements.remarked.checked;
  let shown = 0;
  for (const row of cases.tBodies[0].rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = !(
      words.every((word) => text.includes(word)) &&
      (team === "" || row.dataset.team === team) &&
      (!remarked || row.hasAttribute("data-remarked"))
    );
    shown += !row.hidden;
  }
  form.elements.count.value = `${shown} of ${cases.tBodies[0].rows.length} shown`;
}
form.addEventListener("input", filter);
form.addEventListener("submit", (event) => event.preventDefault());

// HD95 and volumes are there for those who ask.
function brief() {
  const short = form.elements.more !== undefined && !form.elements.more.checked;
  cases.classList.toggle("brief", short);
  for (const head of cases.querySelectorAll("th.group")) head.colSpan = Number(short ? head.dataset.brief : head.dataset.full);
}
form.elements.more?.addEventListener("change", brief);
form.hidden = false;
form.reset();
brief();
filter();

// Box plots. Each is one stop of the Tab key; the arrow keys go through its cases, Enter goes to the case's row.
const tip = document.getElementById("tip");
function show(point) {
  document.querySelector(".point.shown")?.classList.remove("shown");
  tip.hidden = !point;
  if (!point) return;
  point.classList.add("shown");
  tip.textContent = point.getAttribute("aria-label");
  const box = point.getBoundingClientRect();
  const left = Math.min(box.left - tip.offsetWidth / 2, document.documentElement.clientWidth - tip.offsetWidth - 8);
  tip.style.left = `${Math.max(8, left) + window.scrollX}px`;
  tip.style.top = `${Math.max(8, box.top - tip.offsetHeight - 10) + window.scrollY}px`;
}
function goTo(point) {
  const row = document.getElementById(`case-${point.dataset.row}`);
  if (row.hidden) {
    form.reset();
    filter();
  }
  cases.querySelector("tr.picked")?.classList.remove("picked");
  row.classList.add("picked");
  show(null);
  row.scrollIntoView({ block: "center" });
  row.focus({ preventScroll: true });
}
for (const plot of document.querySelectorAll(".plots svg")) {
  const points = Array.from(plot.querySelectorAll(".point"));
  if (!points.length) continue;
  for (const point of points) {
    // The tip replaces the browser's own, which would show the same text a second later.
    const title = point.querySelector("title");
    point.setAttribute("aria-label", title.textContent);
    point.setAttribute("role", "img");
    point.setAttribute("tabindex", "-1");
    title.remove();
    point.addEventListener("focus", () => show(point));
    point.addEventListener("blur", () => show(null));
  }
  points[0].setAttribute("tabindex", "0");
  plot.addEventListener("keydown", (event) => {
    const here = points.indexOf(document.activeElement);
    const to = {
      ArrowRight: here + 1, ArrowDown: here + 1, ArrowLeft: here - 1, ArrowUp: here - 1,
      Home: 0, End: points.length - 1,
    }[event.key];
    if (here < 0) return;
    if (event.key === "Enter") goTo(points[here]);
    else if (event.key === "Escape") show(null);
    else if (to === undefined) return;
    else {
      const next = points[Math.min(Math.max(to, 0), points.length - 1)];
      points[here].setAttribute("tabindex", "-1");
      next.setAttribute("tabindex", "0");
      next.focus();
    }
    event.preventDefault();
  });
  let touched = null;
  const nearest = (event) => {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(plot.getScreenCTM().inverse());
    let best = null, least = 14 ** 2; // within 14 units of the drawing, so that a finger can pick a point
    for (const point of points) {
      const square = (point.dataset.x - at.x) ** 2 + (point.dataset.y - at.y) ** 2;
      if (square < least) [best, least] = [point, square];
    }
    return best;
  };
  plot.addEventListener("pointermove", (event) => show(nearest(event)));
  plot.addEventListener("pointerleave", () => show(null));
  plot.addEventListener("click", (event) => {
    const point = nearest(event);
    if (!point) return;
    // A mouse has seen the tip already; the first touch of a point shows it, the second goes on.
    if (event.pointerType !== "touch" || point === touched) goTo(point);
    else show(point);
    touched = point;
  });
}

// Worst cases: a slider goes through the slices of each picture, and so does the wheel over it. Whoever scrolls the page
// with the wheel goes on doing so when a picture comes under the pointer.
let scrolled = 0;
window.addEventListener("scroll", () => { scrolled = performance.now(); }, { passive: true });
for (const stack of document.querySelectorAll(".stack")) {
  const slices = stack.querySelectorAll(".slice");
  const slider = stack.querySelector("input");
  if (slices.length < 2) continue;
  const showSlice = () => {
    const slice = slices[slider.value];
    stack.querySelector(".shown").classList.remove("shown");
    slice.classList.add("shown");
    stack.querySelector(".number").textContent = slice.dataset.number;
    slider.setAttribute("aria-valuetext", `slice ${slice.dataset.number}`);
  };
  slider.hidden = false;
  slider.value = slider.defaultValue;
  slider.addEventListener("input", showSlice);
  let turned = 0;
  stack.addEventListener("wheel", (event) => {
    const to = Number(slider.value) + Math.sign(-event.deltaY);
    if (event.ctrlKey || !event.deltaY || to < 0 || to >= slices.length || performance.now() - scrolled < 400) return;
    event.preventDefault();
    // A notch of a wheel is one slice; a touchpad turns in many small steps.
    turned += event.deltaY * (event.deltaMode ? 40 : 1);
    if (Math.abs(turned) < 50) return;
    turned = 0;
    slider.value = to;
    showSlice();
  }, { passive: false });
}
for (const hint of document.querySelectorAll(".scripted")) hint.hidden = false;
