// A run: what was asked for, what was answered, and what the page must know of the net to draw it.
import { cells, post } from "../api.js";
import { requestOf } from "./request.js";

/** Asks for runs, and remembers what does not change: the cells. */
export function createRunner() {
  let known = null;
  const ofCells = async (key, signal) => (known ??= await cells(key, signal));

  return {
    /** GET /cells by name, asked for once. */
    cells: ofCells,

    /**
     * The run of some settings: {settings, request, answer, weights, initial, net}. `about` is what the service tells
     * of the registered model in them, or null. Throws a Problem.
     */
    async run(settings, about, signal) {
      const key = settings.api_key;
      const request = requestOf(settings, about);
      const ask = (body) => post("/run", body, key, signal);
      const own = about?.layers.some((layer) => layer.initial_state);
      const [table, answer, weights, initial] = await Promise.all([
        ofCells(key, signal),
        ask(request),
        about ? null : ask(oneStep(request, "weights")),
        own ? ask({ ...request, lengths: request.inputs.map(() => 0), return: ["state"] }) : null,
      ]);
      const net = netOf(table, request, answer, about);
      return { settings, request, answer, weights: weights?.weights ?? null, initial: initial?.state ?? null, net };
    },
  };
}

/** What a net has whatever it reads: asked for with one step of one row, which costs nothing. */
function oneStep({ inputs, lengths, ...request }, name) {
  return { ...request, inputs: [[inputs.find((row) => row.length)?.[0] ?? []]], return: [name] };
}

/** What is drawn of a net: {layers: [{cell, sides, merge, residual, goesBackwards}], about}. */
function netOf(table, request, { model: told }, about) {
  const each = (value, k) => (Array.isArray(value) ? value[k] : value);
  const layers = Array.from({ length: told.num_layers }, (_, k) => {
    const layer = about?.layers[k];
    const options = layer?.options ?? request.cell_options ?? {};
    const backward = options.direction === "reverse" || layer?.go_backwards;
    return {
      cell: table.get(each(told.cell, k)),
      sides: each(told.bidirectional, k) ? ["forward", "backward"] : [backward ? "backward" : "forward"],
      merge: layer?.merge_mode ?? "concat",
      residual: told.residual?.[k] ?? false,
      goesBackwards: layer?.go_backwards ?? false,
    };
  });
  return { layers, about };
}
