// The exact numbers behind what is drawn: by element, for whoever points at it or has the focus on it.

const readings = new WeakMap();

/** Notes what an element shows: {name, columns: [{name, values}], top, size}; returns the element. */
export function noted(element, reading) {
  readings.set(element, reading);
  return element;
}

/** What an element shows; undefined where nothing was noted. */
export function readingOf(element) {
  return readings.get(element);
}
