// The sequences of a batch: which one is shown, how long each is, and a bar of its real and padded steps.
import { html, svg } from "../draw/elements.js";

const SQUARES = { width: 108, most: 12 };

/** Wires the list of sequences in `element`. */
export function createRows(element) {
  let rows = [];

  /** As many rows as there are lengths; they are only for reading where the lengths follow from what is typed. */
  function fill(lengths, shown, { fixed }) {
    if (rows.length !== lengths.length) {
      rows = lengths.map(rowOf);
      element.replaceChildren(...rows.map((row) => row.element));
    }
    rows.forEach(({ input, radio }, k) => {
      radio.checked = k === shown;
      input.readOnly = fixed;
      if (document.activeElement !== input) input.value = lengths[k] ?? "";
    });
  }

  /** Draws the steps of every row. */
  function sketch(lengths, maxTime) {
    rows.forEach(({ bar, padding }, k) => {
      const length = Math.max(0, Math.min(lengths[k] ?? 0, maxTime));
      sketchSteps(bar, length, maxTime);
      padding.textContent = maxTime > length ? `+ ${maxTime - length} padding` : "";
    });
  }

  return {
    fill,
    sketch,
    /** The lengths as they are typed; null for an empty field, which the service names. */
    lengths: () => rows.map(({ input }) => (input.value === "" ? null : Number(input.value))),
  };
}

function rowOf(length, k) {
  const id = `length-${k}`;
  const radio = html("input", { type: "radio", name: "shown", value: k, id: `shown-${k}` });
  const input = html("input", { id, type: "number", min: 0, step: 1, value: length, "data-field": `lengths/${k}` });
  const bar = svg("svg", { class: "steps", height: 12, "aria-hidden": "true" });
  const padding = html("span", { class: "note" });
  const element = html(
    "div",
    { class: "field sequence" },
    radio,
    html("label", { for: `shown-${k}` }, `Sequence ${k + 1}`),
    html("label", { for: id, class: "inner" }, "length", html("span", { class: "hidden" }, ` of sequence ${k + 1}`)),
    input,
    bar,
    padding,
  );
  return { element, radio, input, bar, padding };
}

/** A square a step, filled where it is real; of a long sequence, one bar of either kind. */
function sketchSteps(bar, length, maxTime) {
  const [parts, each] = maxTime <= SQUARES.most ? [maxTime, 1] : [2, 0];
  const unit = SQUARES.width / Math.max(maxTime, 6);
  const begin = (k) => (each ? k : k * length) * unit;
  const end = (k) => (each ? k + 1 : k ? maxTime : length) * unit;
  const pieces = Array.from({ length: parts }, (_, k) => {
    const real = each ? k < length : k === 0;
    const width = Math.max(0, end(k) - begin(k) - 3);
    return svg("rect", { class: real ? "real" : "hollow", x: begin(k) + 1, y: 1, width, height: 10, rx: 2 });
  });
  bar.setAttribute("width", SQUARES.width);
  bar.replaceChildren(...pieces);
}
