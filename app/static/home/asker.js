// Asks the service for what the settings say, and puts what it answers into the store.
import { Problem, model, models } from "./api.js";
import { exampleOf } from "./batch/tokens.js";
import { labelOf } from "./compare/compare.js";
import { createRunner } from "./run/run.js";

const SOON = 120; // milliseconds without a keystroke, before the service is asked

/** `ask()` now, or `askSoon()`; only the last one of several is answered. */
export function createAsker(store) {
  const runner = createRunner();
  let asking = new AbortController();
  let waiting = null;

  async function ask() {
    asking.abort();
    const { signal } = (asking = new AbortController());
    const { settings } = store.get();
    store.set({ busy: true });
    try {
      await list(settings.api_key, signal);
      const changes = await answered(settings, signal);
      if (store.get().settings !== settings) return; // something was typed meanwhile: that is asked for in a moment
      store.set({ ...changes, tick: null, problem: null, busy: false });
    } catch (error) {
      if (error.name === "AbortError") return;
      store.set({ problem: error instanceof Problem ? error : new Problem(String(error)), busy: false });
      if (!(error instanceof Problem)) throw error;
    }
  }

  /** What there is to choose from, asked for until it is known. */
  async function list(key, signal) {
    if (store.get().cells.length) return;
    const [cells, every] = await Promise.all([runner.cells(key, signal), models(key, signal)]);
    store.set({ cells: [...cells.keys()], models: every.map(({ name }) => name) });
  }

  async function answered(settings, signal) {
    const old = store.get();
    const about = await aboutOf(settings, old.about, signal);
    const fitted = about === old.about ? settings : fit(settings, about);
    const beside = about ? [] : settings.beside.filter((cell) => cell !== settings.cell);
    const [run, ...others] = await Promise.all([
      runner.run(fitted, about, signal),
      ...beside.map((cell) => runner.run({ ...fitted, cell }, null, signal)),
    ]);
    const steps = Math.max(...run.request.inputs.map((one) => one.length));
    return {
      answered: { ...run, others: others.map((other) => ({ label: labelOf(other), run: other })) },
      about,
      settings: fitted,
      row: old.row < run.answer.lengths.length ? old.row : 0,
      first: old.first < steps ? old.first : 0,
    };
  }

  return {
    ask,
    askSoon() {
      clearTimeout(waiting);
      waiting = setTimeout(ask, SOON);
    },
  };
}

/** What the service tells of the registered model; what is known of it already; or null without one. */
async function aboutOf({ model: name, api_key: key }, known, signal) {
  if (!name) return null;
  return known?.name === name ? known : model(name, key, signal);
}

/** Settings with a batch that a model can read; with the example again, where there is none. */
function fit(settings, about) {
  if (!about) return { ...settings, batch: "example", features: 4, count: 3, max_time: 6, lengths: [6, 4, 6] };
  if (!about.embedding)
    return { ...settings, batch: settings.batch === "typed" ? "example" : settings.batch, features: about.input_size };
  return { ...settings, typed: exampleOf(about.vocabulary, about.embedding.vocabulary_size) };
}
