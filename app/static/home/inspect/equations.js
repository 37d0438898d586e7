// What each cell computes, as lines that stand twice: in letters, and with the numbers of one unit of one call.

/** What a term is in letters, and its number. */
const term = (letters, number) => ({ letters, number });

/** x K + h R + b, of a gate whose letter is `of`; `state` is what is multiplied by R. */
const sum = (of, sums, state = "h") => [
  term(["x", ["K", of]], sums?.x),
  "+",
  term([state, ["R", of]], sums?.h),
  "+",
  term([["b", of]], sums?.b),
];

const TABLE = {
  rnn: ({ unit, after, sums }) => [
    { left: "h′", of: "h", value: after.h[unit], act: "tanh", inside: sum("h", sums?.state), known: Boolean(sums) },
  ],
  lstm: ({ unit, gates, before, after, sums, cell }) => {
    const [i, f, g, o] = ["input", "forget", "candidate", "output"].map((gate) => gates[gate][unit]);
    const [c, h] = [after.c[unit], after.h[unit]];
    const bias = cell.options.forget_bias.default;
    const forget = sums ? [...sum("f", sums.forget), "+", term(["forget_bias"], bias)] : sum("f");
    return [
      { left: "f", gate: "forget", value: f, act: "σ", inside: forget, known: Boolean(sums) },
      { left: "i", gate: "input", value: i, act: "σ", inside: sum("i", sums?.input), known: Boolean(sums) },
      { left: "g", gate: "candidate", value: g, act: "tanh", inside: sum("g", sums?.candidate), known: Boolean(sums) },
      { left: "o", gate: "output", value: o, act: "σ", inside: sum("o", sums?.output), known: Boolean(sums) },
      {
        left: "c′",
        of: "c",
        value: c,
        comes: f * before.c[unit] + i * g,
        inside: [term(["f"], f), "·", term(["c"], before.c[unit]), "+", term(["i"], i), "·", term(["g"], g)],
      },
      {
        left: "h′",
        of: "h",
        value: h,
        comes: o * Math.tanh(c),
        inside: [term(["o"], o), "·", "tanh(", term(["c′"], c), ")"],
      },
    ];
  },
  gru: ({ unit, gates, before, after, sums }) => {
    const [r, z, n] = ["reset", "update", "candidate"].map((gate) => gates[gate][unit]);
    const [old, h] = [before.h[unit], after.h[unit]];
    return [
      { left: "r", gate: "reset", value: r, act: "σ", inside: sum("r", sums?.reset), known: Boolean(sums) },
      { left: "z", gate: "update", value: z, act: "σ", inside: sum("z", sums?.update), known: Boolean(sums) },
      {
        left: "n",
        gate: "candidate",
        value: n,
        act: "tanh",
        inside: sum("n", sums?.candidate, "(r∘h)"),
        known: Boolean(sums),
      },
      {
        left: "h′",
        of: "h",
        value: h,
        comes: z * old + (1 - z) * n,
        inside: [term(["z"], z), "·", term(["h"], old), "+", "(", "1", "−", term(["z"], z), ")", "·", term(["n"], n)],
      },
    ];
  },
};

/** How far a line may be from what the service answers, before options of the cell must be at work. */
const ROUNDING = 1e-3;

/**
 * The lines of a unit (from 0) of a call. `sums` are those of run/weights.js, null where weights are not at hand. A
 * line is {left, gate or of, value, act, inside, known}: it is `known` if the numbers of all terms are.
 */
export function linesOf(call, unit, sums) {
  return TABLE[call.cell.name]({ ...call, unit, sums }).map((line) => ({
    ...line,
    known: line.known ?? Math.abs(line.comes - line.value) < ROUNDING,
  }));
}
