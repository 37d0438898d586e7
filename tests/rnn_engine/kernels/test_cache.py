"""Compiled code on disk: found again, never believed when it is not whole or not ours, and never needed."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from rnn_engine import Network, kernels
from rnn_engine.kernels import cache as module
from rnn_engine.kernels.cache import Cache, digest, folders, is_ours
from rnn_engine.kernels.library import Library, this_host
from rnn_engine.kernels.specs import COMMON, GRUSpec, LSTMSpec, RNNSpec, name_of
from rnn_engine.kernels.tile import TILES, Tile
from tests.rnn_engine.kernels.nets import same_bits
from tests.rnn_engine.kernels.tiles import needs_kernels

pytestmark = needs_kernels

CODE = bytes(range(256)) * 3
SMALL = Tile(4, 2)  # the quickest to compile
FEW = LSTMSpec(), GRUSpec()

on_posix = pytest.mark.skipif(not hasattr(os, "getuid"), reason="there are no owners and modes here")
not_as_root = pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="nothing is forbidden to root")


def kept(tmp_path, name="code"):
    """A cache in a folder of its own, and where a file of it stands."""
    cache = Cache("abc", [tmp_path / "kernels"])
    return cache, cache.keep(name, CODE) / name


# -- files -------------------------------------------------------------------------------------------------------------


def test_finds_what_it_kept_and_nothing_else(tmp_path):
    cache, path = kept(tmp_path)
    assert cache.find("code") == CODE
    assert cache.find("other") is None
    assert Cache("abc", [tmp_path / "kernels"]).find("code") == CODE
    assert Cache("abd", [tmp_path / "kernels"]).find("code") is None
    assert path == tmp_path / "kernels" / "abc" / "code"
    assert cache.places() == [str(path.parent)]
    assert [file.name for file in path.parent.iterdir()] == ["code"]


@pytest.mark.parametrize("size", [0, 1, 31, 32, 33, 400, len(CODE) + 31])
def test_a_file_that_was_cut_short_is_not_found(tmp_path, size):
    cache, path = kept(tmp_path)
    path.write_bytes(path.read_bytes()[:size])
    assert cache.find("code") is None


@pytest.mark.parametrize("at", [0, 31, 32, 500, len(CODE) + 31])
def test_a_file_of_which_one_bit_was_changed_is_not_found(tmp_path, at):
    cache, path = kept(tmp_path)
    content = bytearray(path.read_bytes())
    content[at] ^= 4
    path.write_bytes(content)
    assert cache.find("code") is None


def test_a_file_that_is_not_whole_is_replaced_and_not_taken_for_one_further_on(tmp_path):
    both = [tmp_path / "first", tmp_path / "second"]
    for folder in both:
        Cache("abc", [folder]).keep("code", CODE)
    broken = both[0] / "abc" / "code"
    broken.write_bytes(b"broken")
    cache = Cache("abc", both)
    assert cache.find("code") == CODE  # from the second
    cache.keep("code", CODE[::-1])
    assert cache.find("code") == CODE[::-1]  # from the first


# -- folders -----------------------------------------------------------------------------------------------------------


@on_posix
@pytest.mark.parametrize("which", ["abc", "."])
@pytest.mark.parametrize("mode", [0o777, 0o775, 0o757, 0o1777])
def test_a_folder_that_others_can_write_to_is_neither_read_nor_written(tmp_path, which, mode):
    cache, path = kept(tmp_path)
    (tmp_path / "kernels" / which).chmod(mode)
    assert not is_ours(path.parent)
    assert cache.find("code") is None
    assert cache.keep("more", CODE) is None
    assert [file.name for file in path.parent.iterdir()] == ["code"]


@on_posix
@pytest.mark.parametrize("which", ["abc", "."])
def test_a_folder_of_another_user_is_neither_read_nor_written(tmp_path, monkeypatch, which):
    cache, path = kept(tmp_path)
    other = os.getuid() + 1
    if os.getuid() == 0:
        os.chown(tmp_path / "kernels" / which, other, -1)
    else:  # only root can give a folder away: be somebody else instead
        monkeypatch.setattr(os, "getuid", lambda: other)
    assert not is_ours(path.parent)
    assert cache.find("code") is None
    assert cache.keep("more", CODE) is None


@on_posix
@pytest.mark.parametrize("mode", [0o755, 0o700, 0o555])
def test_a_folder_that_only_its_owner_writes_to_is_ours(tmp_path, mode):
    _, path = kept(tmp_path)
    path.parent.chmod(mode)
    assert is_ours(path.parent)
    path.parent.chmod(0o755)


@on_posix
def test_a_link_to_a_folder_is_not_followed(tmp_path):
    cache, path = kept(tmp_path)
    moved = tmp_path / "elsewhere"
    path.parent.rename(moved)
    path.parent.symlink_to(moved)
    assert not is_ours(path.parent)
    assert cache.find("code") is None


@on_posix
def test_folders_that_it_makes_are_writable_for_nobody_else_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        cache, path = kept(tmp_path / "new" / "too")
    finally:
        os.umask(before)
    assert cache.find("code") == CODE
    assert [file.stat().st_mode & 0o777 for file in (path, path.parent, path.parent.parent)] == [0o644, 0o755, 0o755]


def test_what_the_first_folder_does_not_take_the_next_one_does(tmp_path):
    (tmp_path / "file").write_text("no folder")
    cache = Cache("abc", [tmp_path / "file" / "kernels", tmp_path / "second"])
    assert cache.keep("code", CODE) == tmp_path / "second" / "abc"
    assert cache.find("code") == CODE
    assert cache.places() == [str(tmp_path / "second" / "abc")]


@not_as_root
def test_what_may_not_be_written_to_the_first_folder_goes_to_the_next(tmp_path):
    (tmp_path / "first" / "abc").mkdir(parents=True)
    (tmp_path / "first" / "abc").chmod(0o555)
    cache = Cache("abc", [tmp_path / "first", tmp_path / "second"])
    assert cache.keep("code", CODE) == tmp_path / "second" / "abc"
    (tmp_path / "first" / "abc").chmod(0o755)


def test_a_disk_that_is_full_leaves_nothing_half_written(tmp_path, monkeypatch):
    cache, path = kept(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert cache.keep("more", CODE) is None
    assert [file.name for file in path.parent.iterdir()] == ["code"]


def test_where_nothing_can_be_kept_it_says_so_and_computes_all_the_same(tmp_path, caplog):
    (tmp_path / "file").write_text("no folder")
    library = Library(this_host(), SMALL, Cache("abc", [tmp_path / "file" / "kernels"]))
    assert library.seconds[f"{SMALL}-core"] > 0
    assert "cannot be kept" in caplog.text
    assert library.report()["cache"] == []
    assert_computes(library)


def test_the_environment_comes_first_then_the_users_cache_then_the_folder_for_temporary_files(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "environment"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.setattr(module.tempfile, "gettempdir", lambda: str(tmp_path / "temporary"))
    environment, user, temporary = folders()
    assert environment == tmp_path / "environment" / "share" / "unrolled" / "kernels"
    assert user == tmp_path / "user" / "unrolled" / "kernels"
    assert temporary.parent == tmp_path / "temporary"
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)  # not in the system's own Python
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert [str(folder) for folder in folders()[:-1]] == [os.path.expanduser("~/.cache/unrolled/kernels")]


# -- names -------------------------------------------------------------------------------------------------------------


def test_the_digest_depends_on_every_part_and_on_every_source(tmp_path, monkeypatch):
    for path in Path(module.__file__).parent.glob("*.py"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(module, "__file__", str(tmp_path / "cache.py"))
    first = digest("22.1", "znver3", "+avx2")
    assert first == digest("22.1", "znver3", "+avx2")
    others = {first, digest("22.1", "znver3"), digest("22.1", "znver3", "+avx"), digest("22.1", "znver", "3+avx2")}
    for path in sorted(tmp_path.glob("*.py")):
        content = path.read_bytes()
        path.write_bytes(content + b"\n")
        others.add(digest("22.1", "znver3", "+avx2"))
        path.write_bytes(content)
    assert len(others) == 4 + len(list(tmp_path.glob("*.py")))
    assert digest("22.1", "znver3", "+avx2") == first


def test_what_differs_in_its_code_differs_in_its_name():
    specs = {
        *COMMON,
        RNNSpec("relu"),
        RNNSpec(clips=True),
        GRUSpec("sigmoid", "tanh"),
        GRUSpec(clips=True),
        LSTMSpec(use_peepholes=True),
        LSTMSpec(clips=True),
        LSTMSpec(clips_cell=True),
        LSTMSpec(input_forget=True),
        LSTMSpec(projects=True),
        LSTMSpec(projects=True, clips_projection=True),
    }
    assert len({name_of(spec) for spec in specs}) == len(specs)
    assert len({str(tile) for _, tile in TILES.values()}) == len(TILES)


# -- libraries ---------------------------------------------------------------------------------------------------------


def library(folder):
    """A library with a few cells, kept in a folder."""
    made = Library(this_host(), SMALL, Cache("abc", [folder]))
    for spec in FEW:
        made.functions(spec)
    return made


def assert_computes(made):
    """That its kernels give the bits that the process' own give."""
    x = np.random.default_rng(0).uniform(-1, 1, (5, 3, 4)).astype(np.float32)
    net = Network.from_seed("lstm", 6, 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "here", lambda: made)
        again = net.with_kernel("auto").prepare()
    same_bits(again.run(x), net.run(x))


