// The exact numbers of what the pointer is over, or what has the focus.
import { readingOf } from "./draw/readings.js";
import { html } from "./draw/elements.js";

const MOST = 12; // numbers that are listed at a box which has the focus; the inspector has all of them

/** Shows them in `tip`, for whatever `net` has drawn. */
export function createTip(net, tip) {
  net.addEventListener("pointermove", (event) => {
    const element = event.target.closest("g");
    const reading = element && readingOf(element);
    if (!reading) {
      hide();
      return;
    }
    const y = event.clientY - element.ownerSVGElement.getBoundingClientRect().top;
    const count = Math.max(...reading.columns.map(({ values }) => values.length));
    const unit = Math.max(0, Math.min(count - 1, Math.floor((y - reading.top) / reading.size)));
    show(reading, [unit], event.clientX, event.clientY);
  });
  net.addEventListener("pointerleave", hide);
  net.addEventListener("focusin", ({ target }) => {
    const reading = readingOf(target);
    if (!reading || !target.matches(":focus-visible")) return;
    const count = Math.max(...reading.columns.map(({ values }) => values.length));
    const box = target.getBoundingClientRect();
    show(
      reading,
      Array.from({ length: Math.min(MOST, count) }, (_, k) => k),
      box.right,
      box.top,
    );
    target.setAttribute("aria-describedby", tip.id);
  });
  net.addEventListener("focusout", ({ target }) => {
    target.removeAttribute("aria-describedby");
    hide();
  });
  document.addEventListener("keydown", (event) => event.key === "Escape" && hide());

  function show({ name, columns }, units, x, y) {
    const line = (unit) =>
      html("div", {}, html("span", {}, `${unit + 1}`), ...columns.map((column) => numberOf(column, unit)));
    tip.replaceChildren(html("strong", {}, name), ...units.map(line));
    tip.hidden = false;
    const { width, height } = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(x + 14, document.documentElement.clientWidth - width - 4))}px`;
    tip.style.top = `${Math.max(4, Math.min(y + 14, document.documentElement.clientHeight - height - 4))}px`;
  }

  function hide() {
    tip.hidden = true;
  }
}

function numberOf({ name, values }, unit) {
  if (values[unit] === undefined) return null;
  const text = String(values[unit]).replace("-", "−");
  return html("span", {}, name ? html("i", {}, `${name} `) : null, html("data", { value: String(values[unit]) }, text));
}
