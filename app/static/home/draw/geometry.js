// Where everything of the picture stands, in pixels. Drawing only reads it.

/** What is drawn at most; what is not is said. */
export const DRAWN = { steps: 64, values: 32 };

const STRIP = 17; // width of a column of values
const GAP = 3; // between columns of one box
const INSET = 9; // of a box around its columns
const LETTERS = 15; // height of the line that names the columns
const RISE = 38; // of an arrow from row to row
const SHIFT = 22; // of the backward boxes, so that lines pass on either side
const LANES = 20; // between the two directions' boxes
const BETWEEN = { least: 26, most: 90 }; // from one column to the next

/** The places for a trace whose first drawn step is number `first` (from 0), in about `room` pixels where it fits. */
export function geometryOf(trace, first, room) {
  const states = trace.cell.state.length;
  const lanes = trace.layers[0].lanes.length;
  const units = Math.max(...trace.layers.map((layer) => layer.lanes[0].final.h.length));
  const drawn = (count) => Math.min(count, DRAWN.values);
  const size = drawn(units * lanes) <= 8 ? 12 : drawn(units * lanes) <= 16 ? 9 : 6;
  const shift = lanes > 1 ? SHIFT : 0;
  const box = {
    width: Math.max(62, 2 * INSET + states * STRIP + (states - 1) * GAP),
    height: LETTERS + drawn(units) * size + 10,
  };
  const count = Math.min(trace.steps - first, DRAWN.steps);
  const left = 6;
  const tight = box.width + shift + BETWEEN.least;
  const spread = Math.floor((room - left - box.width - shift - 4) / (count + 1));
  const pitch = Math.max(tight, Math.min(spread, tight + BETWEEN.most - BETWEEN.least));
  const begin = left + pitch;
  const layerHeight = lanes * box.height + (lanes - 1) * LANES;
  const merge = lanes > 1 ? 16 : 0; // where two directions' outputs become one

  const strip = (values) => drawn(values.length) * size;
  const outputs = { y: 8, height: strip(trace.outputs[0] ?? []) };
  outputs.y = Math.max(outputs.y, 22 - outputs.height / 2); // room for the row's name beside a single value
  let y = outputs.y + outputs.height + RISE + merge;
  const layers = trace.layers
    .toReversed()
    .map(({ number }) => {
      const place = { number, y, height: layerHeight };
      y += layerHeight + RISE + merge;
      return place;
    })
    .toReversed();
  const inputs = { y: y - merge, height: strip(trace.inputs[0] ?? []) };
  const axis = inputs.y + inputs.height + 20;
  return {
    size, strip: STRIP, gap: GAP, letters: LETTERS, shift, lanes, box, pitch, first, count, begin, left,
    outputs, layers, inputs, axis, merge, drawn,
    end: begin + count * pitch,
    width: begin + count * pitch + box.width + shift + 4,
    height: axis + 30,
    /** The left edge of step t's column (from 0). */
    column: (t) => begin + (t - first) * pitch,
    /** The top left corner of a lane's box in the column that begins at x: backward ones stand above, to the right. */
    corner: (layer, side, x) => ({
      x: x + side * shift,
      y: layer.y + (lanes - 1 - side) * (box.height + LANES),
    }),
  };
}
