// The boxes of the picture: cell calls, padded steps, states at the ends, inputs and outputs.
import { label, svg } from "./elements.js";
import { noted } from "./readings.js";

/** A call of the cell, with its new state. */
export function cellBox(heat, at, call, corner, bound) {
  const way = call.both ? `, ${call.direction}` : "";
  const name = `Layer ${call.layer}${way}, step ${call.step}`;
  const element = svg(
    "g",
    {
      class: "cell",
      role: "button",
      tabindex: "-1",
      "aria-pressed": "false",
      "aria-label": name,
      "data-layer": call.layer,
      "data-direction": call.direction,
      "data-step": call.step,
      "data-tick": call.tick,
    },
    frameOf("box", at, corner, at.close ? 4 : 7),
    ...stateColumns(heat, at, call.after, corner, bound),
  );
  return noted(element, readingOf(name, at, call.after, corner));
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
    frameOf("hollow", at, corner, at.close ? 4 : 7),
    ...(at.close ? [] : [label(middle, y - 3, "not", "small"), label(middle, y + 9, "computed", "small")]),
  );
}

/** The initial or the final state of a lane. */
export function stateBox(heat, at, state, name, layer, corner, bound) {
  const told = `Layer ${layer.number}, ${name} state`;
  const element = svg(
    "g",
    { class: `end ${name}`, role: "img", "aria-label": told },
    frameOf("box", at, corner, at.close ? 12 : 20),
    ...stateColumns(heat, at, state, corner, bound),
    label(corner.x + at.box.width / 2, corner.y + at.box.height + 13, name, "small"),
  );
  return noted(element, readingOf(told, at, state, corner));
}

/** The values that go in below a step, or come out above it; null for padding. */
export function strip(heat, at, values, place, bound, t, kind) {
  const { y, height } = place;
  const x = at.column(t) + (at.box.width + at.shift - at.strip) / 2;
  const told = `${kind} at step ${t + 1}`;
  if (values) {
    heat.add(values.slice(0, at.drawn(values.length)), { x, y, width: at.strip, size: at.size, bound });
    const element = svg(
      "g",
      { class: "strip", role: "img", "aria-label": told },
      svg("rect", { class: "frame", x: x - 0.5, y: y - 0.5, width: at.strip + 1, height: height + 1 }),
    );
    return noted(element, {
      name: told,
      columns: [{ name: kind === "Input" ? "x" : "", values }],
      top: y,
      size: at.size,
    });
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

/** The token that goes in below a step, or the likeliest one that comes out above it. */
export function tokenBox(at, text, place, t, kind) {
  const middle = at.column(t) + (at.box.width + at.shift) / 2;
  const room = at.close ? 3 : 8;
  const short = text.length > room ? `${text.slice(0, room - 1)}…` : text;
  return svg(
    "g",
    { class: "token", role: "img", "aria-label": `${kind} at step ${t + 1}: ${text}` },
    svg("title", {}, text),
    label(middle, place.y + place.height / 2 + 5, short.trim() ? short : "␣", "word"),
  );
}

function readingOf(name, at, state, corner) {
  const columns = Object.keys(state)
    .toSorted()
    .map((part) => ({ name: part, values: state[part] }));
  return { name, columns, top: corner.y + at.letters + 2, size: at.size };
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
    return at.close ? null : label(left + at.strip / 2, y + at.letters - 3, name, "letter");
  });
}
