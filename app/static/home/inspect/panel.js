// The inspector: one cell call, what came in, what each gate let through, what went out, and how that was computed.
import { boundOf } from "../draw/scale.js";
import { html } from "../draw/elements.js";
import { sumsOf } from "../run/weights.js";
import { linesOf } from "./equations.js";
import { formulas } from "./formula.js";
import { table } from "./table.js";

/** The letters of the equations for the gates that /run names. */
const LETTERS = {
  lstm: { input: "i", forget: "f", candidate: "g", output: "o" },
  gru: { reset: "r", update: "z", candidate: "n" },
};

/** Wires the inspector. `choose(unit)` is told whose numbers stand in the equations; `leave()` that Escape was hit. */
export function createPanel({ panel, title, told, numbers, unit, exact, equations, options }, { choose, leave }) {
  let drawn = null;
  unit.addEventListener("change", () => choose(Number(unit.value) - 1));
  exact.addEventListener("change", () => drawn && show(...drawn));
  panel.addEventListener("keydown", (event) => event.key === "Escape" && leave());
  numbers.addEventListener("click", (event) => {
    const row = event.target.closest(".units tr[data-unit]");
    if (row) choose(Number(row.dataset.unit));
  });

  /** Fills it with a call of a trace; hides it where there is none. */
  function show(trace, call, wanted) {
    drawn = [trace, call, wanted];
    panel.hidden = call === null;
    if (call === null) return;
    const layer = trace.layers[call.layer - 1];
    const chosen = Math.min(wanted, call.after.h.length - 1, (call.after.c ?? call.after.h).length - 1);
    title.textContent = `Layer ${call.layer}${call.both ? `, ${call.direction}` : ""}, step ${call.step}`;
    told.textContent = wordsOf(trace, call);
    fillUnits(unit, call.after.h.length, chosen);
    const digits = { exact: exact.checked, marked: chosen };
    numbers.replaceChildren(
      inputTable(trace, call, { exact: exact.checked }),
      html("div", { class: "units" }, unitTable(call, boundOfStates(layer), digits)),
    );
    equations.replaceChildren(formulas(linesOf(call, chosen, sumsOf(layer, call, chosen))));
    options.replaceChildren(...call.cell.equations.map((line) => html("li", {}, html("code", {}, line))));
  }

  return { show, focus: () => title.focus() };
}

function fillUnits(unit, count, chosen) {
  if (unit.options.length !== count) {
    unit.replaceChildren(...Array.from({ length: count }, (_, k) => html("option", {}, `${k + 1}`)));
  }
  unit.value = String(chosen + 1);
}

function wordsOf(trace, call) {
  const below = call.layer === 1 ? "the features of this step" : `what layer ${call.layer - 1} put out at this step`;
  const before = call.from === null ? "the initial state" : `the state after step ${call.from}`;
  const next = call.step + (call.direction === "forward" ? 1 : -1);
  const on = next >= 1 && next <= trace.length ? `goes on to step ${next}` : "is the final one";
  const up = call.layer < trace.layers.length ? `layer ${call.layer + 1}` : "the net’s outputs";
  return `It reads ${below} and ${before}. Its new state ${on}; its output goes up to ${up}.`;
}

function inputTable(trace, call, shown) {
  if (!call.input)
    return html("p", { class: "note" }, "Its input is a token’s row of the embedding, which /run does not tell.");
  const bound = boundOf(call.layer === 1 ? trace.inputs : [call.input]);
  const name = call.layer === 1 ? "feature" : "value";
  return table(
    "Came in: x",
    [
      { name, group: "" },
      { name: "x", group: "input", values: call.input, bound },
    ],
    shown,
  );
}

/** A row a unit: the state before, the gates, the state after. */
function unitTable(call, bound, shown) {
  const letters = LETTERS[call.cell.name] ?? {};
  const states = (state, group, mark) =>
    Object.keys(state)
      .toSorted()
      .map((name) => ({ name: `${name}${mark}`, group, values: state[name], bound }));
  const gates = call.cell.gates.map((gate) => ({
    name: gate,
    letter: letters[gate],
    group: "gates",
    values: call.gates[gate],
    bound: 1,
  }));
  const columns = [...states(call.before, "previous state", ""), ...gates, ...states(call.after, "new state", "′")];
  return table("Every unit", [{ name: "unit", group: "" }, ...columns], shown);
}

/** Where the scale of a layer's states ends: the same in the picture. */
function boundOfStates(layer) {
  const states = layer.lanes.flatMap((lane) => [lane.initial, ...lane.calls.filter(Boolean).map((call) => call.after)]);
  return boundOf(states.flatMap(Object.values));
}
