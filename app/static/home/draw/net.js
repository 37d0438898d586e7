// The picture: time to the right, layers upward, a box a cell call.
import { nameOf } from "../batch/tokens.js";
import { cellBox, hollowBox, stateBox, strip, tokenBox } from "./boxes.js";
import { geometryOf } from "./geometry.js";
import { createHeat, legend } from "./heat.js";
import { linesOf } from "./lines.js";
import { boundOf } from "./scale.js";
import { label, svg } from "./elements.js";

const NAMES = { width: 104, legend: 88 };

/**
 * Draws a trace: the rows' names, the net and its values, in elements that lie on each other, and room for veils.
 * `colours` are those of the levels. Returns the geometry it used.
 */
export function drawNet({ rows, net, heat: canvas, veils }, trace, { first, room, colours }) {
  const at = geometryOf(trace, first, room);
  const bounds = boundsOf(trace);
  const heat = createHeat();
  size(rows, NAMES.width, at.height);
  size(net, at.width, at.height);
  size(veils, at.width, at.height);
  rows.replaceChildren(...rowNames(trace, at, bounds));
  net.replaceChildren(
    ...pastTheEnd(trace, at),
    ...linesOf(trace, at),
    ...trace.layers.flatMap((layer, k) => layerBoxes(heat, at, layer, at.layers[k], bounds.layers[k])),
    ...stepsOf(at).flatMap((t) => inAndOut(heat, trace, at, t, bounds)),
    ...axis(trace, at),
  );
  heat.paint(canvas, at, colours);
  veils.replaceChildren();
  return at;
}

function size(element, width, height) {
  element.setAttribute("width", width);
  element.setAttribute("height", height);
}

function stepsOf(at) {
  return Array.from({ length: at.count }, (_, k) => at.first + k);
}

/** Where each row's scale ends: one for what can be compared. */
function boundsOf(trace) {
  const states = (lane) => [lane.final, ...lane.calls.filter(Boolean).map((call) => call.after)].flatMap(Object.values);
  return {
    inputs: boundOf((trace.inputs ?? []).slice(0, trace.length)),
    outputs: boundOf(trace.outputs),
    layers: trace.layers.map((layer) => boundOf(layer.lanes.flatMap(states))),
  };
}

/** What stands to the left of the rows, and does not scroll. */
function rowNames(trace, at, bounds) {
  const row = (name, place, bound, more = null) => {
    const middle = place.y + place.height / 2;
    return [
      label(0, middle - 8, name, "row", "start"),
      ...(more ? [label(0, middle + 7, more, "small", "start")] : []),
      ...(bound === null ? [] : [legend(0, middle + (more ? 14 : 2), NAMES.legend, bound)]),
    ];
  };
  const layerNames = at.layers.flatMap((place, k) =>
    row(
      `Layer ${place.number}`,
      place,
      bounds.layers[k],
      `${trace.layers[k].cell.name}: ${Object.keys(trace.layers[k].lanes[0].final).toSorted().join(" and ")}`,
    ),
  );
  return [
    ...row("Outputs", at.outputs, bounds.outputs),
    ...layerNames,
    ...at.layers.flatMap((place, k) => laneNames(at, place, trace.layers[k].lanes)),
    ...row(trace.tokens ? "Tokens" : "Inputs", at.inputs, trace.tokens ? null : bounds.inputs),
    label(0, at.axis + 4, "Time step", "row", "start"),
  ];
}

function laneNames(at, place, lanes) {
  if (lanes.length === 1)
    return lanes[0].direction === "forward" ? [] : [label(0, place.y + 4, "← backward", "small", "start")];
  return [
    label(0, at.corner(place, 1, 0).y + 4, "← backward", "small", "start"),
    label(0, at.corner(place, 0, 0).y + at.box.height + 4, "→ forward", "small", "start"),
  ];
}

/** The ground under the steps that are padding. */
function pastTheEnd(trace, at) {
  const begin = Math.max(trace.length, at.first);
  if (begin >= at.first + at.count) return [];
  const x = at.column(begin) - 12;
  const end = at.column(at.first + at.count - 1) + at.box.width + at.shift + 12;
  return [svg("rect", { class: "past", x, y: 0, width: end - x, height: at.height, rx: 8 })];
}

function axis(trace, at) {
  const middle = (t) => at.column(t) + (at.box.width + at.shift) / 2;
  const numbers = stepsOf(at).map((t) =>
    label(middle(t), at.axis + 4, `${t + 1}`, t < trace.length ? "step" : "step gone"),
  );
  const begin = Math.max(trace.length, at.first);
  if (begin >= at.first + at.count) return numbers;
  const words = begin + 1 < at.first + at.count ? "past the end: not computed" : "past the end";
  return [...numbers, label(at.column(begin), at.axis + 22, words, "small", "start")];
}

/** The boxes of one layer, and its states at the ends. */
function layerBoxes(heat, at, layer, place, bound) {
  return layer.lanes.flatMap((lane, side) => {
    const boxes = stepsOf(at).map((t) => {
      const corner = at.corner(place, side, at.column(t));
      const call = lane.calls[t];
      return call ? cellBox(heat, at, call, corner, bound) : hollowBox(at, layer, t, corner);
    });
    const [left, right] = lane.direction === "forward" ? ["initial", "final"] : ["final", "initial"];
    return [
      stateBox(heat, at, lane[left], left, layer, at.corner(place, side, at.left), bound),
      ...boxes,
      stateBox(heat, at, lane[right], right, layer, at.corner(place, side, at.end), bound),
    ];
  });
}

/** A step's input below and its output above. */
function inAndOut(heat, trace, at, t, bounds) {
  const real = (rows) => (t < trace.length ? rows[t] : null);
  return [
    strip(heat, at, real(trace.outputs), at.outputs, bounds.outputs, t, "Output"),
    trace.tokens && t < trace.length
      ? tokenBox(at, nameOf(trace.tokens[t], trace.vocabulary), at.inputs, t, "Token")
      : strip(heat, at, trace.tokens ? null : real(trace.inputs), at.inputs, bounds.inputs, t, "Input"),
  ];
}
