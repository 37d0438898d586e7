// Heat maps: columns of values as squares, and the legend of a row's scale.
import { LEVELS, classOf, levelOf, short } from "./scale.js";
import { label, svg } from "./elements.js";

/** Gathers columns of squares, to be drawn all at once. */
export function createHeat() {
  const squares = Array.from({ length: 2 * LEVELS + 1 }, () => []); // by level: x, y, width, height, x, …
  return {
    /** A column of values, the first on top. */
    add(values, { x, y, width, size, bound }) {
      const height = size >= 6 ? size - 1 : size;
      values.forEach((value, k) => squares[levelOf(value, bound) + LEVELS].push(x, y + k * size, width, height));
    },
    /** What was gathered as one path a colour, for few squares: they print and scale. */
    element() {
      const pieces = squares.flatMap((list, k) => (list.length ? [pathOf(list, k - LEVELS)] : []));
      return svg("g", { class: "values", "aria-hidden": "true" }, ...pieces);
    },
    /** What was gathered on a canvas, for many squares; `colours` by level, from the lowest one. */
    paint(canvas, { width, height }, colours) {
      const scale = width * height > SHARP ? 1 : Math.min(2, window.devicePixelRatio);
      Object.assign(canvas, { width: Math.ceil(width * scale), height: Math.ceil(height * scale) });
      Object.assign(canvas.style, { width: `${width}px`, height: `${height}px` });
      const pen = canvas.getContext("2d");
      pen.scale(scale, scale);
      squares.forEach((list, level) => {
        pen.fillStyle = colours[level];
        for (let k = 0; k < list.length; k += 4) pen.fillRect(list[k], list[k + 1], list[k + 2], list[k + 3]);
      });
    },
  };
}

/** Pixels above which a canvas is no sharper than the page: its memory grows with the square. */
const SHARP = 2_000_000;

function pathOf(list, level) {
  let path = "";
  for (let k = 0; k < list.length; k += 4)
    path += `M${list[k]} ${list[k + 1]}h${list[k + 2]}v${list[k + 3]}h${-list[k + 2]}z`;
  return svg("path", { class: classOf(level), d: path });
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
