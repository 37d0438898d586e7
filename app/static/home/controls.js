// The form: what is typed becomes settings; an error stands beside the field that it points at.
import { html, svg } from "./draw/svg.js";

const SQUARES = { width: 108, most: 12 };

/** Wires the form's fields. `change(settings)` is told each change, `show(row)` which sequence is wanted. */
export function createControls({ form, sequences, general, cell }, { settings, row, change, show }) {
  const rows = settings.lengths.map((length, k) => sequenceOf(length, k, k === row));
  sequences.append(...rows.map(({ element }) => element));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", (event) => {
    if (event.target.name === "shown") show(Number(event.target.value));
    else change(read());
  });

  function read() {
    const fields = [...form.querySelectorAll("[data-field]")];
    const plain = fields.filter(({ dataset }) => !dataset.field.startsWith("lengths/"));
    return {
      ...Object.fromEntries(plain.map((field) => [field.dataset.field, valueOf(field)])),
      lengths: rows.map(({ input }) => valueOf(input)),
    };
  }

  return {
    /** Fills the list of cells, from GET /cells. */
    offer(cells, chosen) {
      const option = (name) => html("option", { selected: name === chosen && "" }, name);
      cell.replaceChildren(...[...cells.keys()].map(option));
    },
    /** Draws the sequences' steps, real and padded. */
    sketch(maxTime) {
      for (const { input, bar, padding } of rows) {
        const length = Math.max(0, Math.min(Number(input.value) || 0, maxTime || 0));
        sketchSteps(bar, length, maxTime || 0);
        padding.textContent = maxTime > length ? `+ ${maxTime - length} padding` : "";
      }
    },
    /** Puts each error beside its field, and what points at none below the form. */
    complain(problem) {
      for (const field of form.querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
      for (const fault of form.querySelectorAll(".field .fault")) fault.remove();
      const homeless = [];
      for (const { pointer, detail } of faultsOf(problem)) {
        const field = form.querySelector(`[data-field="${CSS.escape(pointer.slice(1))}"]`);
        if (!field) {
          homeless.push(detail);
          continue;
        }
        const id = `${field.id}-fault`;
        field.closest("[hidden]")?.removeAttribute("hidden"); // asked for where it is needed
        field.setAttribute("aria-invalid", "true");
        field.setAttribute("aria-describedby", id);
        field.closest(".field").append(html("p", { id, class: "fault", role: "alert" }, sentence(detail)));
      }
      general.textContent = homeless.map(sentence).join(" ");
      general.hidden = !homeless.length;
    },
  };
}

function sequenceOf(length, k, shown) {
  const id = `length-${k}`;
  const radio = { type: "radio", name: "shown", value: k, id: `shown-${k}`, checked: shown && "" };
  const input = html("input", { id, type: "number", min: 0, step: 1, value: length, "data-field": `lengths/${k}` });
  const bar = svg("svg", { class: "steps", height: 12, "aria-hidden": "true" });
  const padding = html("span", { class: "note" });
  const element = html(
    "div",
    { class: "field sequence" },
    html("input", radio),
    html("label", { for: `shown-${k}` }, `Sequence ${k + 1}`),
    html("label", { for: id, class: "inner" }, "length"),
    input,
    bar,
    padding,
  );
  return { element, input, bar, padding };
}

/** [{pointer, detail}] of a problem or null; where it points nowhere, one that does not either. */
function faultsOf(problem) {
  if (!problem) return [];
  return problem.errors.length ? problem.errors : [{ pointer: "", detail: problem.message }];
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

/** A field's value as it goes into the request; an empty number is null, which the service names. */
function valueOf(field) {
  if (field.type === "checkbox") return field.checked;
  if (field.type !== "number") return field.value;
  return field.value === "" ? null : Number(field.value);
}

/** A problem's detail as a sentence; a field's name that begins it stays as it is written in the request. */
function sentence(detail) {
  const text = /^[a-z]+ /.test(detail) ? detail.charAt(0).toUpperCase() + detail.slice(1) : detail;
  return /[.!?]$/.test(text) ? text : `${text}.`;
}
