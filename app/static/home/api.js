// What the page asks of the service that it came from.

const OF_THE_KEY = [401, 403];

/** An answer that is an error: problem+json, or what the page itself has to say in the same form. */
export class Problem extends Error {
  /** `errors` are [{pointer, detail}], as in RFC 9457's problem+json. */
  constructor(detail, errors = []) {
    super(detail);
    this.errors = errors;
  }

  /** A problem with one field. */
  static at(pointer, detail) {
    return new Problem(detail, [{ pointer, detail }]);
  }
}

/** GET /cells, by name. */
export async function cells(key, signal) {
  const { cells: every } = await read("/cells", key, signal);
  return new Map(every.map((cell) => [cell.name, cell]));
}

/** GET /models: metadata of each one's newest version. */
export async function models(key, signal) {
  return (await read("/models", key, signal)).models;
}

/** GET /models/{name}: its vocabulary too. */
export function model(name, key, signal) {
  return read(`/models/${encodeURIComponent(name)}`, key, signal);
}

/** POST to a path, with a key where the service wants one; what is wrong with that points at its field. */
export async function post(path, request, key, signal) {
  return toJson(await send(path, { method: "POST", ...bodyOf(request, key), signal }), signal);
}

/** PUT /models/{name}: files and their config, as one multipart body. */
export async function upload(name, files, config, key) {
  const body = new FormData();
  for (const file of files) body.append("files", file);
  if (config.trim()) body.append("config", config);
  return toJson(await send(`/models/${encodeURIComponent(name)}`, { method: "PUT", headers: keyed(key), body }));
}

/** POST with server-sent events for an answer: yields [event, data] as they come. */
export async function* events(path, request, key, signal) {
  const response = await send(path, { method: "POST", ...bodyOf({ ...request, stream: true }, key), signal });
  let text = "";
  for await (const chunk of chunks(response.body.pipeThrough(new TextDecoderStream()))) {
    const blocks = (text + chunk).split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const fields = Object.fromEntries(block.split("\n").map((line) => line.split(/: ?(.*)/s, 2)));
      yield [fields.event, JSON.parse(fields.data)];
    }
  }
}

async function* chunks(stream) {
  const reader = stream.getReader();
  for (let read = await reader.read(); !read.done; read = await reader.read()) yield read.value;
}

function read(path, key, signal) {
  return send(path, { headers: keyed(key), signal }).then((response) => toJson(response, signal));
}

function keyed(key) {
  return key ? { "X-API-Key": key } : {};
}

function bodyOf(request, key) {
  return { headers: { "Content-Type": "application/json", ...keyed(key) }, body: JSON.stringify(request) };
}

/** The response, once it is known to be no error. */
async function send(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The service does not answer. Is it running?");
  }
  if (response.ok) return response;
  const said = await toJson(response, options.signal);
  const detail = said.detail ?? `The service answered ${response.status}.`;
  throw OF_THE_KEY.includes(response.status) ? Problem.at("/api_key", detail) : new Problem(detail, said.errors);
}

/** An answer's body; {} for what is cut off or no JSON, unless nobody waits for it any more. */
async function toJson(response, signal) {
  try {
    return await response.json();
  } catch (error) {
    if (signal?.aborted) throw error;
    return {};
  }
}
