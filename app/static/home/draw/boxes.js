// The boxes of the picture: cell calls, padded steps, states at the ends, inputs and outputs.
import { label, svg } from "./svg.js";

/** A call of the cell, with its new state. */
export function cellBox(heat, at, call, corner, bound) {
  const way = call.both ? `, ${call.direction}` : "";
  return svg(
    "g",
    {
      class: "cell",
      role: "button",
      tabindex: "-1",
      "aria-pressed": "false",
      "aria-label": `Layer ${call.layer}${way}, step ${call.step}`,
      "data-layer": call.layer,
      "data-direction": call.direction,
      "data-step": call.step,
    },
    frameOf("box", at, corner, 7),
    ...stateColumns(heat, at, call.after, corner, bound),
  );
}

/** A step past the end: no call. */
export function hollowBox(at, layer, t, corner) {
  const middle = corner.x + at.box.width / 2;
  const y = corner.y + at.box.height / 2;
  const told = "not computed: past the end";
  return svg(
    "g",
    { class: "padded", role: "img", "aria-label": `Layer ${layer.number}, step ${t + 1}: ${told}` },
    svg("title", {}, told),
    frameOf("hollow", at, corner, 7),
    label(middle, y - 3, "not", "small"),
    label(middle, y + 9, "computed", "small"),
  );
}

/** The initial or the final state of a lane. */
export function stateBox(heat, at, state, name, layer, corner, bound) {
  return svg(
    "g",
    { class: `end ${name}`, role: "img", "aria-label": `Layer ${layer.number}, ${name} state` },
    svg("title", {}, `${name} state`),
    frameOf("box", at, corner, 20),
    ...stateColumns(heat, at, state, corner, bound),
    label(corner.x + at.box.width / 2, corner.y + at.box.height + 13, name, "small"),
  );
}

/** The values that go in below a step, or come out above it; null for padding. */
export function strip(heat, at, values, place, bound, t, kind) {
  const { y, height } = place;
  const x = at.column(t) + (at.box.width + at.shift - at.strip) / 2;
  const told = `${kind} at step ${t + 1}`;
  if (values) {
    heat.add(values.slice(0, at.drawn(values.length)), { x, y, width: at.strip, size: at.size, bound });
    return svg(
      "g",
      { class: "strip", role: "img", "aria-label": told },
      svg("title", {}, told),
      svg("rect", { class: "frame", x: x - 0.5, y: y - 0.5, width: at.strip + 1, height: height + 1 }),
    );
  }
  const why = kind === "Output" ? "0, past the end" : "padding, not read";
  return svg(
    "g",
    { class: "strip", role: "img", "aria-label": `${told}: ${why}` },
    svg("title", {}, why),
    svg("rect", { class: "hollow", x, y, width: at.strip, height, rx: 3 }),
    kind === "Output" ? label(x + at.strip / 2, y + height / 2 + 4, "0", "small") : null,
  );
}

function frameOf(name, at, { x, y }, rx) {
  return svg("rect", { class: name, x, y, width: at.box.width, height: at.box.height, rx });
}

/** A column for each state, the letter above it. */
function stateColumns(heat, at, state, { x, y }, bound) {
  const names = Object.keys(state).toSorted();
  const width = names.length * at.strip + (names.length - 1) * at.gap;
  const begin = x + (at.box.width - width) / 2;
  return names.map((name, k) => {
    const left = begin + k * (at.strip + at.gap);
    const values = state[name].slice(0, at.drawn(state[name].length));
    heat.add(values, { x: left, y: y + at.letters + 2, width: at.strip, size: at.size, bound });
    return label(left + at.strip / 2, y + at.letters - 3, name, "letter");
  });
}
