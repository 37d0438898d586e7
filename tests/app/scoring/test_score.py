"""A file in, a file out: values against the equations, whatever the formats; and what is refused."""

import os
import sys
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from app.problems import Problem
from app.scoring import planning, run
from app.scoring.journal import folder_of
from rnn_engine import Network
from rnn_engine.front import Front
from rnn_engine.readout import Embedding
from tests.app.scoring import made
from tests.app.scoring.made import SIZE, UNITS, assert_rows_close, expected, last_of, lstm, ragged, scored, table

ROWS = ragged(40)
OUTPUTS, STATE = expected(ROWS)
FLOATS = pa.float32()
KINDS = {
    "lists of lists": pa.list_(pa.list_(FLOATS)),
    "fixed widths": pa.list_(pa.list_(FLOATS, SIZE)),
    "large lists of doubles": pa.large_list(pa.large_list(pa.float64())),
}


@pytest.fixture
def small(monkeypatch):
    """Windows of a few kilobytes, so that a small file has several."""
    monkeypatch.setattr(planning, "MOST_WINDOW", 1024 * 400)
    monkeypatch.setattr(planning, "BATCH_ROWS", 5)


def refused(*arguments, **given):
    with pytest.raises(Problem) as caught:
        scored(*arguments, **given)
    assert caught.value.detail.count("\n") == 0
    return caught.value.detail


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".feather"])
def test_every_row_of_a_column_of_lists_is_answered_in_its_order(tmp_path, kind, suffix):
    source = made.write(tmp_path / f"in{suffix}", table(ROWS, KINDS[kind]))
    report = scored(source, tmp_path / "out.parquet", returned=["outputs", "last_output", "state"])
    got = made.read(tmp_path / "out.parquet")
    assert list(got) == ["last_output", "state.0.c", "state.0.h", "outputs"]
    assert_rows_close(got["outputs"], OUTPUTS)
    assert_rows_close(got["last_output"], last_of(OUTPUTS))
    assert_rows_close(got["state.0.c"], STATE["c"])
    assert_rows_close(got["state.0.h"], STATE["h"])
    assert (report.rows, report.steps, report.resumed) == (40, sum(map(len, ROWS)), 0)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("suffix", [".npz", ".arrow", ".parquet"])
def test_an_npz_is_read_padded_or_packed_and_written_packed(tmp_path, packed, suffix):
    source = made.save(tmp_path / "in.npz", ROWS, packed=packed, id=np.arange(40))
    scored(source, tmp_path / f"out{suffix}", returned=["outputs", "state"], keep=["id"])
    got = made.read(tmp_path / f"out{suffix}")
    assert_rows_close(got["outputs"], OUTPUTS)
    assert_rows_close(got["state.0.h"], STATE["h"])
    assert list(got["id"]) == list(range(40))
    assert not folder_of(tmp_path / f"out{suffix}").exists()


def test_several_windows_are_the_same_as_one(tmp_path, small):
    rows = ragged(4000)
    source = made.write(tmp_path / "in.parquet", table(rows, id=[f"row {k}" for k in range(4000)]), rows=900)
    scored(source, tmp_path / "out.parquet", returned=["outputs"], keep=["id"])
    assert pq.ParquetFile(tmp_path / "out.parquet").num_row_groups > 3
    got = made.read(tmp_path / "out.parquet")
    assert_rows_close(got["outputs"], expected(rows)[0])
    assert got["id"] == [f"row {k}" for k in range(4000)]


def test_in_float64_and_both_ways_it_is_what_run_says(tmp_path):
    for net in (lstm("float64"), Network.from_seed("gru", [3, 2], SIZE, bidirectional=True)):
        source = made.write(tmp_path / "in.arrow", table(ROWS))
        scored(source, tmp_path / "out.npz", net, returned=["outputs", "last_output", "state"], overwrite=True)
        got = made.read(tmp_path / "out.npz")
        for row, one in enumerate(ROWS):
            outputs, state = net.run(one[np.newaxis])
            np.testing.assert_allclose(got["outputs"][row], outputs[0], rtol=0, atol=1e-12)
            final = state[-1]["h"] if net.bidirectional is False else state[-1]["backward"]["h"]
            name = "state.0.h" if net.bidirectional is False else "state.1.backward.h"
            np.testing.assert_allclose(got[name][row], final[0], rtol=0, atol=1e-12)


