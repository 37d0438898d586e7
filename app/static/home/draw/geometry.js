// Where everything of the picture stands, in pixels. Drawing only reads it.

/** What is drawn at most; what is not is said. */
export const DRAWN = { steps: 64, values: 64 };

/** Measures of the picture: roomy for the few steps of an example, close where there are many. */
const ROOMY = {
  strip: 17, // width of a column of values
  gap: 3, // between columns of one box
  inset: 9, // of a box around its columns
  letters: 15, // height of the line that names the columns
  least: 62, // width of a box
  between: { least: 26, most: 90 }, // from one column to the next
};
const CLOSE = { strip: 9, gap: 2, inset: 4, letters: 6, least: 24, between: { least: 13, most: 26 } };
const ROOMY_STEPS = 16;

const RISE = 38; // of an arrow from row to row
const SHIFT = 22; // of the backward boxes, so that lines pass on either side
const LANES = 20; // between the two directions' boxes

/** The places for a trace whose first drawn step is number `first` (from 0), in about `room` pixels where it fits. */
export function geometryOf(trace, first, room) {
  const count = Math.min(trace.steps - first, DRAWN.steps);
  const close = count > ROOMY_STEPS;
  const measures = close ? CLOSE : ROOMY;
  const states = Math.max(...trace.layers.map((layer) => Object.keys(layer.lanes[0].final).length));
  const lanes = Math.max(...trace.layers.map((layer) => layer.lanes.length));
  const units = Math.max(...trace.layers.map((layer) => Math.max(...Object.values(layer.lanes[0].final).map(sizeOf))));
  const drawn = (size) => Math.min(size, DRAWN.values);
  const size = sizeFor(drawn(units * lanes));
  const shift = lanes > 1 ? SHIFT : 0;
  const { strip, gap, inset, letters, between } = measures;
  const box = {
    width: Math.max(measures.least, 2 * inset + states * strip + (states - 1) * gap),
    height: letters + drawn(units) * size + 10,
  };
  const left = 6;
  const tight = box.width + shift + between.least;
  const spread = Math.floor((room - left - box.width - shift - 4) / (count + 1));
  const pitch = Math.max(tight, Math.min(spread, tight + between.most - between.least));
  const begin = left + pitch;
  const layerHeight = lanes * box.height + (lanes - 1) * LANES;
  const merge = lanes > 1 ? 16 : 0; // where two directions' outputs become one

  const outputs = { y: 8, height: drawn(sizeOf(trace.outputs[0])) * size };
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
  const inputs = { y: y - merge, height: trace.inputs ? drawn(sizeOf(trace.inputs[0])) * size : 22 };
  const axis = inputs.y + inputs.height + 20;
  return {
    close,
    size,
    strip,
    gap,
    letters,
    shift,
    lanes,
    box,
    pitch,
    first,
    count,
    begin,
    left,
    outputs,
    layers,
    inputs,
    axis,
    merge,
    drawn,
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

function sizeOf(values) {
  return values?.length ?? 0;
}

/** Height of one of so many values. */
function sizeFor(count) {
  if (count <= 8) return 12;
  if (count <= 16) return 9;
  return count <= 32 ? 6 : 4;
}
