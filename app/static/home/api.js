// What the page asks of the service that it came from.

const OF_THE_KEY = [401, 403];

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

/** POST /run, with a key where the service wants one; what is wrong with that points at its field. */
export function run(request, key, signal) {
  const headers = { "Content-Type": "application/json", ...(key ? { "X-API-Key": key } : {}) };
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
  if (response.ok) return said;
  const detail = said.detail ?? `The service answered ${response.status}.`;
  throw new Problem(detail, OF_THE_KEY.includes(response.status) ? [{ pointer: "/api_key", detail }] : said.errors);
}
