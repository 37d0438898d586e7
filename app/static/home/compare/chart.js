// A line chart of a few series: SVG, so that it scales, prints and needs no library.
import { short } from "../draw/scale.js";
import { html, label, svg } from "../draw/elements.js";

const SIZE = { width: 420, height: 170, left: 46, right: 10, top: 10, bottom: 24 };

/** A figure of [{label, values}], by step from 1. */
export function chart(title, series) {
  const steps = Math.max(...series.map(({ values }) => values.length));
  const all = series.flatMap(({ values }) => values);
  const [low, high] = [Math.min(0, ...all), Math.max(0, ...all)];
  const span = high - low || 1;
  const x = (t) => SIZE.left + (t / Math.max(1, steps - 1)) * (SIZE.width - SIZE.left - SIZE.right);
  const y = (value) => SIZE.top + ((high - value) / span) * (SIZE.height - SIZE.top - SIZE.bottom);
  const lines = series.map(({ values }, k) => lineOf(values, k, x, y));
  const attributes = { viewBox: `0 0 ${SIZE.width} ${SIZE.height}`, role: "img", "aria-label": title };
  return html(
    "figure",
    { class: "chart" },
    html("figcaption", {}, title),
    svg("svg", attributes, ...grid(low, high, y), ...ticks(steps, x), ...lines),
    html("ul", { class: "series" }, ...series.map(({ label: name }, k) => html("li", {}, mark(k), ` ${name}`))),
  );
}

function lineOf(values, k, x, y) {
  const path = values.map((value, t) => `${t ? "L" : "M"}${x(t).toFixed(1)} ${y(value).toFixed(1)}`).join("");
  const dots = values.length <= 24 ? values.map((value, t) => svg("circle", { cx: x(t), cy: y(value), r: 2.6 })) : [];
  return svg("g", { class: `series-${k % 6}` }, svg("path", { d: path }), ...dots);
}

function grid(low, high, y) {
  return [...new Set([low, 0, high])].flatMap((value) => [
    svg("path", { class: "grid", d: `M${SIZE.left} ${y(value)}H${SIZE.width - SIZE.right}` }),
    label(SIZE.left - 6, y(value) + 4, short(value), "small", "end"),
  ]);
}

function ticks(steps, x) {
  const every = Math.max(1, Math.ceil(steps / 12));
  const shown = Array.from({ length: steps }, (_, t) => t).filter((t) => t % every === 0);
  return shown.map((t) => label(x(t), SIZE.height - 6, `${t + 1}`, "small"));
}

function mark(k) {
  const line = svg("path", { d: "M1 6H25" });
  return svg("svg", { width: 26, height: 12, "aria-hidden": "true" }, svg("g", { class: `series-${k % 6}` }, line));
}
