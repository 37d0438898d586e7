// The picture in the page: drawn anew when its trace changes; a click or Enter selects a cell, arrow keys walk.
import { DRAWN } from "./draw/geometry.js";
import { drawNet } from "./draw/net.js";
import { lift } from "./draw/veils.js";

const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [1, 0], ArrowDown: [-1, 0] };

/** Wires the picture's elements. `select(place)` is told what was chosen, `turn(first)` where to begin to draw. */
export function createPicture(page, { select, turn }) {
  const { net, key, scroll, told, earlier, later } = page;
  let drawn = null;
  let shown = null;
  let marked = null;
  let made = null;

  net.addEventListener("click", (event) => choose(event.target.closest(".cell")));
  net.addEventListener("keydown", (event) => {
    const cell = event.target.closest(".cell");
    if (!cell) return;
    if (event.key === "Enter" || event.key === " ") choose(cell, true);
    else if (event.key in STEPS) neighbour(cell, STEPS[event.key])?.focus();
    else return;
    event.preventDefault();
  });
  net.addEventListener("focusin", (event) => rove(event.target.closest(".cell")));
  earlier.addEventListener("click", () => turn(Math.max(0, drawn.first - DRAWN.steps)));
  later.addEventListener("click", () => turn(drawn.first + DRAWN.steps));

  function choose(cell, byKey = false) {
    if (cell) select(placeOf(cell), byKey);
  }

  /** The cell that many lanes and steps away. */
  function neighbour(cell, [up, right]) {
    const { layer, direction, step } = placeOf(cell);
    const lanes = [...new Set([...net.querySelectorAll(".cell")].map(laneOf))].toSorted();
    const lane = lanes[lanes.indexOf(laneOf(cell)) + up] ?? laneOf(cell);
    if (!up) return find({ layer, direction, step: step + right });
    const [to, side] = lane.split(" ");
    return find({ layer: Number(to), direction: side === "0" ? "forward" : "backward", step });
  }

  function find({ layer, direction, step }) {
    return net.querySelector(`.cell[data-layer="${layer}"][data-direction="${direction}"][data-step="${step}"]`);
  }

  /** One cell alone is in the tab order: the one that had the focus last. */
  function rove(cell) {
    if (!cell) return;
    for (const other of net.querySelectorAll('.cell[tabindex="0"]')) other.setAttribute("tabindex", "-1");
    cell.setAttribute("tabindex", "0");
  }

  /** One drawing, for the width that there is. */
  function draw(trace, first) {
    const focused = document.activeElement?.closest?.(".cell");
    const place = focused && net.contains(focused) ? placeOf(focused) : null;
    shown = { trace, first, room: scroll.clientWidth };
    const colours = [...key.querySelectorAll(".heat")].map((one) => getComputedStyle(one).fill);
    drawn = drawNet(page, trace, { first, room: shown.room, colours });
    rove(net.querySelector(".cell"));
    if (marked) mark(marked);
    lift(page, made, trace, drawn);
    if (place) find(place)?.focus();
    told.textContent = wordsOf(trace, drawn);
    const last = drawn.first + drawn.count;
    page.pager.hidden = drawn.count === trace.steps;
    earlier.disabled = drawn.first === 0;
    later.disabled = last === trace.steps;
    page.pagerTold.textContent = `Steps ${drawn.first + 1} to ${last} of ${trace.steps} are drawn.`;
    scroll.setAttribute("tabindex", drawn.width > shown.room ? "0" : "-1");
  }

  /** Shows which cell is selected. */
  function mark(place) {
    marked = place;
    for (const cell of net.querySelectorAll('.cell[aria-pressed="true"]')) cell.setAttribute("aria-pressed", "false");
    const cell = find(place);
    cell?.setAttribute("aria-pressed", "true");
    rove(cell);
  }

  /** Shows the first `tick` calls of every lane as made, and the others as to come; null: all are made. */
  function step(tick) {
    made = tick;
    lift(page, tick, shown.trace, drawn);
    const now = net.querySelector(".cell.now");
    if (now) reveal(now);
  }

  /** Scrolls the picture, and not the page, to where a cell can be seen. */
  function reveal(cell) {
    const [box, room] = [cell.getBoundingClientRect(), scroll.getBoundingClientRect()];
    if (box.left < room.left || box.right > room.right) scroll.scrollLeft += box.left - room.left - room.width / 3;
  }

  const resized = new ResizeObserver(() => {
    if (shown && scroll.clientWidth !== shown.room) draw(shown.trace, shown.first);
  });
  resized.observe(scroll);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  dark.addEventListener("change", () => shown && draw(shown.trace, shown.first)); // a canvas keeps its colours

  return {
    draw,
    mark,
    step,
    focus: (place) => find(place)?.focus(),
  };
}

function placeOf(cell) {
  return { layer: Number(cell.dataset.layer), direction: cell.dataset.direction, step: Number(cell.dataset.step) };
}

/** A lane's name, which sorts from the lowest one up. */
function laneOf(cell) {
  return `${cell.dataset.layer} ${cell.dataset.direction === "forward" ? 0 : 1}`;
}

function wordsOf(trace, drawn) {
  const layers = trace.layers.length;
  const lanes = trace.layers.reduce((sum, layer) => sum + layer.lanes.length, 0);
  const ways = lanes === 2 * layers ? " × 2 directions" : "";
  const calls = trace.length * lanes;
  const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
  const padded = trace.steps - trace.length;
  const cut = Math.max(trace.outputs[0]?.length ?? 0, ...trace.layers.map((layer) => layer.lanes[0].final.h.length));
  return [
    `Sequence ${trace.row + 1}: ${plural(trace.length, "step")} × ${plural(layers, "layer")}${ways} = ` +
      `${plural(calls, "cell call")}.`,
    padded ? `${plural(padded, "step")} of padding, not computed.` : "No padding.",
    cut > DRAWN.values ? `The first ${DRAWN.values} of ${cut} values are drawn.` : "",
    "Click a box for its numbers.",
  ]
    .filter(Boolean)
    .join(" ");
}
