// What goes into a gate's activation, from drawn weights: the products with x and with h, and the bias, of one unit.

/** Where each cell's variables hold its gates, by TensorFlow's names, which drawn weights have. */
const VARIABLES = {
  rnn: (weights) => ({ state: [weights.kernel, weights.bias, 0, 1] }),
  lstm: (weights, order) =>
    Object.fromEntries(order.map((gate, block) => [gate, [weights.kernel, weights.bias, block, order.length]])),
  gru: (weights, order) => ({
    [order[0]]: [weights.gates_kernel, weights.gates_bias, 0, 2],
    [order[1]]: [weights.gates_kernel, weights.gates_bias, 1, 2],
    candidate: [weights.candidate_kernel, weights.candidate_bias, 0, 1],
  }),
};

/** {gate: {x, h, b}} for a call and a unit (from 0); null where the weights are not at hand. */
export function sumsOf(layer, call, unit) {
  const weights = layer.weights && (call.both ? layer.weights[call.direction] : layer.weights);
  if (!weights || !call.input) return null;
  const variables = VARIABLES[call.cell.name](weights, call.cell.gate_order.tensorflow);
  const size = call.input.length;
  return Object.fromEntries(
    Object.entries(variables).map(([gate, [kernel, bias, block, blocks]]) => {
      const column = block * (kernel.values[0].length / blocks) + unit;
      const times = (values, begin) =>
        values.reduce((sum, value, k) => sum + value * kernel.values[begin + k][column], 0);
      const recurrent = call.cell.name === "gru" && gate === "candidate" ? resetOf(call) : call.before.h;
      return [gate, { x: times(call.input, 0), h: times(recurrent, size), b: bias.values[column] }];
    }),
  );
}

/** r∘h, which is what a GRU's candidate sees of the state. */
function resetOf({ gates, before }) {
  return before.h.map((value, k) => gates.reset[k] * value);
}
