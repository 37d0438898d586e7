// The very request as text that can be copied. A key never stands in it.

/** By name: what makes a text of a request to `url`. */
export const SNIPPETS = {
  curl: (request, url, keyed) =>
    `curl ${url}${keyed ? ' -H "X-API-Key: $KEY"' : ""} -H 'Content-Type: application/json' -d '${shellOf(request)}'`,
  python: (request, url, keyed) =>
    [
      ...(keyed ? ["import os", ""] : []),
      "import httpx",
      "",
      `request = ${literal(request, PYTHON)}`,
      `headers = {${keyed ? '"X-API-Key": os.environ["KEY"]' : ""}}`,
      `response = httpx.post("${url}", json=request, headers=headers)`,
      "response.raise_for_status()",
      "answer = response.json()",
      'print(answer["state"])',
    ].join("\n"),
  javascript: (request, url, keyed) =>
    [
      `const request = ${literal(request, JSON_WORDS)};`,
      `const response = await fetch("${url}", {`,
      '  method: "POST",',
      `  headers: { "Content-Type": "application/json"${keyed ? ', "X-API-Key": KEY' : ""} },`,
      "  body: JSON.stringify(request),",
      "});",
      "const answer = await response.json();",
      "console.log(answer.state);",
    ].join("\n"),
  json: (request) => literal(request, JSON_WORDS),
};

const JSON_WORDS = { true: "true", false: "false", null: "null" };
const PYTHON = { true: "True", false: "False", null: "None" };

/** An object, a line a field and a line a sequence. */
function literal(request, words) {
  const lines = Object.entries(request).map(
    ([name, value]) => `  ${JSON.stringify(name)}: ${field(name, value, words)}`,
  );
  return `{\n${lines.join(",\n")}\n}`;
}

function field(name, value, words) {
  if (name === "inputs") return `[\n    ${value.map((row) => plain(row, words)).join(",\n    ")}]`;
  return plain(value, words);
}

function plain(value, words) {
  if (Array.isArray(value)) return `[${value.map((item) => plain(item, words)).join(",")}]`;
  if (value && typeof value === "object") {
    return `{${Object.entries(value)
      .map(([name, item]) => `${JSON.stringify(name)}: ${plain(item, words)}`)
      .join(", ")}}`;
  }
  return typeof value === "string" ? JSON.stringify(value) : (words[value] ?? String(value));
}

/** JSON inside the shell's single quotes: a quote in it ends them, stands by itself, and begins them again. */
function shellOf(request) {
  return literal(request, JSON_WORDS).replaceAll("'", "'\\''");
}

/** An answer's states, a line an array, as POST /run gives them. */
export function stateText(state) {
  const array = ({ shape, dtype, values }) =>
    `{"shape": ${JSON.stringify(shape)}, "dtype": "${dtype}", "values": [\n    ` +
    `${values.map((row) => JSON.stringify(row)).join(",\n    ")}]}`;
  const entry = (named) =>
    `{${Object.entries(named)
      .map(([name, value]) => `"${name}": ${value.shape ? array(value) : entry(value)}`)
      .join(",\n  ")}}`;
  return `[${state.map(entry).join(",\n ")}]`;
}
