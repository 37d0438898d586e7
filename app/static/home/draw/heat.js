// Heat maps: columns of values as squares, and the legend of a row's scale.
import { LEVELS, classOf, levelOf, short } from "./scale.js";
import { label, svg } from "./svg.js";

/** Gathers columns of squares. All squares of one colour become one path, so that many are quick to draw. */
export function createHeat() {
  const paths = new Map();
  return {
    /** A column of values, the first on top. */
    add(values, { x, y, width, size, bound }) {
      const height = size >= 6 ? size - 1 : size;
      values.forEach((value, k) => {
        const level = levelOf(value, bound);
        if (!paths.has(level)) paths.set(level, []);
        paths.get(level).push(`M${x} ${y + k * size}h${width}v${height}h${-width}z`);
      });
    },
    /** What was gathered, which no pointer sees. */
    element() {
      const pieces = [...paths].map(([level, squares]) => svg("path", { class: classOf(level), d: squares.join("") }));
      return svg("g", { class: "values", "aria-hidden": "true" }, ...pieces);
    },
  };
}

/** The whole scale from below to above, `width` wide. */
export function ramp(x, y, width, height) {
  const step = width / (2 * LEVELS + 1);
  const pieces = Array.from({ length: 2 * LEVELS + 1 }, (_, k) =>
    svg("rect", { class: classOf(k - LEVELS), x: x + k * step, y, width: step + 0.3, height }),
  );
  return svg("g", {}, ...pieces);
}

/** The legend of a row: the scale, and where it ends. */
export function legend(x, y, width, bound) {
  return svg(
    "g",
    {},
    ramp(x, y, width, 7),
    label(x, y + 18, short(-bound), "small", "start"),
    label(x + width, y + 18, short(bound), "small", "end"),
  );
}
