// The batch: what is typed, generated or the example, as arrays for a request.
import { Problem } from "../api.js";
import { numbersOf } from "./typed.js";
import { sequencesOf } from "./tokens.js";

const ONE_HOT = [
  [0, 1, 2, 3, 1, 0],
  [3, 2, 1, 0, 2, 3],
  [2, 2, 0, 1, 3, 3],
];

/** What the page draws at most. The service itself takes more. */
export const MOST = { num_layers: 8, num_units: 256, max_time: 256, count: 32, features: 256, numbers: 1_000_000 };

/** What a step of a row holds, by kind of batch. */
const STEPS = {
  /** One feature is 1 at each step: the article's example. */
  example:
    ({ features }) =>
    (row, t) =>
      oneHot(features, ONE_HOT[row % 3][t % 6]),
  /** Numbers from -1 to 1 with two decimals, the same for the same roll. */
  random:
    ({ features, roll }) =>
    (row, t) =>
      Array.from({ length: features }, (_, k) => Math.round(200 * noise(roll, row, t, k) - 100) / 100),
};

/** {inputs, lengths} of the settings, for a net of features, or one that `embeds` tokens: `size` of them. */
export function batchOf(settings, { embeds = false, vocabulary = null, size = 0 } = {}) {
  if (embeds) return { inputs: sequencesOf(settings.typed, vocabulary, size) };
  if (settings.batch === "typed") return padded(numbersOf(settings.typed));
  const { lengths, max_time: maxTime } = settings;
  for (const name of ["max_time", "count", "features"]) checkWhole(name, settings[name]);
  const step = STEPS[settings.batch](settings);
  const padding = Array(settings.features).fill(0);
  const inputs = lengths.map((length, row) =>
    Array.from({ length: maxTime }, (_, t) => (t < length ? step(row, t) : padding)),
  );
  return { inputs, lengths };
}

/** Lengths for another random batch: from half of the steps to all of them. */
export function randomLengths({ roll, count, max_time: maxTime }) {
  const least = Math.max(1, Math.ceil(maxTime / 2));
  return Array.from(
    { length: count },
    (_, row) => least + Math.floor(noise(roll, row, -1, -1) * (maxTime - least + 1)),
  );
}

const WORDS = { max_time: "steps", count: "sequences", features: "features" };

function checkWhole(name, value) {
  if (Number.isInteger(value) && value >= 1 && value <= MOST[name]) return;
  throw Problem.at(`/${name}`, `Give a whole number of ${WORDS[name]} from 1 to ${MOST[name]}.`);
}

/** Sequences of unequal length, padded with steps of zeros; given lengths stay as they are. */
function padded({ inputs, lengths }) {
  const longest = Math.max(0, ...inputs.map((row) => row.length));
  const padding = Array(inputs.find((row) => row.length)?.[0].length ?? 0).fill(0);
  return {
    inputs: inputs.map((row) => [...row, ...Array(longest - row.length).fill(padding)]),
    lengths: lengths ?? inputs.map((row) => row.length),
  };
}

function oneHot(size, place) {
  return Array.from({ length: size }, (_, k) => (k === place % size ? 1 : 0));
}

/** From 0 to 1, the same for the same whole numbers: a hash of them. */
function noise(...numbers) {
  let hash = 0x9e3779b9;
  for (const number of numbers) {
    hash = Math.imul(hash ^ (number + 0x7f4a7c15), 0x85ebca6b);
    hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
    hash ^= hash >>> 16;
  }
  return (hash >>> 0) / 2 ** 32;
}
