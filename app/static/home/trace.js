// From answers of /run to cell calls: what each was given, and what it gave.

/**
 * The calls of one sequence. `answer` has outputs, state and gates of the whole net; `lower` the outputs of each layer
 * but the top one; `cell` is the entry of GET /cells. A step past the end has no call: null.
 */
export function traceOf(cell, request, answer, lower, row) {
  const length = answer.lengths[row];
  const inputs = request.inputs[row];
  const outputs = answer.outputs.values[row];
  const sides = answer.model.bidirectional ? ["forward", "backward"] : ["forward"];
  // what is passed up: into the first layer, between the layers, out of the last one
  const heights = [inputs, ...lower.map((below) => below.outputs.values[row]), outputs];
  const layers = answer.state.map((state, k) => ({
    number: k + 1,
    lanes: sides.map((direction, side) => {
      const both = sides.length > 1;
      const gates = both ? answer.gates[k][direction] : answer.gates[k];
      const final = both ? state[direction] : state;
      const given = {
        inputs: heights[k],
        outputs: halves(heights[k + 1], side, sides.length),
        gates: map(gates, (array) => array.values[row]),
      };
      const initial = map(final, (array) => array.values[row].map(() => 0));
      const order = Array.from({ length }, (_, t) => (direction === "forward" ? t : length - 1 - t));
      return {
        direction,
        initial,
        final: map(final, (array) => array.values[row]),
        calls: callsOf(cell, given, initial, order, inputs.length).map(
          (call) => call && { ...call, layer: k + 1, direction, both },
        ),
      };
    }),
  }));
  return { cell, steps: inputs.length, length, inputs, outputs, layers, row };
}

/** The call at each step, in the order in which the cell reads them. */
function callsOf(cell, { inputs, outputs, gates }, initial, order, steps) {
  const calls = Array(steps).fill(null);
  let before = initial;
  order.forEach((t, k) => {
    const now = map(gates, (values) => values[t]);
    const after = { h: outputs[t] };
    if (cell.state.includes("c")) {
      // /run tells c at the end alone; in between it follows from the gates: c' = f∘c + i∘g
      after.c = before.c.map((c, u) => now.forget[u] * c + now.input[u] * now.candidate[u]);
    }
    const from = k ? order[k - 1] + 1 : null;
    calls[t] = { step: t + 1, from, input: inputs[t], before, gates: now, after, output: outputs[t] };
    before = after;
  });
  return calls;
}

/** Of outputs that are concatenated, one direction's. */
function halves(outputs, side, sides) {
  if (sides === 1) return outputs;
  return outputs.map((values) => values.slice((side * values.length) / 2, ((side + 1) * values.length) / 2));
}

function map(named, change) {
  return Object.fromEntries(Object.entries(named).map(([name, value]) => [name, change(value)]));
}

/** The call that is selected, or null where there is none at that place. */
export function callAt(trace, { layer, direction, step }) {
  const lanes = trace.layers[layer - 1]?.lanes ?? [];
  return lanes.find((lane) => lane.direction === direction)?.calls[step - 1] ?? null;
}
