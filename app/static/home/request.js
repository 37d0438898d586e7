// From the settings of the page to requests, and to text that can be copied.
import { Problem } from "./api.js";

const FEATURES = 4;
const ONE_HOT = [
  [0, 1, 2, 3, 1, 0],
  [3, 2, 1, 0, 2, 3],
  [2, 2, 0, 1, 3, 3],
];

/** What the page draws at most. The service itself takes more. */
export const MOST = { num_layers: 8, num_units: 256, max_time: 256, numbers: 400_000 };

/** [batch, max_time, features]: one feature is 1 at each real step, padding is 0. */
function inputs(lengths, maxTime) {
  const step = (row, t) => Array.from({ length: FEATURES }, (_, k) => (k === ONE_HOT[row % 3][t % 6] ? 1 : 0));
  const padding = Array(FEATURES).fill(0);
  return lengths.map((length, row) => Array.from({ length: maxTime }, (_, t) => (t < length ? step(row, t) : padding)));
}

/** The body of POST /run. Throws a Problem for what the page does not draw; all else is the service's to judge. */
export function requestOf(settings) {
  const { max_time: maxTime, lengths, num_layers: layers, num_units: units } = settings;
  if (!Number.isInteger(maxTime) || maxTime < 1 || maxTime > MOST.max_time) {
    const detail = `Give a whole number of steps from 1 to ${MOST.max_time}.`;
    throw new Problem(detail, [{ pointer: "/max_time", detail }]);
  }
  for (const [name, what] of [["num_layers", "layers"], ["num_units", "units"]]) {
    if (settings[name] > MOST[name]) {
      const detail = `This page draws up to ${MOST[name]} ${what}; POST /run takes more.`;
      throw new Problem(detail, [{ pointer: `/${name}`, detail }]);
    }
  }
  const numbers = lengths.length * maxTime * layers * units * (settings.bidirectional ? 2 : 1);
  if (numbers > MOST.numbers) {
    const told = [numbers, MOST.numbers].map((count) => count.toLocaleString("en"));
    throw new Problem(
      `Sequences × steps × layers × units is ${told[0]}; this page asks for up to ${told[1]}. ` +
        "Make one of them smaller, or ask POST /run yourself.",
    );
  }
  return {
    cell: settings.cell,
    num_layers: layers,
    num_units: units,
    ...(settings.bidirectional ? { bidirectional: true } : {}),
    seed: settings.seed,
    dtype: "float64",
    inputs: inputs(lengths, maxTime),
    lengths,
    return: ["outputs", "state", "gates"],
  };
}

/** Requests for the outputs of the lower layers: a seed draws a layer's weights whatever stands above it. */
export function lowerRequestsOf(request) {
  return Array.from({ length: Math.max(0, request.num_layers - 1) }, (_, k) => ({
    ...request,
    num_layers: k + 1,
    return: ["outputs"],
  }));
}

/** The request as JSON, a line a field and a line a sequence. */
export function jsonOf(request) {
  const lines = Object.entries(request).map(([name, value]) => {
    const rows = name === "inputs" ? `[\n    ${value.map((row) => JSON.stringify(row)).join(",\n    ")}]` : null;
    return `  ${JSON.stringify(name)}: ${rows ?? JSON.stringify(value)}`;
  });
  return `{\n${lines.join(",\n")}\n}`;
}

/** The request as a command. Nothing in it has a quote that the shell would see, and a key does not stand in it. */
export function curlOf(request, origin, keyed) {
  const key = keyed ? ' -H "X-API-Key: $KEY"' : "";
  return `curl ${origin}/run${key} -H 'Content-Type: application/json' -d '${jsonOf(request)}'`;
}
