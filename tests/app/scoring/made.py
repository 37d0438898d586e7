"""Files of sequences for the tests, networks, and what the equations say of them."""

import json
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from app.scoring import run
from app.scoring.arrow_files import KEY
from rnn_engine import Network
from tests.app.test_models import oracle, state_dict

SIZE, UNITS = 4, 3
WEIGHTS = state_dict("lstm", [SIZE, UNITS], seed=1)
MEMORY = 1 << 30


def lstm(dtype="float32", **more):
    return Network.from_weights({"layout": "pytorch", "state_dict": WEIGHTS | more}, "lstm", dtype)


def ragged(rows, longest=9, *, size=SIZE, seed=0):
    """A list of sequences [t, size] of lengths from 0 on."""
    random = np.random.default_rng(seed)
    lengths = random.integers(0, longest + 1, rows)
    return [random.standard_normal((length, size)).astype(np.float32) for length in lengths]


def expected(sequences, weights=WEIGHTS, cell="lstm"):
    """By PyTorch's documentation, in float64: outputs as a list of [t, units], and the only layer's final state."""
    lengths = [len(one) for one in sequences]
    padded = np.zeros((len(sequences), max(lengths), sequences[0].shape[1]), np.float32)
    for row, one in enumerate(sequences):
        padded[row, : len(one)] = one
    outputs, states = oracle(weights, cell, padded, lengths)
    return [outputs[row, :length] for row, length in enumerate(lengths)], states[-1]


def last_of(outputs, units=UNITS):
    return np.array([one[-1] if len(one) else np.zeros(units) for one in outputs])


def table(sequences, kind=None, **columns):
    kind = kind or pa.list_(pa.list_(pa.float32()))
    return pa.table({"inputs": pa.array([one.tolist() for one in sequences], kind), **columns})


def write(path, made, *, rows=7):
    """A table as the file that its name asks for, in row groups or batches of so many rows."""
    if path.suffix == ".parquet":
        pq.write_table(made, path, row_group_size=rows)
    else:
        with pa.ipc.new_file(path, made.schema) as writer:
            writer.write_table(made, max_chunksize=rows)
    return path


def save(path, sequences, *, packed=True, **more):
    lengths = np.array([len(one) for one in sequences])
    if packed:
        np.savez(path, inputs=np.concatenate(sequences), lengths=lengths, **more)
    else:
        padded = np.full((len(sequences), lengths.max(), sequences[0].shape[1]), np.nan, np.float32)
        for row, one in enumerate(sequences):
            padded[row, : len(one)] = one
        np.savez(path, inputs=padded, lengths=lengths, **more)
    return path


def read(path):
    """The columns of an answer, as lists with an entry for each row; and what it says of itself."""
    if path.suffix == ".npz":
        with np.load(path) as stored:
            arrays = dict(stored)
        ends = np.cumsum(arrays.get("lengths", []))
        rows = max([len(ends), *(len(a) for a in arrays.values() if not len(ends))])
        split = lambda a: a if len(a) == rows else np.split(a, ends[:-1].astype(int))  # noqa: E731
        return {name: split(array) for name, array in arrays.items()}
    if path.suffix == ".parquet":
        found = pq.read_table(path)
    else:
        with pa.memory_map(str(path)) as file:
            found = pa.ipc.open_file(file).read_all()
    assert "digest" in json.loads(found.schema.metadata[KEY])["model"]
    return {name: found.column(name).to_pylist() for name in found.column_names}


@contextmanager
def silent(label, total, unit):
    yield lambda more: None


def scored(source, output, net=None, **given):
    request = run.Request(source, output, **{"memory": MEMORY} | given)
    return run.score(request, net or lstm(), silent)


def assert_rows_close(got, wanted):
    assert len(got) == len(wanted)
    for one, other in zip(got, wanted, strict=True):
        one, other = np.asarray(one, float), np.asarray(other, float)
        np.testing.assert_allclose(one.reshape(other.shape), other, rtol=0, atol=2e-6)
