"""Files of sequences through a model: `unrolled score`.

sequences.py   ragged sequences one after the other: what every module here hands on
npz.py         NPZ files, in and out, read and written piece by piece with NumPy alone
columns.py     Arrow columns to sequences, and arrays to columns     arrow_files.py   Parquet and Arrow IPC files
files.py       which of these a file's name asks for
planning.py    how much of a file is held at a time, and in which batches it is computed
computing.py   one batch of sequences through a network: all that a worker elsewhere would need
journal.py     what is done already, safe on disk: parts, and a line for each
run.py         all of it together: reading, computing and writing side by side
"""
