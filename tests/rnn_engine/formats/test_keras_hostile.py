"""Keras' files that are hostile, cut, or changed by chance: read, or refused with one of our errors."""

from __future__ import annotations

import copy
import json
import random
import warnings
import zipfile

import numpy as np
import pytest

from rnn_engine import Network
from rnn_engine.errors import EngineError
from rnn_engine.formats import hdf5
from rnn_engine.formats.base import FormatError, UnsupportedError
from rnn_engine.formats.config import Config
from rnn_engine.formats.keras import archive as keras_archive
from rnn_engine.formats.keras import read
from rnn_engine.formats.resolve import resolve
from tests.rnn_engine.formats.keras_files import (
    archive,
    cell,
    functional,
    keras3_node,
    layer,
    legacy,
    numbers,
    paths,
    rnn,
    run_here,
    sequential,
)

pytestmark = pytest.mark.usefixtures("hdf5_in_this_process")

WEIGHTS = paths(
    simple_rnn__cell=cell("SimpleRNN", 3, 3),
    gru__cell=cell("GRU", 3, 3, 2),
    bidirectional__forward_layer__cell=cell("LSTM", 3, 3),
    bidirectional__backward_layer__cell=cell("LSTM", 3, 3),
    dense=[numbers(3, 3), numbers(3)],
    embedding=[numbers(5, 3)],
    batch_normalization=[numbers(3), numbers(3), numbers(3), np.ones(3, "f4")],
)
RNN, IN = rnn("SimpleRNN", "r"), layer("InputLayer", "in")
BOTH = layer("Bidirectional", "both", layer=rnn("LSTM", "inner"), merge_mode="concat")


# -- archives ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def whole(tmp_path):
    return archive(tmp_path / "whole.keras", sequential(RNN, layer("Dense", "d")), WEIGHTS)


def rebuilt(path, change):
    """The archive, with its list of (name, bytes) changed."""
    with zipfile.ZipFile(path) as archived:
        entries = [(entry.filename, archived.read(entry)) for entry in archived.infolist()]
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archived:
        warnings.filterwarnings("ignore", "Duplicate name")
        for name, data in change(entries):
            archived.writestr(name, data)
    return path


def twice(entries):
    return [*entries, entries[1]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (twice, r"holds 'config\.json' twice"),
        (lambda e: [*e, ("/etc/passwd", b"")], "path out of it"),
        (lambda e: [*e, ("a/../../b", b"")], "path out of it"),
        (lambda e: [*e, ("C:\\b", b"")], "path out of it"),
        (lambda e: e[:2], r"has no model\.weights\.h5"),
        (lambda e: [e[0], e[2]], r"has no config\.json"),
        (lambda e: [*e[:2], ("model.weights.npz", b"")], r"stored as \.npz"),
        (lambda e: [e[0], ("config.json", b"{"), e[2]], "not JSON"),
        (lambda e: [e[0], ("config.json", b"[" * 100_000), e[2]], "not JSON"),
        (lambda e: [e[0], ("config.json", b"9" * 10_000), e[2]], "not JSON"),
        (lambda e: [e[0], ("config.json", b"\xff"), e[2]], "not JSON"),
        (lambda e: [e[0], ("config.json", b"null"), e[2]], "no class_name"),
        (lambda e: [*e[:2], ("model.weights.h5", b"nothing")], "not an HDF5 file"),
        (lambda e: [*e, *((f"assets/{k}", b"") for k in range(1000))], "claims 1003 entries"),
        (lambda e: [e[0], ("config.json", b" " * (17 << 20)), e[2]], r"config\.json in the archive claims"),
    ],
)
def test_a_hostile_archive_is_refused_before_it_is_unpacked(whole, change, message):
    with pytest.raises((FormatError, UnsupportedError), match=message):
        read({"m.keras": rebuilt(whole, change)}, None)


def test_other_entries_are_left_packed(whole):
    path = rebuilt(whole, lambda entries: [("metadata.json", b"[]"), *entries[1:], ("assets/words.txt", b"a b")])
    assert len(read({"m.keras": path}, None).modules) == 1


def test_encryption_and_bombs_are_refused(whole, monkeypatch):
    data = bytearray(whole.read_bytes())
    at = data.rfind(b"PK\x01\x02", 0, data.rfind(b"config.json"))
    data[at + 8] |= 1
    whole.write_bytes(data)
    with pytest.raises(FormatError, match=r"'config\.json' in the archive is encrypted"):
        read({"m.keras": whole}, None)
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archived:
        archived.writestr("config.json", "{}")
        archived.writestr("model.weights.h5", bytes(1 << 20))
    monkeypatch.setattr(keras_archive, "_LEAST_LIMIT", 1 << 19)
    with pytest.raises(FormatError, match=r"model\.weights\.h5 in the archive claims 1048576 bytes"):
        read({"m.keras": whole}, None)


# -- chance ------------------------------------------------------------------------------------------------------------


def tried(path):
    """Goes all the way to a network; what comes out, if anything, is one of our errors."""
    try:
        Network.from_blueprint(resolve(read({"m.keras": path}, None), Config()))
    except EngineError:
        return False
    return True


