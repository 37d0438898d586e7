// What the page asks of the service that it came from.

/** An answer that is an error: problem+json, or what the page itself has to say in the same form. */
export class Problem extends Error {
  /** `errors` are [{pointer, detail}], as in RFC 9457's problem+json. */
  constructor(detail, errors = []) {
    super(detail);
    this.errors = errors;
  }
}

/** GET /cells, by name. */
export async function cells(signal) {
  const { cells: every } = await ask("/cells", { signal });
  return new Map(every.map((cell) => [cell.name, cell]));
}

/** POST /run. */
export function run(request, signal) {
  const headers = { "Content-Type": "application/json" };
  return ask("/run", { method: "POST", headers, body: JSON.stringify(request), signal });
}

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The service does not answer. Is it running?");
  }
  const said = await response.json().catch((error) => {
    if (error.name === "AbortError") throw error;
    return {};
  });
  if (!response.ok) throw new Problem(said.detail ?? `The service answered ${response.status}.`, said.errors);
  return said;
}
