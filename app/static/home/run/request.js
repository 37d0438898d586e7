// From the settings of the page to requests.
import { Problem } from "../api.js";
import { MOST, batchOf } from "../batch/batch.js";

/** What the picture is drawn of. */
const RETURNED = ["outputs", "state", "states", "gates"];

const DIRECTIONS = {
  forward: {},
  bidirectional: { bidirectional: true },
  reverse: { cell_options: { direction: "reverse" } },
};

/**
 * The body of POST /run. `about` is what GET /models/{name} tells of a registered model, null without one. Throws a
 * Problem for what the page does not draw; all else is the service's to judge.
 */
export function requestOf(settings, about) {
  return about ? ofModel(settings, about) : ofCell(settings);
}

function ofCell(settings) {
  for (const [name, what] of [
    ["num_layers", "layers"],
    ["num_units", "units"],
  ]) {
    if (settings[name] > MOST[name]) {
      throw Problem.at(`/${name}`, `This page draws up to ${MOST[name]} ${what}; POST /run takes more.`);
    }
  }
  const batch = batchOf(settings);
  const ways = settings.direction === "bidirectional" ? 2 : 1;
  checkSize(batch, settings.num_layers * settings.num_units * ways);
  return {
    cell: settings.cell,
    num_layers: settings.num_layers,
    num_units: settings.num_units,
    ...DIRECTIONS[settings.direction],
    seed: settings.seed,
    dtype: "float64",
    ...batch,
    return: RETURNED,
  };
}

function ofModel(settings, about) {
  const size = about.embedding?.vocabulary_size ?? 0;
  const batch = batchOf(settings, { embeds: size > 0, vocabulary: about.vocabulary, size });
  const units = about.layers.map((layer) => layer.units * (layer.bidirectional ? 2 : 1));
  checkSize(
    batch,
    units.reduce((sum, one) => sum + one, 0),
  );
  const returned = about.readout ? [...RETURNED, "predictions"] : RETURNED;
  return { model: settings.model, dtype: "float64", ...batch, return: returned };
}

/** The page asks for everything that happens at every step: not for more than it can hold. */
function checkSize({ inputs }, width) {
  const steps = Math.max(0, ...inputs.map((row) => row.length));
  const numbers = inputs.length * steps * width;
  if (numbers <= MOST.numbers) return;
  const told = [numbers, MOST.numbers].map((count) => count.toLocaleString("en"));
  throw new Problem(
    `Sequences × steps × layers × units is ${told[0]}; this page asks for up to ${told[1]}. ` +
      "Make one of them smaller, or ask POST /run yourself.",
  );
}
