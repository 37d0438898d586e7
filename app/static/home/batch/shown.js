// What the form shows of a batch, whether it is whole already or not.
import { batchOf } from "./batch.js";
import { textOf } from "./typed.js";

/** {lengths, maxTime} of the settings; what is typed and makes no sense yet has none. */
export function shownBatch(settings, about) {
  const embeds = Boolean(about?.embedding);
  if (!embeds && settings.batch !== "typed") return { lengths: settings.lengths, maxTime: settings.max_time || 0 };
  const size = about?.embedding?.vocabulary_size ?? 0;
  const batch = attempt(() => batchOf(settings, { embeds, vocabulary: about?.vocabulary, size }));
  const lengths = batch?.lengths ?? batch?.inputs.map((row) => row.length) ?? [];
  return { lengths, maxTime: Math.max(0, ...(batch?.inputs ?? []).map((row) => row.length)) };
}

/** The batch of the settings as text, to go on from; nothing where it makes no sense. */
export function typedText(settings) {
  const batch = attempt(() => batchOf(settings));
  return batch ? textOf(batch) : "";
}

/** What a function gives; null where it has a Problem, which is told when the service is asked. */
function attempt(make) {
  try {
    return make();
  } catch {
    return null;
  }
}
