// The page put together: settings → POST /run → picture, inspector, comparison, request.
import { createAsker } from "./asker.js";
import { shownBatch, typedText } from "./batch/shown.js";
import { createClock } from "./clock.js";
import { createComparison, labelOf } from "./compare/compare.js";
import { createCopies } from "./copy.js";
import { DRAWN } from "./draw/geometry.js";
import { ramp } from "./draw/heat.js";
import { createForm } from "./form.js";
import { createGeneration } from "./generation.js";
import { createPanel } from "./inspect/panel.js";
import { createPicture } from "./picture.js";
import { SNIPPETS, stateText } from "./run/snippets.js";
import { callAt, traceOf } from "./run/trace.js";
import { START, createStore } from "./state.js";
import { createTip } from "./tip.js";
import { createUpload } from "./upload.js";

const at = (id) => document.getElementById(id);
/** Elements by the names that a part of the page has for them, from their ids. */
const parts = (names) => Object.fromEntries(Object.entries(names).map(([name, id]) => [name, at(id)]));

const store = createStore(START);
const asker = createAsker(store);
let trace = null;

at("key-heat").append(ramp(0, 0, 85, 14));

const form = createForm(
  parts({ form: "controls", sequences: "sequences", general: "general", cell: "cell", model: "model", roll: "roll" }),
  { get: () => store.get().settings, change, show: (row) => store.set({ row, tick: null }) },
);
const picture = createPicture(
  parts({
    rows: "rows",
    net: "net",
    heat: "heat",
    veils: "veils",
    key: "key-heat",
    scroll: "scroll",
    told: "told",
    pager: "pager",
    pagerTold: "pager-told",
    earlier: "earlier",
    later: "later",
  }),
  {
    select: (selected, byKey) => {
      store.set({ selected });
      if (byKey) panel.focus();
    },
    turn: (first) => store.set({ first }),
  },
);
const panel = createPanel(
  parts({
    panel: "panel",
    title: "panel-title",
    told: "panel-told",
    numbers: "panel-numbers",
    unit: "unit",
    exact: "exact",
    equations: "equations",
    options: "options",
  }),
  { choose: (unit) => store.set({ unit }), leave: () => picture.focus(store.get().selected) },
);
const clock = createClock(
  parts({
    start: "to-start",
    back: "back",
    play: "play",
    forth: "forth",
    end: "to-end",
    range: "tick",
    told: "tick-told",
  }),
  { turn: (tick) => store.set({ tick, ...followed(tick) }) },
);
const comparison = createComparison(
  parts({ choices: "beside", compared: "compared", keep: "keep", forget: "forget" }),
  {
    beside: (names) => change({ ...store.get().settings, beside: names }),
    onKeep: () =>
      store.set({ kept: [...store.get().kept, { label: labelOf(store.get().answered), run: store.get().answered }] }),
    onForget: () => store.set({ kept: [] }),
  },
);
const generation = createGeneration(
  parts({
    section: "generation",
    form: "prompt",
    prompt: "prompt-text",
    steps: "max_steps",
    temperature: "temperature",
    seed: "draw",
    stop: "stop",
    write: "write",
    halt: "halt",
    fault: "generation-fault",
    written: "written",
    told: "generation-told",
  }),
  { get: () => ({ ...store.get().settings, about: store.get().about, key: store.get().settings.api_key }) },
);
createUpload(
  parts({
    name: "upload-name",
    files: "upload-files",
    config: "upload-config",
    send: "upload-send",
    told: "upload-told",
  }),
  {
    key: () => store.get().settings.api_key,
    done: (made) => {
      store.set({ about: null, models: [...new Set([...store.get().models, made.name])].toSorted() });
      change({ ...store.get().settings, model: made.name });
    },
  },
);
for (const id of ["net", "compared"]) createTip(at(id), at("tip"));
createCopies(document, at("copied"));
at("languages").addEventListener("change", () => request(store.get().answered));

store.subscribe((now, old) => {
  const changed = (...names) => names.some((name) => now[name] !== old[name]);
  if (changed("settings") && now.settings !== now.answered?.settings) asker.askSoon();
  if (changed("settings", "about", "row", "answered")) fields(now);
  if (changed("cells", "models", "settings")) offers(now);
  if (changed("problem")) form.complain(now.problem);
  if (changed("about")) generation.render(now.about);
  if (changed("busy")) at("picture").setAttribute("aria-busy", String(now.busy));
  at("picture").classList.toggle("stale", now.problem !== null);
  at("stale").hidden = now.problem === null || now.answered === null;
  if (now.problem && !now.answered) at("told").textContent = "Nothing is drawn yet.";
  if (!now.answered) return;
  if (changed("answered", "row", "first")) draw(now);
  if (changed("answered")) clock.pause();
  if (changed("answered", "row", "tick")) clock.render(now.tick, trace.length);
  if (changed("tick", "answered", "row")) picture.step(now.tick);
  if (changed("answered", "row", "first", "selected", "unit")) inspect(now);
  if (changed("answered", "row", "unit", "kept")) compare(now);
  if (changed("answered")) texts(now.answered);
});
fields(store.get());
asker.ask();

/** New settings; a batch that is to be typed begins as what it was. */
function change(settings) {
  const { settings: old, about } = store.get();
  const begins = settings.batch === "typed" && old.batch !== "typed" && !about?.embedding;
  store.set({ settings: begins ? { ...settings, typed: typedText(old) } : settings });
}

/** The form as the settings are, with the lengths that follow from them. */
function fields({ settings, about, row }) {
  const { lengths, maxTime } = shownBatch(settings, about);
  form.render(settings, about, row, lengths, maxTime);
}

function offers({ cells, models, settings }) {
  if (!cells.length) return;
  form.offer(cells, models, settings);
  comparison.offer(cells, settings);
}

function draw({ answered, row, first }) {
  trace = traceOf(answered, row);
  picture.draw(trace, first);
  at("net-told").textContent = wordsOf(answered);
}

/** What net it is. */
function wordsOf({ answer: { model }, request }) {
  const out = `${model.output_size} ${model.output_size === 1 ? "value" : "values"} out`;
  const weights = `${model.parameters.toLocaleString("en")} parameters`;
  return `${model.input_size} features in, ${out}, ${weights}, in ${request.dtype}.`;
}

function inspect({ selected, unit }) {
  picture.mark(selected);
  panel.show(trace, callAt(trace, selected), unit);
}

function compare({ answered, kept, row, unit }) {
  const here = { label: labelOf(answered), run: answered };
  comparison.render([here, ...answered.others, ...kept], row, unit, kept.length);
}

function texts(answered) {
  at("final").textContent = stateText(answered.answer.state);
  request(answered);
}

function request({ request: body, settings }) {
  const language = at("languages").querySelector(":checked").value;
  at("snippet").textContent = SNIPPETS[language](body, `${location.origin}/run`, settings.api_key !== "");
}

/** The selected cell goes along with the steps, so that the inspector shows what is computed. */
function followed(tick) {
  const { selected } = store.get();
  const lane = trace.layers[selected.layer - 1]?.lanes.find(({ direction }) => direction === selected.direction);
  const call = lane?.calls.find((one) => one?.tick === tick);
  if (!call) return {};
  const { first } = store.get();
  const shown = call.step > first && call.step <= first + DRAWN.steps;
  const page = Math.floor((call.step - 1) / DRAWN.steps) * DRAWN.steps;
  return { selected: { ...selected, step: call.step }, ...(shown ? {} : { first: page }) };
}
