// The form: what is typed becomes settings; an error stands beside the field that it points at.
import { randomLengths } from "./batch/batch.js";
import { createRows } from "./batch/rows.js";
import { html } from "./draw/elements.js";

/** Where a field is called otherwise in a request. */
const FIELDS = { "/inputs": "typed", "/cell_options/direction": "direction", "/bidirectional": "direction" };

/** Wires the form. `change(settings)` is told each change, `show(row)` which sequence is wanted. */
export function createForm({ form, sequences, general, cell, model, roll }, { get, change, show }) {
  const rows = createRows(sequences);
  const plain = [...form.querySelectorAll("[data-field]")];
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", ({ target }) => {
    if (target.name === "shown") show(Number(target.value));
    else if (target.closest("[data-field]")) change(read(target.dataset.field));
  });
  roll.addEventListener("click", () => {
    const settings = { ...get(), roll: get().roll + 1 };
    change({ ...settings, lengths: randomLengths(settings) });
  });

  /** The settings as the form has them, after a field was changed. */
  function read(changed) {
    const old = get();
    const typed = Object.fromEntries(plain.map((field) => [field.dataset.field, valueOf(field)]));
    const settings = { ...old, ...typed, lengths: old.lengths };
    if (changed.startsWith("lengths/")) settings.lengths = rows.lengths();
    if (changed === "batch" && settings.batch === "random") settings.lengths = randomLengths(settings);
    return { ...settings, lengths: resized(settings.lengths, settings) };
  }

  return {
    /** Shows settings, and with `about` those that a registered model has. */
    render(settings, about, row, lengths, maxTime) {
      const embeds = Boolean(about?.embedding);
      const typed = embeds || settings.batch === "typed";
      for (const field of plain) {
        if (field !== document.activeElement && field.type !== "password")
          field.value = settings[field.dataset.field] ?? "";
      }
      for (const field of form.querySelectorAll(".of-cell")) field.hidden = settings.model !== "";
      for (const field of form.querySelectorAll(".of-made")) field.hidden = typed;
      form.querySelector(".of-numbers").hidden = embeds;
      form.querySelector(".typed").hidden = !typed;
      form.querySelector("#inputs-label").textContent = labelOf(about);
      form.querySelector("#features").readOnly = Boolean(about);
      roll.hidden = typed || settings.batch !== "random";
      rows.fill(lengths, row, { fixed: typed });
      rows.sketch(lengths, maxTime);
    },
    /** Fills the lists of cells and of models. */
    offer(cells, models, settings) {
      fillList(
        cell,
        cells.map((name) => [name, name]),
        settings.cell,
      );
      fillList(model, [["", "drawn from a seed"], ...models.map((name) => [name, name])], settings.model);
    },
    /** Puts each error beside its field, and what points at none below the form. */
    complain(problem) {
      for (const field of form.querySelectorAll("[aria-invalid]")) {
        field.removeAttribute("aria-invalid");
        field.removeAttribute("aria-describedby");
      }
      for (const fault of form.querySelectorAll(".field .fault")) fault.remove();
      const homeless = faultsOf(problem).filter((fault) => !place(form, fault));
      general.textContent = homeless.map(({ detail }) => sentence(detail)).join(" ");
      general.hidden = !homeless.length;
    },
  };
}

/** Puts an error beside the field that it points at; false where there is none, or it is not to be seen. */
function place(form, { pointer, detail }) {
  const known = FIELDS[pointer] ?? (pointer.startsWith("/inputs/") ? "typed" : pointer.slice(1));
  const field = form.querySelector(`[data-field="${CSS.escape(known)}"]`);
  field?.closest(".access")?.removeAttribute("hidden"); // asked for where it is needed
  if (!field?.checkVisibility()) return false;
  const id = `${field.id}-fault`;
  field.setAttribute("aria-invalid", "true");
  field.setAttribute("aria-describedby", id);
  field.closest(".field").append(html("p", { id, class: "fault", role: "alert" }, sentence(detail)));
  return true;
}

function labelOf(about) {
  if (!about?.embedding) return "The batch: a line a step, a blank line between sequences; or JSON";
  return about.vocabulary ? "Text, a line a sequence (or token ids)" : "Token ids, a line a sequence";
}

function fillList(list, entries, chosen) {
  list.replaceChildren(
    ...entries.map(([value, text]) => html("option", { value, selected: value === chosen && "" }, text)),
  );
}

/** As many lengths as there are sequences; new ones have all steps. */
function resized(lengths, { count, max_time: maxTime }) {
  if (!Number.isInteger(count) || count < 1 || count > 256 || count === lengths.length) return lengths;
  return Array.from({ length: count }, (_, k) => lengths[k] ?? maxTime);
}

/** [{pointer, detail}] of a problem or null; where it points nowhere, one that does not either. */
function faultsOf(problem) {
  if (!problem) return [];
  return problem.errors.length ? problem.errors : [{ pointer: "", detail: problem.message }];
}

/** A field's value as it goes into the request; an empty number is null, which the service names. */
function valueOf(field) {
  if (field.type !== "number") return field.value;
  return field.value === "" ? null : Number(field.value);
}

/** A problem's detail as a sentence; a field's name that begins it stays as it is written in the request. */
export function sentence(detail) {
  const text = /^[a-z]+ /.test(detail) ? detail.charAt(0).toUpperCase() + detail.slice(1) : detail;
  return /[.!?]$/.test(text) ? text : `${text}.`;
}