def test_a_second_library_compiles_nothing(tmp_path):
    first, second = library(tmp_path / "kernels"), library(tmp_path / "kernels")
    names = {f"{SMALL}-core", *(f"{SMALL}-{name_of(spec)}" for spec in FEW)}
    assert set(first.seconds) == set(second.seconds) == names
    assert all(first.seconds.values())
    assert not any(second.seconds.values())
    assert set(first.report()["compiled"]) == set(second.report()["cached"]) == names
    assert first.report()["cached"] == []
    assert second.report()["compiled"] == {}
    assert_computes(second)


@pytest.mark.parametrize("damage", [lambda content: content[:-9], lambda content: content[:99] + b"?" + content[100:]])
def test_code_that_was_damaged_on_disk_is_compiled_anew_and_replaced(tmp_path, damage):
    library(tmp_path)
    core = next(tmp_path.glob("abc/*-core"))
    whole = core.read_bytes()
    core.write_bytes(damage(whole))
    second = library(tmp_path)
    assert [name for name, seconds in second.seconds.items() if seconds] == [core.name]
    assert core.read_bytes() == whole
    assert_computes(second)


def test_threads_that_ask_for_the_same_cell_at_once_compile_it_once(tmp_path):
    made, calls = Library(this_host(), SMALL, Cache("abc", [tmp_path])), []
    load = made.load
    made.load = lambda name, *rest: calls.append(name) or load(name, *rest)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: made.functions(LSTMSpec()), range(8)))
    assert calls == [f"{SMALL}-{name_of(LSTMSpec())}"]
    assert all(functions == found[0] for functions in found)


COMPUTE = """
import sys
from pathlib import Path
import numpy as np
from rnn_engine import Network, kernels
from rnn_engine.kernels import cache
cache.folders = lambda: [Path(sys.argv[1])]
x = np.linspace(-1, 1, 60, dtype=np.float32).reshape(4, 5, 3)
net = Network.from_seed("lstm", 6, 3)
print(net.kernel, net.run(x)[0].tobytes().hex())
assert kernels.report()["cache"], kernels.report()
"""


def test_two_processes_that_compile_at_once_both_compute(tmp_path):
    command = [sys.executable, "-W", "error", "-c", COMPUTE, str(tmp_path / "kernels")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], answers
    x = np.linspace(-1, 1, 60, dtype=np.float32).reshape(4, 5, 3)
    expected = Network.from_seed("lstm", 6, 3).run(x)[0].tobytes().hex()
    assert {out for out, _ in answers} == {f"fused {expected}\n"}
    assert not [path for path in tmp_path.rglob("tmp*") if path.is_file()]
