// Text and token ids: with a vocabulary a text is cut into its tokens, without one ids are typed.
import { Problem } from "../api.js";

/** [sequence][token id] of a text with a line a sequence. `size` is how many tokens there are. */
export function sequencesOf(text, vocabulary, size) {
  const lines = text.split("\n").filter((line) => line.trim());
  if (!lines.length) throw Problem.at("/inputs", `Type ${vocabulary ? "a text" : "token ids"}, a line a sequence.`);
  return lines.map((line) => idsOf(line, vocabulary, size));
}

/** The ids of one line. Throws a Problem that names what is no token. */
export function idsOf(line, vocabulary, size) {
  if (vocabulary && !/^[\d\s,]+$/.test(line)) return cut(line, vocabulary);
  return line
    .trim()
    .split(/[\s,]+/)
    .map((word) => {
      const id = Number(word);
      if (Number.isInteger(id) && id >= 0 && id < size) return id;
      throw Problem.at("/inputs", `“${word}” is no token: expected ids from 0 to ${size - 1}.`);
    });
}

/** What a token is called. */
export function nameOf(id, vocabulary) {
  return vocabulary?.[id] ?? String(id);
}

/** Tokens as text again: with spaces between them where they are words rather than characters. */
export function textOf(ids, vocabulary) {
  return ids.map((id) => nameOf(id, vocabulary)).join(hasWords(vocabulary) ? " " : "");
}

/** A text to begin with, of two sequences. */
export function exampleOf(vocabulary, size) {
  const first = Math.min(size - 1, 4);
  const ids = [0, 1, 2, 3, 4].map((k) => first + ((k * 7) % Math.max(1, size - first)));
  return [ids, ids.slice(0, 3)].map((row) => (vocabulary ? textOf(row, vocabulary) : row.join(" "))).join("\n");
}

/** Words, where tokens are words; else the longest token that fits, again and again. */
function cut(line, vocabulary) {
  const ids = new Map(vocabulary.map((token, id) => [token, id]));
  if (hasWords(vocabulary)) {
    return line
      .trim()
      .split(/\s+/)
      .map((word) => {
        if (ids.has(word)) return ids.get(word);
        throw Problem.at("/inputs", `“${word}” is not in the vocabulary.`);
      });
  }
  const longest = Math.max(...vocabulary.map((token) => token.length));
  const found = [];
  let at = 0;
  while (at < line.length) {
    let length = Math.min(longest, line.length - at);
    while (length && !ids.has(line.slice(at, at + length))) length -= 1;
    if (length) found.push(ids.get(line.slice(at, at + length)));
    else if (line[at].trim()) {
      throw Problem.at("/inputs", `“${line.slice(at, at + 12)}” begins with nothing that the vocabulary has.`);
    }
    at += length || 1;
  }
  return found;
}

function hasWords(vocabulary) {
  if (!vocabulary) return true;
  return !vocabulary.includes(" ") && vocabulary.filter((token) => token.length > 1).length > vocabulary.length / 2;
}
