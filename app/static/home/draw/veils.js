// Veils over what is not computed yet, while one steps through time: a lane's steps and final state, and outputs.
import { svg } from "./elements.js";

/** A veil for each step of each lane and of the outputs, all lifted; they know the call that lifts them. */
function veilsOf(trace, at) {
  const steps = Array.from({ length: at.count }, (_, k) => at.first + k).filter((t) => t < trace.length);
  const lanes = trace.layers.flatMap((layer, k) =>
    layer.lanes.flatMap((lane, side) =>
      steps.map((t) => {
        const { x, y } = at.corner(at.layers[k], side, at.column(t));
        const before = at.pitch - at.box.width; // the line that leads into the box
        const begin = lane.direction === "forward" ? x - before + 1 : x - 1;
        return veil(lane.calls[t].tick, begin, y - 2, at.pitch, at.box.height + 4);
      }),
    ),
  );
  const top = trace.layers.at(-1).lanes;
  const above = at.layers.at(-1).y - 3;
  const outputs = steps.map((t) => {
    const tick = Math.max(...top.map((lane) => lane.calls[t].tick));
    return veil(tick, at.column(t) - 4, 0, at.box.width + at.shift + 8, above);
  });
  const finals = trace.layers.flatMap((layer, k) =>
    layer.lanes.map((lane, side) => {
      const { x, y } = at.corner(at.layers[k], side, lane.direction === "forward" ? at.end : at.left);
      return veil(trace.length, x - 2, y - 2, at.box.width + 4, at.box.height + 4);
    }),
  );
  return [...lanes, ...finals, ...outputs];
}

function veil(tick, x, y, width, height) {
  return svg("rect", { class: "veil", "data-tick": tick, x, y, width, height });
}

/** Lifts the veils of the first `tick` calls of every lane; all of them where it is null: until then there are none. */
export function lift({ net, veils }, tick, trace, at) {
  if (tick !== null && !veils.hasChildNodes()) veils.append(...veilsOf(trace, at));
  for (const one of veils.children) one.classList.toggle("down", tick !== null && Number(one.dataset.tick) > tick);
  for (const cell of net.querySelectorAll(".cell")) {
    const at = Number(cell.dataset.tick);
    cell.classList.toggle("now", at === tick);
    cell.classList.toggle("to-come", tick !== null && at > tick);
  }
}
