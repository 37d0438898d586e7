// From the answer of a run to cell calls: what each was given, and what it gave.

/**
 * The calls of one sequence of a run. Inputs are null where a model embeds: `tokens` are there in their place. A step
 * past the end has no call: null.
 */
export function traceOf({ request, answer, weights, initial, net }, row) {
  const length = answer.lengths[row];
  const given = request.inputs[row];
  const embeds = Boolean(net.about?.embedding);
  const steps = Math.max(...request.inputs.map((one) => one.length));
  const outputs = answer.outputs.values[row];
  let below = embeds ? null : given;
  const layers = net.layers.map((layer, k) => {
    const lanes = layer.sides.map((direction) => {
      const both = layer.sides.length > 1;
      const pick = (entry) => (both ? entry?.[direction] : entry) ?? {};
      const of = (entry) => map(pick(entry), (array) => array.values[row]);
      return laneOf({
        layer: k + 1,
        cell: layer.cell,
        direction,
        both,
        length,
        steps,
        inputs: below,
        gates: of(answer.gates[k]),
        states: split(of(answer.states[k]), answer.model.num_units[k]),
        final: split(of(answer.state[k]), answer.model.num_units[k]),
        initial: initial && split(of(initial[k]), answer.model.num_units[k]),
      });
    });
    below = k + 1 < net.layers.length ? passedUp(layer, lanes, below, length) : outputs;
    return { number: k + 1, cell: layer.cell, lanes, outputs: below, weights: weights?.layers?.[k] ?? null };
  });
  return {
    layers,
    steps,
    length,
    row,
    outputs,
    inputs: embeds ? null : given,
    tokens: embeds ? given : null,
    vocabulary: net.about?.vocabulary ?? null,
    predictions: request.return.includes("predictions") ? (answer.predictions?.values[row] ?? null) : null,
  };
}

/** One direction of a layer: its calls by step, in whatever order the cell makes them. */
function laneOf({ layer, cell, direction, both, length, steps, inputs, gates, states, final, initial }) {
  const start = initial ?? map(final, (values) => values.map(() => 0));
  const order = Array.from({ length }, (_, t) => (direction === "forward" ? t : length - 1 - t));
  const calls = Array(steps).fill(null);
  let before = start;
  order.forEach((t, k) => {
    const at = (named) => map(named, (values) => values[t]);
    const after = at(states);
    const from = k ? order[k - 1] + 1 : null;
    calls[t] = {
      layer,
      cell,
      direction,
      both,
      step: t + 1,
      tick: k + 1,
      from,
      input: inputs?.[t] ?? null,
      before,
      gates: at(gates),
      after,
      output: after.h,
    };
    before = after;
  });
  return { direction, initial: start, final, calls };
}

/** How many of a layer's values become one, and how: Keras' merge_mode. */
const MERGES = {
  concat: (halves) => halves.flat(),
  sum: ([a, b]) => a.map((value, k) => value + b[k]),
  ave: ([a, b]) => a.map((value, k) => (value + b[k]) / 2),
  mul: ([a, b]) => a.map((value, k) => value * b[k]),
};

/** What the layer above reads at each step. */
function passedUp(layer, lanes, inputs, length) {
  return Array.from({ length }, (_, t) => {
    const halves = lanes.map(({ calls }) => {
      const h = calls[layer.goesBackwards ? length - 1 - t : t].output;
      return layer.residual && inputs ? h.map((value, k) => value + inputs[t][k]) : h;
    });
    return halves.length > 1 ? MERGES[layer.merge](halves) : halves[0];
  });
}

/** A state in one array, `ch`, as c and h. */
function split(state, units) {
  if (!state.ch) return state;
  const isOne = typeof state.ch[0] === "number";
  const part = (begin, end) =>
    isOne ? state.ch.slice(begin, end) : state.ch.map((values) => values.slice(begin, end));
  return { c: part(0, units), h: part(units) };
}

function map(named, change) {
  return Object.fromEntries(Object.entries(named).map(([name, value]) => [name, change(value)]));
}

/** The call that is selected, or null where there is none at that place. */
export function callAt(trace, { layer, direction, step }) {
  const lanes = trace.layers[layer - 1]?.lanes ?? [];
  return lanes.find((lane) => lane.direction === direction)?.calls[step - 1] ?? null;
}