def test_a_readout_answers_a_prediction_for_every_step(tmp_path):
    kernel = np.random.default_rng(2).normal(size=(UNITS, 2))
    net = lstm().with_readout({"kernel": kernel.tolist()})
    scored(made.write(tmp_path / "in.parquet", table(ROWS)), tmp_path / "out.parquet", net)
    got = made.read(tmp_path / "out.parquet")
    assert list(got) == ["predictions"]
    assert_rows_close(got["predictions"], [one @ kernel for one in OUTPUTS])


def test_padded_columns_are_cut_to_a_column_of_lengths(tmp_path):
    lengths = [len(one) for one in ROWS]
    padded = [np.concatenate([one, np.full((9 - len(one), SIZE), 7, np.float32)]) for one in ROWS]
    kind = pa.list_(pa.list_(FLOATS, SIZE), 9)
    source = made.write(tmp_path / "in.parquet", table(padded, kind, real=lengths))
    scored(source, tmp_path / "out.parquet", lengths="real")
    assert_rows_close(made.read(tmp_path / "out.parquet")["last_output"], last_of(OUTPUTS))
    source = made.write(tmp_path / "in.parquet", table(padded, kind, real=[10, *lengths[1:]]))
    assert "real of row 0 is 10" in refused(source, tmp_path / "out2.parquet", lengths="real")


def test_of_a_stream_of_arrow_batches_all_rows_are_read(tmp_path):
    with pa.ipc.new_stream(tmp_path / "in.arrow", table(ROWS).schema) as writer:
        writer.write_table(table(ROWS), max_chunksize=9)
    scored(tmp_path / "in.arrow", tmp_path / "out.arrow")
    assert_rows_close(made.read(tmp_path / "out.arrow")["last_output"], last_of(OUTPUTS))


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_progress_is_told_until_all_is_done(tmp_path, small, suffix):
    told = {}

    @contextmanager
    def progress(label, total, unit):
        told[label] = [total, 0]

        def more(count):
            told[label][1] += count

        yield more

    source = made.write(tmp_path / "in.parquet", table(ragged(3000)))
    request = run.Request(source, tmp_path / f"out{suffix}", made.MEMORY, ["outputs", "state"])
    run.score(request, lstm(), progress)
    assert list(told) == ["scoring", "writing"]
    assert told["scoring"] == [3000, 3000]
    assert told["writing"][0] == told["writing"][1] > 3


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_compressed_batches_of_arrow_are_read(tmp_path, compression):
    made_of = table(ROWS, id=range(40))
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_file(tmp_path / "in.feather", made_of.schema, options=options) as writer:
        writer.write_table(made_of, max_chunksize=9)
    scored(tmp_path / "in.feather", tmp_path / "out.feather", keep=["id"])
    got = made.read(tmp_path / "out.feather")
    assert_rows_close(got["last_output"], last_of(OUTPUTS))
    assert got["id"] == list(range(40))


def test_columns_are_found_by_the_whole_of_their_names(tmp_path):
    source = made.write(tmp_path / "in.parquet", table(ROWS).rename_columns(["a.b"]).append_column("a", [[1] * 40]))
    scored(source, tmp_path / "out.parquet", inputs="a.b")
    assert_rows_close(made.read(tmp_path / "out.parquet")["last_output"], last_of(OUTPUTS))


@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
def test_rows_without_steps_are_answered_too(tmp_path, suffix):
    rows = [np.zeros((0, SIZE), np.float32)] * 3
    source = tmp_path / f"in{suffix}"
    made.write(source, table(rows)) if suffix == ".parquet" else made.save(source, rows)
    scored(source, tmp_path / "out.parquet", returned=["outputs", "last_output", "state"])
    got = made.read(tmp_path / "out.parquet")
    assert got["outputs"] == [[], [], []]
    assert got["last_output"] == got["state.0.c"] == [[0.0] * UNITS] * 3


