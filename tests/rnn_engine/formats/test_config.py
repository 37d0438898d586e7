"""What an owner may say of a file: every field of `config`, right and wrong."""

from __future__ import annotations

import pytest

from rnn_engine.errors import OptionError
from rnn_engine.formats.config import FIELDS, Config

GOOD = {
    "cell": ["lstm"],
    "cell_options": [{}, {"activation": "relu"}],
    "module": ["", "encoder.rnn", ["a"], ["a", "b"]],
    "embedding": ["emb.weight"],
    "readout": [{}, {"weight": "fc.weight"}, [{"weight": "fc.weight"}, {"weight": "out.weight"}]],
    "vocabulary": [["a"], ["<s>", "", " "]],
    "initial_state": [{"h": "h0"}, {"c": "c0", "h": "h0"}],
    "readout_of": ["sequence", "last_output", "last_step"],
    "return_sequences": [True, False],
    "golden": [{}, {"inputs": [[1]], "outputs": [[1]]}],
}
BAD = {
    "cell": [1, True, ["lstm"], {}],
    "cell_options": ["relu", [], [["activation", "relu"]], 1],
    "module": [1, [], [1], ["a", 1], {}, [["a"]], True],
    "embedding": [["emb.weight"], {"weight": "emb.weight"}, 0, False],
    "readout": ["fc.weight", [], ["fc.weight"], [{}, "fc"], 1, True],
    "vocabulary": ["abc", [], ["a", 1], ["a", "a"], {"a": 0}],
    "initial_state": ["h0", {}, {"h": 1}, {"x": "h0"}, ["h0"], [[0.5]]],
    "readout_of": ["last", "", True, ["sequence"], {}],
    "return_sequences": [0, 1, "false", [], {}],
    "golden": [[], "golden.npz", 1, False],
}


def refused(config):
    with pytest.raises(OptionError) as caught:
        Config.of(config)
    return caught.value


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in GOOD.items() for value in values])
def test_every_field_holds_what_it_is_for(name, value):
    config = Config.of({name: value})
    assert getattr(config, name) == value
    assert all(getattr(config, other) is None for other in FIELDS if other != name)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_a_field_of_the_wrong_kind_is_refused_with_what_belongs_there(name, value):
    error = refused({name: value})
    assert error.where == ("config", name)
    assert error.detail.startswith(f"{name} is {value!r}"[:40])
    assert f"expected {FIELDS[name]}" in error.detail


def test_every_field_was_tried():
    assert set(GOOD) == set(BAD) == set(FIELDS)


@pytest.mark.parametrize("name", FIELDS)
def test_null_is_nothing_said(name):
    assert Config.of({name: None}) == Config.of({}) == Config.of(None) == Config()


@pytest.mark.parametrize(("name", "meant"), [("modul", "module"), ("embeding", "embedding"), ("read_out", "readout")])
def test_an_unknown_field_is_refused_with_the_nearest_known_one(name, meant):
    error = refused({name: "x"})
    assert f"did you mean `{meant}`?" in error.detail
    assert error.where == ("config", name)
    assert all(known in error.detail for known in FIELDS)


@pytest.mark.parametrize("config", ["lstm", [], [{"cell": "lstm"}], 1, True])
def test_a_config_that_is_no_object_is_refused(config):
    error = refused(config)
    assert "expected an object" in error.detail
    assert error.where == ("config",)


def test_messages_stay_short_whatever_was_said():
    assert len(refused({"x" * 1_000_000: 1}).detail) < 1000
    assert len(refused({"cell": ["x"] * 1_000_000}).detail) < 1000


def test_one_module_or_several_or_none_are_a_list():
    assert Config.of({"module": "a"}).modules == ["a"]
    assert Config.of({"module": ["a", "b"]}).modules == ["a", "b"]
    assert Config.of({"module": ""}).modules == [""]
    assert Config.of({}).modules == []


def test_each_layer_of_a_readout_knows_its_place():
    one, two = {"weight": "a"}, {"weight": "b"}
    assert Config.of({"readout": one}).readout_layers == [(("config", "readout"), one)]
    assert Config.of({"readout": [one, two]}).readout_layers == [
        (("config", "readout", 0), one),
        (("config", "readout", 1), two),
    ]
    assert Config.of({}).readout_layers is None