def test_cut_and_changed_archives_are_read_or_refused(whole, tmp_path):
    rng, data, path = random.Random(1), whole.read_bytes(), tmp_path / "b.keras"
    for cut in range(0, len(data), len(data) // 60):
        path.write_bytes(data[:cut])
        assert not tried(path)
    ends = [*range(200), *range(len(data) - 400, len(data))]  # the names, the directory: elsewhere the checksums tell
    for _ in range(400):
        changed = bytearray(data)
        for _ in range(rng.choice([1, 1, 4])):
            at = rng.choice(ends) if rng.random() < 0.8 else rng.randrange(len(data))
            changed[at] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
        path.write_bytes(changed)
        tried(path)


JUNK = [
    None,
    True,
    -1,
    0,
    1e300,
    10**30,
    "",
    "x",
    "LSTM",
    "\udcff",
    [],
    {},
    [[]],
    [["in", 0, 0]],
    ["in", 0, 0],
    {"class_name": "LSTM"},
]


def changed_somewhere(tree, rng):
    """A copy of a JSON value with one of the values in it replaced, doubled or dropped."""
    tree = copy.deepcopy(tree)
    places = []

    def walk(node):
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], (dict, list)):
                walk(node[key])

    walk(tree)
    for _ in range(rng.choice([1, 1, 2, 3])):
        node, key = rng.choice(places)
        what = rng.random()
        if isinstance(node, list) and key < len(node) and what < 0.2:
            node.insert(key, copy.deepcopy(node[key]))
        elif what < 0.35 and (isinstance(node, dict) or key < len(node)):
            node.pop(key, None) if isinstance(node, dict) else node.pop(key)
        elif isinstance(node, dict) or key < len(node):
            other = rng.choice(places)
            value = other[0].get(other[1]) if isinstance(other[0], dict) else None
            node[key] = copy.deepcopy(rng.choice([*JUNK, value]))
    return tree


def test_changed_configs_are_read_or_refused(tmp_path, monkeypatch):
    masked = functional(
        {}, [IN, layer("Embedding", "e", mask_zero=True), layer("NotEqual", "ne"), rnn("GRU", "g"), BOTH], ["both"]
    )
    by_name = {entry["name"]: entry for entry in masked["config"]["layers"]}
    tensor = keras3_node("in")[0]["args"][0]
    by_name["e"]["inbound_nodes"], by_name["ne"]["inbound_nodes"] = (
        keras3_node("in"),
        [{"args": [tensor, 0], "kwargs": {}}],
    )
    by_name["g"]["inbound_nodes"] = keras3_node("e", mask="ne")
    by_name["both"]["inbound_nodes"] = keras3_node("g", mask="ne")
    stack = {"class_name": "StackedRNNCells", "config": {"cells": [rnn("LSTMCell", "a")]}}
    plain = sequential(
        layer("BatchNormalization", "n", epsilon=0.1, axis=[2]),
        RNN,
        sequential(layer("RNN", "deep", cell=stack, return_sequences=True), rnn("LSTM", "l", return_sequences=False)),
        layer("Dense", "d", activation={"class_name": "LeakyReLU", "config": {"alpha": 0.1}}),
        layer("ReLU", "s", max_value=6),
    )
    weights = WEIGHTS | paths(
        sequential__layers__rnn__cell__cells__lstm_cell=cell("LSTM", 3, 3),
        sequential__layers__lstm__cell=cell("LSTM", 3, 3),
    )
    archive(tmp_path / "m.keras", plain, weights)
    assert tried(tmp_path / "m.keras")
    unpacked = keras_archive.read(tmp_path / "m.keras")
    rng, outcomes = random.Random(2), []
    for turn in range(1200):
        model = changed_somewhere((masked, plain)[turn % 2], rng)
        text = json.dumps(model)
        found = keras_archive.Archive(json.loads(text), rng.choice(["3.1", "2.15.0", None]), unpacked.weights)
        monkeypatch.setattr(keras_archive, "read", lambda path, skip, found=found: found)
        outcomes.append(tried(tmp_path / "m.keras"))
    assert any(outcomes)
    assert not all(outcomes)


def test_changed_names_in_legacy_files_are_read_or_refused(tmp_path, monkeypatch):
    groups = {
        "r": dict(zip(("r/kernel:0", "r/recurrent_kernel:0", "r/bias:0"), cell("SimpleRNN", 3, 3), strict=True)),
        "d": {"d/kernel:0": numbers(3, 2), "d/bias:0": numbers(2)},
    }
    for model in (sequential(RNN, layer("Dense", "d")), None):
        found = hdf5.read(legacy(tmp_path / "m.h5", groups, model))
        rng = random.Random(5)
        for _ in range(300):
            attributes = changed_somewhere({"": {}} | found.attributes, rng)
            fits = {
                group: {n: v for n, v in values.items() if isinstance(v, str) or _texts(v)}
                for group, values in attributes.items()
                if isinstance(values, dict)
            }
            other = hdf5.Hdf5(
                dict(rng.sample(sorted(found.arrays.items()), rng.randrange(len(found.arrays) + 1))), fits, {}
            )
            monkeypatch.setattr(hdf5, "read", lambda path, skip, other=other: other)
            tried(tmp_path / "m.h5")
        monkeypatch.undo()
        monkeypatch.setattr(hdf5, "_run", run_here)


def _texts(value):
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
