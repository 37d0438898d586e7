// One object holds what the page shows; whoever shows a part of it subscribes.

/** At the start: the article's batch, three sequences of 6, 4 and 6 steps with 4 features, through two LSTM layers. */
export const START = {
  settings: {
    model: "", // a registered model; without one, a cell with weights drawn from the seed
    cell: "lstm",
    num_layers: 2,
    num_units: 5,
    direction: "forward",
    seed: 0,
    batch: "example", // or "random", or "typed"
    roll: 1, // which random batch
    count: 3,
    features: 4,
    max_time: 6,
    lengths: [6, 4, 6],
    typed: "", // the batch as text, where it is typed
    beside: [], // cells to compare with
    api_key: "", // asked for once the service wants one, and kept nowhere else
  },
  cells: [], // names of the cells
  models: [], // names of the registered models
  about: null, // what the service tells of the model in the settings
  row: 1, // the sequence that is shown: the one with padding
  first: 0, // the first step that is drawn
  selected: { layer: 1, direction: "forward", step: 2 }, // counted from 1, as they are shown
  unit: 0, // whose numbers stand in the equations, from 0
  tick: null, // how many calls of each layer are shown as made; null: all
  answered: null, // the last run that was answered, see run/run.js
  kept: [], // earlier runs, to compare with
  problem: null,
  busy: false,
};

/** A store: `get()`, `set(changes)`, and `subscribe(seen)`, called with (new, old) after each change. */
export function createStore(initial) {
  let state = initial;
  const subscribers = [];
  return {
    get: () => state,
    set(changes) {
      const old = state;
      state = { ...state, ...changes };
      for (const seen of subscribers) seen(state, old);
    },
    subscribe: (seen) => subscribers.push(seen),
  };
}