def test_one_feature_a_step_may_stand_without_a_list_of_its_own(tmp_path):
    net = Network.from_seed("gru", [3], 1)
    rows = ragged(6, size=1)
    flat = pa.table({"value": pa.array([one[:, 0].tolist() for one in rows], pa.list_(FLOATS))})
    scored(made.write(tmp_path / "in.parquet", flat), tmp_path / "out.npz", net, returned=["state"])
    got = made.read(tmp_path / "out.npz")["state.0.h"]
    assert_rows_close(got, [net.run(one[np.newaxis])[1][0]["h"][0] for one in rows])


def test_without_pyarrow_an_npz_is_scored_and_other_files_are_refused(tmp_path, monkeypatch):
    source = made.save(tmp_path / "in.npz", ROWS)
    for name in [name for name in sys.modules if name.split(".")[0] == "pyarrow"]:
        monkeypatch.setitem(sys.modules, name, None)
    scored(source, tmp_path / "out.npz")
    assert_rows_close(made.read(tmp_path / "out.npz")["last_output"], last_of(OUTPUTS))
    assert "-m pip install pyarrow" in refused(source, tmp_path / "out.parquet")


def test_the_same_input_gives_the_same_bytes(tmp_path):
    source = made.write(tmp_path / "in.parquet", table(ROWS))
    for suffix in (".parquet", ".arrow", ".npz"):
        for name in "ab":
            scored(source, tmp_path / f"{name}{suffix}", returned=["outputs", "state"])
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


# -- what is refused ---------------------------------------------------------------------------------------------------


def nested(value):
    return [[[0.0] * SIZE], value]


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (pa.array(nested(None), KINDS["lists of lists"]), "null at row 1"),
        (pa.array(nested([[1.0] * SIZE, None]), KINDS["lists of lists"]), "null at step 1 of row 1"),
        (pa.array(nested([[1.0, 2.0, None, 3.0]]), KINDS["lists of lists"]), "null at step 0 of row 1"),
        (pa.array(nested([[1.0] * SIZE, [1.0]]), KINDS["lists of lists"]), "1 features at step 1 of row 1"),
        (pa.array(nested([[1.0] * SIZE, [float("nan")] * SIZE]), KINDS["lists of lists"]), "row 1"),
        (pa.array([[[1.0]]], pa.list_(pa.list_(FLOATS, 1))), "1 features a time step, the model takes 4"),
        (pa.array([[1.0]], pa.list_(FLOATS)), "expected list<list<float>>"),
        (pa.array(["text"]), "expected list<list<float>>"),
        (pa.array([[["a"] * SIZE]]), "expected list<list<float>>"),
        (pa.array([], KINDS["lists of lists"]), "no rows"),
    ],
)
@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_a_column_that_is_no_sequences_is_refused_and_leaves_nothing(tmp_path, column, words, suffix):
    source = made.write(tmp_path / f"in{suffix}", pa.table({"inputs": column}))
    assert words in refused(source, tmp_path / "out.parquet")
    assert os.listdir(tmp_path) == [source.name]


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [
        (pa.list_(pa.float64()), [[1.0, float("nan")]], "expected list<int64>"),
        (pa.list_(pa.int64()), [[1], [2, 99]], "token id 99 at step 1"),
        (pa.list_(pa.int32()), [[1, None]], "null at step 1 of row 0"),
    ],
)
def test_token_ids_are_whole_and_known(tmp_path, kind, values, words):
    source = made.write(tmp_path / "in.parquet", pa.table({"ids": pa.array(values, kind)}))
    said = refused(source, tmp_path / "out.parquet", embedding())
    assert words in said
    assert "row 1" in said or len(values) == 1


def embedding():
    table = np.random.default_rng(0).normal(size=(7, SIZE)).astype(np.float32)
    return Network(lstm().layers, Front(SIZE, Embedding(table)))


