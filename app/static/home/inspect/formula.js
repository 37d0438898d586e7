// Equations as MathML, which browsers draw and screen readers read without any library.
import { short } from "../draw/scale.js";
import { html, math } from "../draw/elements.js";

const DIGITS = 4;

/** A list of equations: each in letters and, where its numbers are known, with them. */
export function formulas(lines) {
  return html("ul", { class: "formulas" }, ...lines.map((line) => html("li", {}, ...written(line))));
}

function written(line) {
  const letters = equation(leftOf(line), around(line, inLetters));
  const value = math(
    "mn",
    { class: "value", "data-formula": line.gate ?? line.of, title: String(line.value) },
    number(line.value),
  );
  if (!line.known)
    return [html("div", {}, letters), html("div", { class: "with-numbers" }, equation(leftOf(line), [value]))];
  const parts = [around(line, inNumbers)];
  if (line.act) parts.push([...named(line.act), operator("("), math("mn", {}, number(total(line))), operator(")")]);
  return [html("div", {}, letters), html("div", { class: "with-numbers" }, equation(leftOf(line), ...parts, [value]))];
}

/** left = first = second = … */
function equation(left, ...sides) {
  const parts = sides.flatMap((side) => [operator("="), ...side]);
  return math("math", {}, math("mrow", {}, ...left, ...parts));
}

function leftOf({ left }) {
  return [letter(left)];
}

/** The inside of a line, in its activation. */
function around({ act, inside }, write) {
  const parts = inside.flatMap((part, k) => write(part, inside[k - 1]));
  return act ? [...named(act), operator("("), ...parts, operator(")")] : parts;
}

function inLetters(part) {
  return typeof part === "string" ? symbol(part) : part.letters.map(letter);
}

/** A number, in brackets where its sign follows an operator. */
function inNumbers(part, before) {
  if (typeof part === "string") return symbol(part);
  const written = math("mn", {}, number(part.number));
  const alone = before === undefined || before.endsWith("(");
  return part.number < 0 && !alone ? [operator("("), written, operator(")")] : [written];
}

/** What an operator, a bracket or the head of a function is written as. */
function symbol(text) {
  if (text.endsWith("(") && text.length > 1) return [...named(text.slice(0, -1)), operator("(")];
  return [/^\d/.test(text) ? math("mn", {}, text) : operator(text)];
}

function letter(name) {
  if (typeof name === "string" && name.endsWith("′")) return math("msup", {}, letter(name.slice(0, -1)), operator("′"));
  if (Array.isArray(name)) return math("msub", {}, ...name.map((part) => math("mi", {}, part)));
  return math("mi", {}, name);
}

function named(name) {
  return [math("mi", {}, name)];
}

function operator(text) {
  return math("mo", { stretchy: "false" }, text);
}

function total({ inside }) {
  return inside.reduce((sum, part) => sum + (part.number ?? 0), 0);
}

function number(value) {
  return short(value, DIGITS);
}
