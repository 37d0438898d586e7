// The outputs of one run as a map: steps to the right, units downward.
import { createHeat } from "../draw/heat.js";
import { html, label, svg } from "../draw/elements.js";
import { noted } from "../draw/readings.js";

const MOST = 64; // units and steps that are drawn
const SIDES = { least: 4, most: 20, wide: 300 };

/** A figure of {label, outputs [step][unit]}, `steps` wide, on a scale that ends at ±bound. */
export function mapOf({ label: name, outputs }, steps, bound) {
  const drawn = Math.min(steps, MOST);
  const units = Math.min(outputs[0].length, MOST);
  const width = Math.max(SIDES.least, Math.min(44, Math.floor(SIDES.wide / drawn)));
  const size = units <= 8 ? SIDES.most : units <= 24 ? 8 : SIDES.least;
  const heat = createHeat();
  const columns = outputs.slice(0, drawn).map((values, t) => {
    heat.add(values.slice(0, units), { x: t * width, y: 0, width: width - 1, size, bound });
    const under = svg("rect", { class: "under", x: t * width, y: 0, width: width - 1, height: units * size - 1 });
    return noted(svg("g", {}, under), {
      name: `${name}, step ${t + 1}`,
      columns: [{ name: "", values }],
      top: 0,
      size,
    });
  });
  const attributes = {
    width: drawn * width,
    height: units * size + 18,
    role: "img",
    "aria-label": `Outputs of ${name}`,
  };
  const axis = [1, drawn].map((t) => label((t - 0.5) * width, units * size + 13, `${t}`, "small"));
  return html("figure", {}, html("figcaption", {}, name), svg("svg", attributes, ...columns, heat.element(), ...axis));
}