def test_token_ids_are_embedded(tmp_path):
    ids = [[1, 2, 3], [], [6]]
    source = made.write(tmp_path / "in.parquet", pa.table({"ids": pa.array(ids, pa.list_(pa.int32()))}))
    net = embedding()
    scored(source, tmp_path / "out.parquet", net)
    vectors = [net.front.embedding.table[np.array(one, int)] for one in ids]
    assert_rows_close(made.read(tmp_path / "out.parquet")["last_output"], last_of(expected(vectors)[0]))


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": np.zeros((2, 3, SIZE))}, "no array 'inputs'"),
        ({"inputs": np.zeros((2, 3, 5))}, "shape [2, 3, 5]"),
        ({"inputs": np.zeros((2, 3, SIZE)), "lengths": np.array([1, 4])}, "lengths of row 1 is 4"),
        ({"inputs": np.zeros((2, 3, SIZE)), "lengths": np.array([1.0, 2.0])}, "whole number"),
        ({"inputs": np.zeros((2, 3, SIZE)), "lengths": np.array([1])}, "1 entries"),
        ({"inputs": np.zeros((5, SIZE)), "lengths": np.array([1, 3])}, "add up to 4"),
        ({"inputs": np.array([{}], object)}, "pickled"),
        ({"inputs": np.zeros((3, SIZE, 2)).T}, "Fortran"),
        ({"inputs": np.array(1.0)}, "single value"),
        ({"inputs": np.zeros((0, 3, SIZE))}, "no rows"),
    ],
)
def test_arrays_that_are_no_sequences_are_refused(tmp_path, arrays, words):
    np.savez(tmp_path / "in.npz", **arrays)
    assert words in refused(tmp_path / "in.npz", tmp_path / "out.npz")
    assert os.listdir(tmp_path) == ["in.npz"]


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".feather", ".npz"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04" + bytes(40), b"ARROW1\0\0" + bytes(40), b"PAR1" + bytes(40)])
def test_files_that_are_none_are_refused(tmp_path, suffix, content):
    source = tmp_path / f"in{suffix}"
    source.write_bytes(content)
    assert source.name in refused(source, tmp_path / "out.npz")
    assert os.listdir(tmp_path) == [source.name]


@pytest.mark.parametrize("suffix", [".parquet", ".npz"])
def test_a_file_that_is_damaged_in_its_middle_is_refused_and_nothing_stands_under_the_name(tmp_path, suffix):
    rows = ragged(200)
    source = tmp_path / f"in{suffix}"
    made.write(source, table(rows)) if suffix == ".parquet" else made.save(source, rows)
    content = source.read_bytes()
    source.write_bytes(content[:900] + b"\xff" * 64 + content[964:])
    assert refused(source, tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"returned": ["gates"]}, "ask /run"),
        ({"returned": ["states"]}, "or for `state` here"),
        ({"returned": ["output"]}, "did you mean `outputs`"),
        ({"returned": ["predictions"]}, "need a readout"),
        ({"returned": []}, "nothing is to be returned"),
        ({"inputs": "input"}, "did you mean `inputs`"),
        ({"keep": ["nothing"]}, "no column 'nothing'"),
        ({"keep": ["last_output"]}, "two columns 'last_output'"),
        ({"memory": 1 << 20}, "give at least"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(tmp_path, given, words):
    source = made.write(tmp_path / "in.parquet", table(ROWS, last_output=list(range(40))))
    assert words in refused(source, tmp_path / "out.parquet", **given)
    assert os.listdir(tmp_path) == ["in.parquet"]


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("missing/out.parquet", "is no folder"),
        ("folder.parquet", "is a folder"),
        ("in.parquet", "is the input"),
        ("out.csv", "ends in .parquet"),
        ("there.parquet", "--overwrite"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused(tmp_path, output, words):
    source = made.write(tmp_path / "in.parquet", table(ROWS))
    (tmp_path / "folder.parquet").mkdir()
    (tmp_path / "there.parquet").write_bytes(b"mine")
    assert words in refused(source, tmp_path / output)
    assert (tmp_path / "there.parquet").read_bytes() == b"mine"
    assert sorted(os.listdir(tmp_path)) == ["folder.parquet", "in.parquet", "there.parquet"]


def test_strings_are_kept_in_arrow_files_and_refused_by_an_npz(tmp_path):
    source = made.write(tmp_path / "in.parquet", table(ROWS, id=[str(k) for k in range(40)]))
    assert "cannot be kept in an .npz" in refused(source, tmp_path / "out.npz", keep=["id"])
    assert not (tmp_path / "out.npz").exists()


def test_a_row_that_does_not_fit_the_memory_is_named(tmp_path, small):
    rows = [*ragged(3), np.zeros((20_000, SIZE), np.float32)]
    source = made.write(tmp_path / "in.parquet", table(rows))
    assert "row 3 has 20000 steps" in refused(source, tmp_path / "out.parquet")
