// A batch of numbers as text: JSON, or a line a step with a blank line between sequences, as spreadsheets copy them.
import { Problem } from "../api.js";

/** {inputs: [sequence][step][feature], lengths?}. Throws a Problem that says what is wrong, and in which line. */
export function numbersOf(text) {
  const inside = text.trim();
  if (!inside) throw Problem.at("/inputs", "Type a batch: a line a step, numbers with spaces or commas between them.");
  const batch = /^[[{]/.test(inside) ? fromJson(inside) : { inputs: fromLines(inside) };
  if (!isBatch(batch.inputs)) {
    throw Problem.at("/inputs", "Expected [sequence][step][feature]: a list of sequences, of steps, of numbers.");
  }
  return batch;
}

/** The text of a batch: JSON with a line a sequence, its padding left out. */
export function textOf({ inputs, lengths }) {
  const rows = inputs.map((row, k) => JSON.stringify(row.slice(0, lengths[k])));
  return `[${rows.join(",\n ")}]`;
}

/** A list of sequences, or a whole request with `inputs` and `lengths`. */
function fromJson(text) {
  let read;
  try {
    read = JSON.parse(text);
  } catch (error) {
    throw Problem.at("/inputs", `This is no JSON: ${error.message}`);
  }
  return Array.isArray(read) ? { inputs: read } : { inputs: read.inputs, lengths: read.lengths };
}

function fromLines(text) {
  const lines = text.split("\n").map((line, k) => ({ line: line.trim(), number: k + 1 }));
  const sequences = [[]];
  for (const { line, number } of lines) {
    if (line) sequences.at(-1).push(line.split(/[\s,;]+/).map((word) => numberOf(word, number)));
    else if (sequences.at(-1).length) sequences.push([]);
  }
  return sequences.filter((sequence) => sequence.length);
}

function numberOf(word, line) {
  const value = Number(word);
  if (word === "" || !Number.isFinite(value)) throw Problem.at("/inputs", `Line ${line}: “${word}” is no number.`);
  return value;
}

function isBatch(inputs) {
  const numbers = (step) => Array.isArray(step) && step.every((value) => typeof value === "number");
  return Array.isArray(inputs) && inputs.every((row) => Array.isArray(row) && row.every(numbers));
}
