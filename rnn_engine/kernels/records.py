"""What Python tells the code, and parts of the code each other: arrays of 64-bit numbers, read by name."""

#: A call. Addresses begin with "@"; those of states and data are of the call's own rows.
CALL = (
    # the batch: how many steps; where each begins in the packed data and how many rows are alive then (0: an even
    # batch, all of them); how many rows there are; the rank of the first row that this call computes, and the one
    # behind the last
    "steps", "@starts", "@alive", "rows", "first", "end",
    # inputs [any, x_stride]; which of them the rows of the data are (0: the data's own); and where in the data step t
    # of row m of an even batch stands: at base + m·row + t·time
    "@x", "x_stride", "@x_index", "x_base", "x_row", "x_time",
    # outputs [any, out_stride], and the same of them
    "@out", "out_stride", "@out_index", "out_base", "out_row", "out_time",
    # states [rows, h_stride] and [rows, units], initial before, final after; room for a step's [rows, units]
    "@h", "@c", "@spare",
    # room for `room` rows of pre-activations [room, z_stride]; whole numbers [2·room]
    "@z", "room", "@index",
    # from here on the cell's own, the same in every call: features; units and outputs, padded to whole vectors; outputs
    "depth", "units", "h_stride", "width",
    # floats in a row of z; where in it the candidate's pre-activations stand, and the recurrent half of them (gru)
    "z_stride", "candidate", "candidate_h",
    # phases that project inputs (0: x holds rows of z already), and phases of a step
    "input_phases", "@inputs", "step_phases", "@step",
    # peepholes [units] each; numbers that clip: pre-activations, c, h
    "@w_i", "@w_f", "@w_o", "@clips",
)  # fmt: skip

#: A phase: the address of a function of the cell; or, where that is 0, a product of `depth` columns of h (source 0), of
#: spare (1) or of x (2) with a packed matrix, which goes to h, or to z at an offset, and starts from a row, or from
#: what is there.
PHASE = ("@function", "@matrix", "depth", "groups", "source", "to_h", "offset", "@start")

FROM_H, FROM_SPARE, FROM_X = 0, 1, 2

#: Rows that one array holds the inputs of, and one the outputs, of which some steps are to be computed. Inputs and
#: outputs begin at a number of floats (inputs that are token ids: of whole numbers), counted from address 0.
SEGMENT = (
    # how many rows; which of them to compute: from `first` on, before `end`; their lengths (0: all `length`); the step
    # from which on to compute
    "rows", "first", "end", "@lengths", "length", "done",
    # where the inputs begin; where each row's do, behind that (0: `x_row` from row to row); from step to step
    "x", "@x_starts", "x_row", "x_time",
    # the same of the outputs
    "out", "@out_starts", "out_row", "out_time",
    # the states, changed in place: one part of all rows after the other
    "state",
)  # fmt: skip

#: A cell of a stack of layers.
CELL = (
    # its own fields of a call; where its outputs stand beside those of the layer's other direction
    "@numbers", "column",
    # whether it reads the sequence from its end, and whether it leaves its outputs in that order
    "backward", "reversed",
    # whether it is in the first layer, in the last, and the last cell of its layer; columns of the layer, and of the
    # one below
    "first", "last", "ends", "columns", "below",
    # rows that token ids choose (0: the inputs are floats), and floats from one to the next
    "@table", "table_stride",
    # where c and h stand in a row's state, as a number of columns before them, and how many columns they are; c may be
    # none
    "c_at", "c_size", "h_at", "h_size",
    # rows of pre-activations to work on at a time
    "z_rows",
)  # fmt: skip

#: Some steps of some segments through a stack of layers.
STACK = (
    # the segments; the most steps to compute of a row
    "segment_count", "@segments", "steps",
    # which part of the rows to compute, of how many parts with about as many steps each
    "part", "parts",
    # the cells; whether token ids come in
    "cell_count", "@cells", "embeds",
    # rooms, see `Stack`
    "@floats", "@wholes",
)  # fmt: skip

#: A part of an array of floats that is to be written as JSON: the array, which has CHUNK floats or more; where the text
#: goes; which float is the first, and how many; the array's rank. Behind the record stands the array's shape.
TEXT = ("@x", "@out", "first", "count", "rank")
#: Floats whose digits are worked out at a time.
CHUNK = 64
#: The most axes that NumPy gives an array.
MOST_RANK = 64

#: Text in which arrays of numbers are to be found; room for so many numbers of them, for so many lengths of their rows,
#: and for so many records of what was found.
SKIM = ("size", "@values", "most_values", "@rows", "most_rows", "@found", "most")
#: An array that was found: where its text begins and ends; which number is its first, and how many there are; its rank;
#: whether its rows differ in length, and where these stand; whether some number is no whole one; the axes' sizes.
FOUND = ("begin", "end", "first", "count", "rank", "ragged", "first_row", "fractions", "sizes")
MOST_FOUND_RANK = 8
#: Whole numbers of such a record, the sizes of all axes included.
FOUND_SIZE = len(FOUND) - 1 + MOST_FOUND_RANK
