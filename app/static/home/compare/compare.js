// Runs beside each other: what comes out of each at every step of the same sequence, on one scale.
import { boundOf, short } from "../draw/scale.js";
import { html } from "../draw/elements.js";
import { chart } from "./chart.js";
import { mapOf } from "./map.js";

/** Wires the section. `beside(names)` is told the cells that are wanted; `keep()` and `forget()` what was pressed. */
export function createComparison({ choices, compared, keep, forget }, { beside, onKeep, onForget }) {
  choices.addEventListener("change", () => beside([...choices.querySelectorAll(":checked")].map((box) => box.value)));
  keep.addEventListener("click", onKeep);
  forget.addEventListener("click", onForget);

  return {
    /** A box for each cell but the one that is run; none for a registered model. */
    offer(cells, { cell, model, beside: chosen }) {
      const boxes = model ? [] : cells.filter((name) => name !== cell);
      const there = [...choices.querySelectorAll("input")];
      if (there.map(({ value }) => value).join() === boxes.join()) {
        for (const box of there) box.checked = chosen.includes(box.value);
        return; // whoever has the focus on one keeps it
      }
      choices.replaceChildren(
        ...boxes.map((name) =>
          html(
            "label",
            {},
            html("input", {
              type: "checkbox",
              value: name,
              id: `beside-${name}`,
              checked: chosen.includes(name) && "",
            }),
            ` ${name}`,
          ),
        ),
      );
    },
    /** Draws runs, [{label, run}], of a sequence; nothing where there is but one. `unit` is followed through time. */
    render(runs, row, unit, kept) {
      forget.hidden = !kept;
      const series = runs.map(({ label, run }) => seriesOf(label, run, row)).filter(Boolean);
      compared.hidden = series.length < 2;
      if (compared.hidden) return;
      const bound = boundOf(series.flatMap(({ outputs }) => outputs));
      const steps = Math.max(...series.map((one) => one.outputs.length));
      const of = Math.min(unit, ...series.map((one) => one.outputs[0].length - 1));
      compared.replaceChildren(
        html("div", { class: "maps" }, ...series.map((one) => mapOf(one, steps, bound))),
        html(
          "div",
          { class: "charts" },
          chart(
            `Output ${of + 1}, step by step`,
            series.map((one) => lineOf(one, (values) => values[of])),
          ),
          chart(
            "Length ‖h‖ of the output, step by step",
            series.map((one) => lineOf(one, lengthOf)),
          ),
        ),
        tableOf(series, of),
      );
    },
  };
}

/** What a run is called. */
export function labelOf({ settings, answer }) {
  const { num_layers: layers, num_units: units } = answer.model;
  const size = units.every((one) => one === units[0]) ? `${layers} × ${units[0]}` : units.join(", ");
  const way = settings.direction === "forward" || settings.model ? "" : `, ${settings.direction}`;
  return settings.model ? `${settings.model} (${size})` : `${settings.cell} (${size}, seed ${settings.seed}${way})`;
}

/** The outputs of a run's sequence at its real steps; null where it has no such sequence, or no steps in it. */
function seriesOf(label, { answer }, row) {
  const outputs = answer.outputs.values[row]?.slice(0, answer.lengths[row]);
  return outputs?.length ? { label, outputs } : null;
}

function lineOf({ label, outputs }, read) {
  return { label, values: outputs.map(read) };
}

function lengthOf(values) {
  return Math.hypot(...values);
}

/** The same numbers, for whoever reads rather than sees. */
function tableOf(series, of) {
  const steps = Math.max(...series.map((one) => one.outputs.length));
  const head = series.map(({ label }) => html("th", { scope: "col" }, label));
  const cell = ({ outputs }, t) => {
    const value = outputs[t]?.[of];
    return html("td", {}, value === undefined ? "" : html("data", { value: String(value) }, short(value, 4)));
  };
  const rows = Array.from({ length: steps }, (_, t) =>
    html("tr", {}, html("th", { scope: "row" }, `${t + 1}`), ...series.map((one) => cell(one, t))),
  );
  return html(
    "details",
    {},
    html("summary", {}, `Output ${of + 1} as numbers`),
    html(
      "div",
      { class: "numbers" },
      html(
        "table",
        {},
        html("thead", {}, html("tr", {}, html("th", { scope: "col" }, "step"), ...head)),
        html("tbody", {}, ...rows),
      ),
    ),
  );
}
