// The numbers of one cell call: what came in, what each gate let through, what went out.
import { boundOf, classOf, levelOf, short } from "./draw/scale.js";
import { html } from "./draw/svg.js";

/** What is listed at most. */
const MOST = 256;

/** The letters of the equations of GET /cells for the gates that /run names. */
const LETTERS = {
  lstm: { input: "i", forget: "f", candidate: "g", output: "o" },
  gru: { reset: "r", update: "z", candidate: "n" },
};

/** Fills the panel with a call of a trace; hides it where there is none. */
export function showCall({ panel, title, told, numbers }, trace, call) {
  panel.hidden = call === null;
  if (call === null) return;
  const way = call.both ? `, ${call.direction}` : "";
  title.textContent = `Layer ${call.layer}${way}, step ${call.step}`;
  told.textContent = wordsOf(trace, call);
  numbers.replaceChildren(
    html("div", { class: "tables" }, inputTable(trace, call), unitTable(trace, call)),
    equations(trace.cell),
  );
}

function wordsOf(trace, call) {
  const below = call.layer === 1 ? "the features of this step" : `what layer ${call.layer - 1} put out at this step`;
  const before = call.from === null ? "the initial state, which is 0" : `the state after step ${call.from}`;
  const forward = call.direction === "forward";
  const next = forward ? call.step + 1 : call.step - 1;
  const on = next >= 1 && next <= trace.length ? `goes on to step ${next}` : "is the final one";
  const up = call.layer < trace.layers.length ? `layer ${call.layer + 1}` : "the net's outputs";
  return `It reads ${below} and ${before}. Its new state ${on}; its output goes up to ${up}.`;
}

function inputTable(trace, call) {
  const bound = boundOf(call.layer === 1 ? trace.inputs : [call.input]);
  const name = call.layer === 1 ? "feature" : "value";
  return table("Input x", [{ name, group: "" }, { name: "x", group: "input", values: call.input, bound }]);
}

/** A row a unit: the state before, the gates, the state after, the output. */
function unitTable(trace, call) {
  const letters = LETTERS[trace.cell.name] ?? {};
  const bound = boundOf([...Object.values(call.before), ...Object.values(call.after)]);
  const states = (state, group, mark) =>
    trace.cell.state.map((name) => ({ name: `${name}${mark}`, group, values: state[name], bound }));
  const gates = trace.cell.gates.map((gate) => ({
    name: gate,
    letter: letters[gate],
    group: "gates",
    values: call.gates[gate],
    bound: 1,
  }));
  return table("Every unit", [
    { name: "unit", group: "" },
    ...states(call.before, "previous state", ""),
    ...gates,
    ...states(call.after, "new state", "'"),
    { name: "output", group: "goes up", values: call.output, bound },
  ]);
}

function table(caption, columns) {
  const [first, ...rest] = columns;
  const count = rest[0].values.length;
  const groups = [];
  for (const { group } of columns) {
    if (groups.at(-1)?.group === group) groups.at(-1).span += 1;
    else groups.push({ group, span: 1 });
  }
  const body = Array.from({ length: Math.min(count, MOST) }, (_, k) =>
    html("tr", {}, html("th", { scope: "row" }, `${k + 1}`), ...rest.map((column) => cellOf(column, k))),
  );
  const more = count > MOST ? html("p", { class: "note" }, `The first ${MOST} of ${count} are listed.`) : null;
  return html(
    "div",
    { class: "numbers", tabindex: "0", role: "region", "aria-label": caption },
    html(
      "table",
      {},
      html("caption", {}, caption),
      html(
        "thead",
        {},
        html("tr", {}, ...groups.map(({ group, span }) => html("th", { scope: "colgroup", colspan: span }, group))),
        html("tr", {}, html("th", { scope: "col" }, first.name), ...rest.map(headOf)),
      ),
      html("tbody", {}, ...body),
    ),
    more,
  );
}

function headOf({ name, letter }) {
  return html("th", { scope: "col" }, name, letter ? html("i", {}, ` ${letter}`) : null);
}

function cellOf({ group, name, values, bound }, k) {
  const value = values[k];
  const attributes = { value: String(value), title: String(value), "data-column": `${group} ${name}` };
  return html("td", { class: classOf(levelOf(value, bound)) }, html("data", attributes, short(value, 4)));
}

function equations(cell) {
  const lines = cell.equations.map((line) => html("li", {}, html("code", {}, line)));
  return html(
    "div",
    { class: "equations" },
    html("h3", {}, "What the cell computes"),
    html("ul", {}, ...lines),
    html(
      "p",
      { class: "note" },
      "x is the input, h the previous output, ' marks what is new, ∘ multiplies unit by unit. ",
      "Options such as peepholes and projections are off here.",
    ),
  );
}
