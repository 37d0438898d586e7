// The page put together: settings → POST /run → picture, panel, request.
import { Problem, cells, run } from "./api.js";
import { createControls } from "./controls.js";
import { createCopies } from "./copy.js";
import { ramp } from "./draw/heat.js";
import { showCall } from "./panel.js";
import { createPicture } from "./picture.js";
import { curlOf, jsonOf, lowerRequestsOf, requestOf } from "./request.js";
import { START, createStore } from "./state.js";
import { callAt, traceOf } from "./trace.js";

const SOON = 120; // milliseconds without a keystroke, before the service is asked

const at = (id) => document.getElementById(id);
const store = createStore(START);
const controls = createControls(
  { form: at("controls"), sequences: at("sequences"), general: at("general"), cell: at("cell") },
  {
    settings: START.settings,
    row: START.row,
    change: (settings) => store.set({ settings }),
    show: (row) => store.set({ row }),
  },
);
const picture = createPicture(
  {
    rows: at("rows"),
    net: at("net"),
    scroll: at("scroll"),
    told: at("told"),
    pager: at("pager"),
    pagerTold: at("pager-told"),
    earlier: at("earlier"),
    later: at("later"),
  },
  {
    select: (selected, byKey) => {
      store.set({ selected });
      if (byKey) at("panel-title").focus();
    },
    turn: (first) => store.set({ first }),
  },
);
const panel = { panel: at("panel"), title: at("panel-title"), told: at("panel-told"), numbers: at("panel-numbers") };
let trace = null;
let asking = new AbortController();
let waiting = null;
let known = null; // GET /cells, asked for once

store.subscribe((now, old) => {
  if (now.settings !== old.settings) {
    controls.sketch(now.settings.max_time);
    clearTimeout(waiting);
    waiting = setTimeout(askFor, SOON, now.settings);
  }
  if (now.problem !== old.problem) controls.complain(now.problem);
  if (now.busy !== old.busy) at("picture").setAttribute("aria-busy", String(now.busy));
  at("picture").classList.toggle("stale", now.problem !== null);
  at("stale").hidden = now.problem === null || now.answered === null;
  if (now.problem && !now.answered) at("told").textContent = "Nothing is drawn yet.";
  if (now.answered !== old.answered || now.row !== old.row || now.first !== old.first) draw(now);
  if (now.selected !== old.selected) choose(now);
});
at("panel").addEventListener("keydown", (event) => {
  if (event.key === "Escape") picture.focus(store.get().selected);
});
createCopies(document, at("copied"));
at("key-heat").append(ramp(0, 0, 85, 14));
controls.sketch(START.settings.max_time);
askFor(START.settings);

/** Asks the service for these settings; what was asked before is no longer of interest. */
async function askFor(settings) {
  asking.abort();
  const { signal } = (asking = new AbortController());
  try {
    const request = requestOf(settings);
    store.set({ busy: true });
    known ??= await cells(signal).then((found) => {
      controls.offer(found, settings.cell);
      return found;
    });
    const every = [request, ...lowerRequestsOf(request)];
    const [answer, ...lower] = await Promise.all(every.map((one) => run(one, settings.api_key, signal)));
    const answered = { request, answer, lower, cell: known.get(settings.cell), keyed: settings.api_key !== "" };
    const first = store.get().first < settings.max_time ? store.get().first : 0;
    store.set({ answered, first, problem: null, busy: false });
  } catch (error) {
    if (error.name === "AbortError") return;
    store.set({ problem: error instanceof Problem ? error : new Problem(String(error)), busy: false });
    if (!(error instanceof Problem)) throw error;
  }
}

function draw({ answered, row, first }) {
  if (!answered) return;
  const { request, answer, lower, cell, keyed } = answered;
  trace = traceOf(cell, request, answer, lower, row);
  picture.draw(trace, first);
  choose(store.get());
  at("net-told").textContent = wordsOf(answer.model, request.dtype);
  at("json").textContent = jsonOf(request);
  at("curl").textContent = curlOf(request, location.origin, keyed);
  at("lower").hidden = !lower.length;
}

/** What net it is. */
function wordsOf(model, dtype) {
  const out = `${model.output_size} ${model.output_size === 1 ? "value" : "values"} out`;
  return `${model.input_size} features in, ${out}, ${model.parameters.toLocaleString("en")} parameters, in ${dtype}.`;
}

function choose({ selected }) {
  if (!trace) return;
  picture.mark(selected);
  showCall(panel, trace, callAt(trace, selected));
}
