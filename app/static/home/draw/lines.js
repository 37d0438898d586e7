// The lines of the picture: outputs go up, states go from step to step.
import { svg } from "./elements.js";

/** All lines for a trace, as three groups of paths: up, states, and states that are kept past the end. */
export function linesOf(trace, at) {
  const up = createLines();
  const states = createLines("state");
  const kept = createLines("state kept");
  for (let t = at.first; t < Math.min(trace.length, at.first + at.count); t += 1) linesUp(up, at, t);
  trace.layers.forEach((layer, k) => {
    layer.lanes.forEach((lane, side) => stateLines(states, kept, trace, at, at.layers[k], lane.direction, side));
  });
  return [up.element(), kept.element(), states.element(true)];
}

/** Gathers lines of one kind. */
function createLines(classes = "") {
  const lines = [];
  const heads = [];
  return {
    /** A line along points [[x, y], …], with a head at its end, which its last piece reaches along an axis. */
    add(points, headed = true) {
      const [[fromX, fromY], [x, y]] = points.slice(-2);
      const [dx, dy] = [Math.sign(x - fromX), Math.sign(y - fromY)];
      const [baseX, baseY] = [x - 7 * dx, y - 7 * dy];
      const drawn = headed ? [...points.slice(0, -1), [baseX, baseY]] : points;
      lines.push(`M${drawn.map((point) => point.join(" ")).join("L")}`);
      const [aside, down] = [3.5 * dy, 3.5 * dx];
      if (headed) heads.push(`M${x} ${y}L${baseX - aside} ${baseY - down}L${baseX + aside} ${baseY + down}Z`);
    },
    /** What was gathered; with a halo, where it crosses what was drawn before. */
    element(halo = false) {
      return svg(
        "g",
        { class: "lines", "aria-hidden": "true" },
        halo ? svg("path", { class: "halo", d: lines.join("") }) : null,
        svg("path", { class: `line ${classes}`, d: lines.join("") }),
        svg("path", { class: `head ${classes}`, d: heads.join("") }),
      );
    },
  };
}

/** From a step's input up through all layers to its output. */
function linesUp(lines, at, t) {
  const x = at.column(t);
  const center = x + (at.box.width + at.shift) / 2;
  const top = at.outputs.y + at.outputs.height + 3;
  at.layers.forEach((place, k) => {
    const bottom = place.y + place.height;
    const below = (k ? at.layers[k - 1].y - at.merge : at.inputs.y) - 2;
    const last = k + 1 === at.layers.length;
    if (at.lanes === 1) {
      lines.add([
        [center, below],
        [center, bottom + 2],
      ]);
      if (last)
        lines.add([
          [center, place.y - 2],
          [center, top],
        ]);
    } else {
      fork(lines, at, place, { x, center, below });
      if (last)
        lines.add([
          [center, place.y - at.merge],
          [center, top],
        ]);
    }
  });
}

/** Into both directions' boxes, the backward one by way of the right; and out of them, joined. */
function fork(lines, at, place, { x, center, below }) {
  const { box, shift } = at;
  const [bottom, parting, join] = [place.y + place.height, below - 12, place.y - at.merge];
  const [into, past] = [x + box.width / 2 - 8, x + box.width + shift / 2];
  lines.add([
    [center, below],
    [center, parting],
    [into, parting],
    [into, bottom + 2],
  ]);
  lines.add([
    [center, parting],
    [past, parting],
    [past, place.y + box.height + 2],
  ]);
  const [left, right] = [x + shift / 2, x + shift + box.width / 2 + 8];
  lines.add(
    [
      [left, bottom - box.height],
      [left, join],
      [center, join],
    ],
    false,
  );
  lines.add(
    [
      [right, place.y],
      [right, join],
      [center, join],
    ],
    false,
  );
}

/** From one end of a lane to the other, through its cells, in the direction in which they read. */
function stateLines(states, kept, trace, at, place, direction, side) {
  const y = at.corner(place, side, 0).y + at.box.height / 2;
  const left = (t) => at.column(t) + side * at.shift;
  const right = (t) => left(t) + at.box.width;
  const last = Math.min(trace.length, at.first + at.count) - 1;
  const add = (lines, from, to) => {
    const points = [
      [from, y],
      [to, y],
    ];
    lines.add(direction === "forward" ? points : points.toReversed());
  };
  let from = at.corner(place, side, at.left).x + at.box.width;
  for (let t = at.first; t <= last; t += 1) {
    add(t === at.first && t > 0 ? kept : states, from, left(t));
    from = right(t);
  }
  const adjoins = last === trace.steps - 1 && last >= at.first;
  add(adjoins ? states : kept, from, at.corner(place, side, at.end).x);
}
