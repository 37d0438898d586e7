// The colour scale: diverging, blue below 0 and orange above, which every kind of colour blindness tells apart.
// A value is a level from -LEVELS to LEVELS; heat.css gives each level its colour, for light and for dark.

export const LEVELS = 8;

/** The largest magnitude in lists of numbers: where the scale of a row ends. */
export function boundOf(lists) {
  let bound = 0;
  for (const values of lists) for (const value of values) bound = Math.max(bound, Math.abs(value));
  return bound;
}

/** The level of a value on a scale that ends at ±bound. */
export function levelOf(value, bound) {
  return bound > 0 ? Math.max(-LEVELS, Math.min(LEVELS, Math.round((value / bound) * LEVELS))) : 0;
}

/** The class that colours a level. */
export function classOf(level) {
  return level < 0 ? `heat below-${-level}` : level > 0 ? `heat above-${level}` : "heat level-0";
}

/** A number in a few characters, with a true minus sign. */
export function short(value, digits = 2) {
  const text = value !== 0 && Math.abs(value) < 0.5 * 10 ** -digits ? value.toExponential(0) : value.toFixed(digits);
  return text.replaceAll("-", "−");
}
