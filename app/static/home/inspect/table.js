// Tables of numbers, a row a unit: coloured as in the picture, exact in the element's value.
import { classOf, levelOf, short } from "../draw/scale.js";
import { html } from "../draw/elements.js";

/** What is listed at most. */
const MOST = 256;

/** What is listed at once; the rows after it come when the picture has been painted. */
const AT_ONCE = 16;

/**
 * A table. Columns are {name, letter, group, values, bound}; the first one names the rows. With `exact` all digits are
 * shown; `marked` is the row that is chosen.
 */
export function table(caption, columns, { exact = false, marked = null } = {}) {
  const [first, ...rest] = columns;
  const count = rest[0].values.length;
  const rowOf = (k) =>
    html(
      "tr",
      { "data-unit": k, class: k === marked ? "marked" : null },
      html("th", { scope: "row" }, `${k + 1}`),
      ...rest.map((column) => cellOf(column, k, exact)),
    );
  const rows = (from, to) => Array.from({ length: Math.max(0, to - from) }, (_, k) => rowOf(from + k));
  const listed = Math.min(count, MOST);
  const body = html("tbody", {}, ...rows(0, Math.min(listed, AT_ONCE)));
  if (listed > AT_ONCE) later(() => body.isConnected && body.append(...rows(AT_ONCE, listed)));
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
        html("tr", {}, ...groupsOf(columns)),
        html("tr", {}, html("th", { scope: "col" }, first.name), ...rest.map(headOf)),
      ),
      body,
    ),
    more,
  );
}

function later(append) {
  requestAnimationFrame(() => setTimeout(append));
}

/** A head over each run of columns of one group; over those of none an empty cell, which heads nothing. */
function groupsOf(columns) {
  const groups = [];
  for (const { group } of columns) {
    if (groups.at(-1)?.group === group) groups.at(-1).span += 1;
    else groups.push({ group, span: 1 });
  }
  return groups.map(({ group, span }) =>
    group ? html("th", { scope: "colgroup", colspan: span }, group) : html("td", { class: "corner", colspan: span }),
  );
}

function headOf({ name, letter }) {
  return html("th", { scope: "col" }, name, letter ? html("i", {}, ` ${letter}`) : null);
}

function cellOf({ group, name, values, bound }, k, exact) {
  const value = values[k];
  if (value === undefined) return html("td"); // a projected output is narrower than the cell's state
  const attributes = { value: String(value), title: String(value), "data-column": `${group} ${name}` };
  const shown = exact ? String(value).replace("-", "−") : short(value, 4);
  return html("td", { class: classOf(levelOf(value, bound)) }, html("data", attributes, shown));
}
