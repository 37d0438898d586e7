"""Runs that are killed, or meet a full disk, and go on: the answer is that of an undisturbed run, byte for byte."""

import errno
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from app.problems import Problem
from app.scoring import journal, npz, planning
from app.scoring.journal import folder_of
from tests.app.client import ROOT
from tests.app.scoring import made
from tests.app.scoring.made import assert_rows_close, expected, last_of, lstm, ragged, scored, table

ROWS = ragged(2500, seed=5)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(planning, "MOST_WINDOW", 1024 * 400)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A folder with a model and a file of sequences in it, and the answer of an undisturbed run."""
    folder = tmp_path_factory.mktemp("shared")
    save_file(made.WEIGHTS, folder / "lstm.safetensors")
    made.write(folder / "in.parquet", table(ROWS, id=range(len(ROWS))), rows=600)
    command = ["import", str(folder / "lstm.safetensors"), "--name", "net", "--models", str(folder / "store")]
    subprocess.run([sys.executable, "-m", "app.cli", *command], cwd=ROOT, check=True, capture_output=True)
    ended = run(folder, folder / "whole.parquet", 0, "never")
    assert ended.returncode == 0, ended.stderr
    return folder


def run(shared, output, number, when, *flags):
    asked = ["--model", "net", "--models", str(shared / "store"), "--keep", "id", "--return", "last_output,outputs"]
    command = [sys.executable, "-m", "tests.app.scoring.killed", str(number), when, "score"]
    command += [str(shared / "in.parquet"), str(output), *asked, "--json", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows knows no kill -9")
@pytest.mark.parametrize(("when", "most", "seed"), [("before", 12, 1), ("after", 12, 2), ("torn", 3, 3)])
def test_killed_again_and_again_it_goes_on_and_answers_the_same_bytes(shared, tmp_path, when, most, seed):
    random = np.random.default_rng(seed)
    output, kills = tmp_path / "out.parquet", 0
    while kills < 20:
        ended = run(shared, output, int(random.integers(1, most + 1)), when, "--resume")
        if ended.returncode == 0:
            break
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        kills += 1
        assert not output.exists() or output.read_bytes() == (shared / "whole.parquet").read_bytes()
    assert kills >= 2
    assert ended.returncode == 0
    assert output.read_bytes() == (shared / "whole.parquet").read_bytes()
    assert not folder_of(output).exists()
    got = made.read(output)
    assert got["id"] == list(range(len(ROWS)))
    assert_rows_close(got["last_output"], last_of(expected(ROWS)[0]))


def test_a_run_that_was_killed_is_gone_on_with_or_overwritten_only_if_that_is_said(shared, tmp_path):
    output = tmp_path / "out.parquet"
    assert run(shared, output, 10, "before").returncode == -signal.SIGKILL
    parts = os.listdir(folder_of(output))
    ended = run(shared, output, 0, "never")
    assert ended.returncode == 2
    assert "--resume goes on with it" in ended.stderr
    assert ended.stdout == ""
    assert os.listdir(folder_of(output)) == parts
    told = json.loads(run(shared, output, 0, "never", "--resume").stdout)
    assert 0 < told["resumed"] < told["rows"] == len(ROWS)
    assert "--overwrite replaces it" in run(shared, output, 0, "never").stderr
    assert json.loads(run(shared, output, 0, "never", "--resume").stdout)["resumed"] == len(ROWS)
    assert json.loads(run(shared, output, 0, "never", "--overwrite").stdout)["resumed"] == 0
    assert output.read_bytes() == (shared / "whole.parquet").read_bytes()


# -- in this process ---------------------------------------------------------------------------------------------------


@pytest.fixture
def begun(tmp_path, monkeypatch, small):
    """A run over in.npz that met a full disk after its first part."""
    source = made.save(tmp_path / "in.npz", ROWS)
    keep = npz.save
    monkeypatch.setattr(npz, "save", full_after(1, keep))
    with pytest.raises(Problem) as caught:
        scored(source, tmp_path / "out.npz", returned=["state"])
    assert "No space left on device" in caught.value.detail
    assert "--resume goes on with it" in caught.value.detail
    assert not (tmp_path / "out.npz").exists()
    assert [name for name in os.listdir(folder_of(tmp_path / "out.npz")) if name.startswith("part")] == ["part-0.npz"]
    monkeypatch.setattr(npz, "save", keep)
    return source


def full_after(parts, keep):
    def save(path, arrays):
        nonlocal parts
        if parts == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        parts -= 1
        keep(path, arrays)

    return save


def test_after_a_full_disk_the_rest_is_done(begun):
    output = begun.with_name("out.npz")
    report = scored(begun, output, returned=["state"], resume=True)
    assert 0 < report.resumed < report.rows
    assert_rows_close(made.read(output)["state.0.h"], expected(ROWS)[1]["h"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda source: {"returned": ["outputs"]}, "another returned"),
        (lambda source: {"net": lstm(bias_hh_l0=np.ones(12, np.float32))}, "another model"),
        (lambda source: {"net": lstm("float64")}, "another model"),
        (lambda source: os.utime(source, (1, 1)) or {}, "another input"),
    ],
)
def test_another_run_does_not_go_on_with_it(begun, change, words):
    with pytest.raises(Problem) as caught:
        scored(begun, begun.with_name("out.npz"), **{"returned": ["state"], "resume": True} | change(begun))
    assert words in caught.value.detail
    assert "--overwrite" in caught.value.detail


def test_a_part_that_is_not_what_was_written_is_found(begun):
    (part,) = folder_of(begun.with_name("out.npz")).glob("part-*.npz")
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(Problem, match="not what was written"):
        scored(begun, begun.with_name("out.npz"), returned=["state"], resume=True)


def test_bytes_that_changed_in_a_part_are_found(begun):
    (part,) = folder_of(begun.with_name("out.npz")).glob("part-*.npz")
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    with pytest.raises(Problem, match="damaged"):
        scored(begun, begun.with_name("out.npz"), returned=["state"], resume=True)
    assert not begun.with_name("out.npz").exists()


def test_two_processes_do_not_write_one_answer(begun):
    output = begun.with_name("out.npz")
    with (folder_of(output) / "journal").open("rb") as file:
        journal.fcntl.flock(file, journal.fcntl.LOCK_EX)
        for how in ("resume", "overwrite"):
            with pytest.raises(Problem, match="another process"):
                scored(begun, output, returned=["state"], **{how: True})
    assert scored(begun, output, returned=["state"], resume=True).resumed


def test_an_answer_to_another_run_is_not_taken_for_a_finished_one(tmp_path):
    for suffix in (".npz", ".parquet", ".arrow"):
        source = made.save(tmp_path / "in.npz", ROWS[:9])
        output = tmp_path / f"out{suffix}"
        scored(source, output)
        assert scored(source, output, resume=True).resumed == 9
        with pytest.raises(Problem, match="another run"):
            scored(source, output, resume=True, returned=["state"])


def test_a_file_that_changes_while_it_is_read_is_noticed(tmp_path, monkeypatch, small):
    source = made.save(tmp_path / "in.npz", ROWS)
    keep = npz.save
    monkeypatch.setattr(npz, "save", lambda path, arrays: (os.utime(source, (1, 1)), keep(path, arrays)))
    with pytest.raises(Problem, match="was changed while it was read"):
        scored(source, tmp_path / "out.npz")
    assert not (tmp_path / "out.npz").exists()


def test_the_old_answer_stands_until_the_new_one_is_whole(begun):
    output = begun.with_name("out.npz")
    output.write_bytes(b"old")
    scored(begun, output, returned=["state"], overwrite=True)
    with np.load(output) as stored:
        seen = sorted(stored.files)
    assert seen == ["state.0.c", "state.0.h"]
