"use strict";

// Reads points of the charts, and filters the outputs. It inserts text alone, and keeps nothing.

const search = () => document.getElementById("search");
const choice = () => document.getElementById("filter");

function filterOutputs() {
  if (!search()) return;
  const words = search().value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const item of document.querySelectorAll(".wall article")) {
    const text = item.textContent.toLowerCase();
    const kind = choice().value;
    const fits = (!kind || item.dataset.change === kind) && words.every((word) => text.includes(word));
    item.hidden = !fits;
    shown += fits;
  }
  showFirst(!words.length && !choice().value);
  document.getElementById("count").textContent = words.length || choice().value ? `${shown} found` : "";
  document.querySelector(".none").hidden = shown > 0;
}

// Long walls begin with their first prompts; whoever searches sees all.
let all = false;

function showFirst(wanted) {
  const wall = document.querySelector(".wall");
  const button = document.getElementById("all");
  if (!wall) return;
  const long = wanted && !all && wall.children.length > 24;
  wall.classList.toggle("first", long);
  button.hidden = !long;
}

function dotsOf(svg) {
  return [...svg.querySelectorAll(".dot[data-x]")].sort((a, b) => a.dataset.x - b.dataset.x);
}

function readPoint(svg, dot) {
  const readout = svg.closest("figure").querySelector(".readout");
  const cross = svg.querySelector(".cross");
  const x = dot ? dot.dataset.x : -9;
  cross.setAttribute("x1", x);
  cross.setAttribute("x2", x);
  cross.toggleAttribute("hidden", !dot);
  readout.textContent = dot ? dot.textContent : "";
}

function nearest(svg, x) {
  let best = null;
  for (const dot of dotsOf(svg)) {
    if (!best || Math.abs(dot.dataset.x - x) < Math.abs(best.dataset.x - x)) best = dot;
  }
  return best;
}

document.addEventListener("input", (event) => {
  if (event.target.closest(".controls")) filterOutputs();
});

document.addEventListener("click", (event) => {
  if (event.target.id !== "all") return;
  all = true;
  showFirst(false);
});

showFirst(true);

document.addEventListener("submit", (event) => event.preventDefault());

document.addEventListener("pointermove", (event) => {
  const svg = event.target.closest?.(".plot svg");
  if (!svg) return;
  const box = svg.getBoundingClientRect();
  readPoint(svg, nearest(svg, (1000 * (event.clientX - box.left)) / box.width));
});

document.addEventListener("pointerout", (event) => {
  const svg = event.target.closest?.(".plot svg");
  if (svg && !svg.contains(event.relatedTarget)) readPoint(svg, null);
});

document.addEventListener("keydown", (event) => {
  const svg = event.target.closest?.(".plot svg");
  if (!svg || !["ArrowLeft", "ArrowRight", "Home", "End", "Escape"].includes(event.key)) return;
  event.preventDefault();
  const dots = dotsOf(svg);
  const at = Number(svg.querySelector(".cross").getAttribute("x1"));
  const next = dots.findIndex((dot) => Number(dot.dataset.x) > at);
  const before = dots.findLastIndex((dot) => Number(dot.dataset.x) < at);
  const places = { ArrowRight: next < 0 ? dots.length - 1 : next, ArrowLeft: Math.max(before, 0) };
  Object.assign(places, { Home: 0, End: dots.length - 1, Escape: -1 });
  readPoint(svg, dots[places[event.key]] ?? null);
});
