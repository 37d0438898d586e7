// One object holds what the page shows; whoever shows a part of it subscribes.

/** The batch at the start: three sequences of 6, 4 and 6 steps, padded to 6. */
export const START = {
  settings: {
    cell: "lstm",
    num_layers: 2,
    num_units: 5,
    bidirectional: false,
    seed: 0,
    max_time: 6,
    lengths: [6, 4, 6],
    api_key: "", // asked for once the service wants one, and kept nowhere else
  },
  row: 1, // the sequence that is shown: the one with padding
  first: 0, // the first step that is drawn
  selected: { layer: 1, direction: "forward", step: 2 }, // counted from 1, as they are shown
  answered: null, // {settings, runs}: the last answer, and what it answers
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
