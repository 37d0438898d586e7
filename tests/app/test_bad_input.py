"""Bad input: its 4xx, a pointer to the field, a sentence that helps, and the service lives on."""

import copy
import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.app.client import array, listed, pointers, problem, resolves
from tests.app.reference import random_weights

X = [[[0.5, -1.0], [1.0, 0.25], [2.0, 0.0]], [[0.0, 1.0], [0.75, 0.5], [0.25, 1.5]]]  # batch 2, max time 3, 2 features
GOOD = {"cell": "lstm", "num_units": 3, "inputs": X, "lengths": [3, 2]}
H = [[0.1, 0.2, 0.3]] * 2
WEIGHTS = listed(random_weights("tensorflow", "lstm", [2, 3, 3]))
TRAINED = {"cell": "lstm", "inputs": X, "weights": WEIGHTS}


def post(client, body, path="/run"):
    """The answer, which must not hang; the service must answer a good request afterwards."""
    content = body if isinstance(body, (bytes, str)) else json.dumps(body)
    began = time.perf_counter()
    response = client.post(path, content=content, headers={"content-type": "application/json"})
    assert time.perf_counter() - began < 10  # no hang; not a measurement
    assert client.post("/run", json=GOOD).status_code == 200
    return response


def check(client, body, status, pointer, words, path="/run"):
    said = problem(post(client, body, path), status)
    found = [fault["pointer"] for fault in said.get("errors", [])]
    assert pointer is None or any(text == pointer or text.startswith(pointer + "/") for text in found), said
    for word in words:
        assert word in said["detail"], said["detail"]
    assert len(said["detail"]) < 1000
    if isinstance(body, dict):
        assert all(resolves(text, body) for text in found), found


# -- bytes that are no request -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, ["empty"]),
        (b"cell=lstm&num_units=3", 400, ["not JSON"]),
        (b'{"cell": "lstm", "num_units": 3, "inputs": [[[NaN]]]}', 400, ["NaN", "finite"]),
        (b'{"cell": "lstm", "num_units": 3, "inputs": [[[Infinity]]]}', 400, ["Infinity", "finite"]),
        (b'{"cell": "lstm", "num_units": 3, "inputs": [[[-Infinity]]]}', 400, ["Infinity", "finite"]),
        (b'{"cell": "lstm", "num_units": 3, "inputs": [[[1e400]]]}', 400, ["float64"]),
        (b'{"cell": "lstm", "num_units": 3, "inputs": [[[-1e400, 1]]]}', 400, ["float64"]),
        (b'{"cell": "lstm\xff", "num_units": 3, "inputs": [[[1]]]}', 400, ["UTF-8"]),
        (b'{"inputs": ' + b"[" * 1000 + b"]" * 1000 + b"}", 422, ["32"]),
        (b'{"inputs": ' + b"[" * 1000 + b"1" + b"]" * 1000 + b"}", 422, ["32"]),
        (b'{"inputs": ' + b"[" * 100_000 + b"1" + b"]" * 100_000 + b"}", 400, ["depth"]),
        (b'{"inputs": ' + b'{"a":' * 1000 + b"1" + b"}" * 1000 + b"}", 422, ["32"]),
        (b'{"inputs": ' + b'["x",' * 1000 + b"1" + b"]" * 1000 + b"}", 422, ["32"]),
        (b'{"cell_options": {"activation": ' + b'["x",' * 900 + b"1" + b"]" * 900 + b"}}", 422, ["32"]),
        (b"[" * 1_000_000, 400, ["JSON"]),
        (b"[1, 2, 3]", 422, ["object"]),
        (b'"lstm"', 422, ["object"]),
        (b"null", 422, ["object"]),
        (b"{}", 422, ["inputs"]),
        (b'{"cell": "lstm", "num_units": 3, "cell": "gru", "inputs": [[[1]]]}', 422, ["'cell'", "twice"]),
        (b'{"cell": "lstm", "num_units": 3, "inputs": [[[1]]], "inputs": [[[1]]]}', 422, ["'inputs'", "twice"]),
        (
            b'{"cell": "rnn", "num_units": 3, "inputs": [[[1]]], "cell_options": {"clip": 1, "clip": 2}}',
            422,
            ["'clip'", "twice"],
        ),
        (
            b'{"cell": "rnn", "inputs": [[[1]]], "weights": {"layers": [{"kernel": [[1], [1]], "kernel": [[2]]}]}}',
            422,
            ["'kernel'", "twice"],
        ),
    ],
)
@pytest.mark.parametrize("path", ["/run", "/step", "/gradients"])
def test_bytes_that_are_no_request(client, path, body, status, words):
    check(client, body, status, None, words, path)


# -- fields ------------------------------------------------------------------------------------------------------------

MISSING = object()

#: (what is changed in GOOD, where the fault is, words of the sentence)
FIELDS = {
    # inputs
    "no inputs": ({"inputs": MISSING}, "/inputs", ["missing"]),
    "inputs null": ({"inputs": None}, "/inputs", ["null"]),
    "inputs a string": ({"inputs": "abc"}, "/inputs", ["'abc'"]),
    "inputs a number": ({"inputs": 5}, "/inputs", ["5"]),
    "inputs an object": ({"inputs": {"a": 1}}, "/inputs", ["object"]),
    "inputs of rank 1": ({"inputs": [1, 2]}, "/inputs", ["[2]", "[batch, max_time, input_size]"]),
    "inputs of rank 2": ({"inputs": [[0.5, 2]]}, "/inputs", ["[1, 2]", "[batch, max_time, input_size]"]),
    "inputs of rank 4": ({"inputs": [X]}, "/inputs", ["[1, 2, 3, 2]", "[batch, max_time, input_size]"]),
    "token ids": ({"inputs": [[1, 2, 3]]}, "/inputs", ["embedding"]),
    "ragged token ids": ({"inputs": [[1, 2, 3], [4]], "lengths": MISSING}, "/inputs", ["features"]),
    "no features": ({"inputs": [[[], [], []]] * 2}, "/inputs", []),
    "a string among numbers": ({"inputs": [[[1, 2], [3, "4"]]]}, "/inputs/0/1/1", ["string", "number"]),
    "a string of a number": ({"inputs": [[["1.5"]]]}, "/inputs/0/0/0", ["string", "number"]),
    "a boolean among numbers": ({"inputs": [[[1, True]]]}, "/inputs/0/0/1", ["boolean", "number"]),
    "null among numbers": ({"inputs": [[[1, None]]]}, "/inputs/0/0/1", ["null", "number"]),
    "null first": ({"inputs": [[[None, 1]]]}, "/inputs/0/0/0", ["null"]),
    "an object among rows": ({"inputs": [[[1, 2]], {}], "lengths": MISSING}, "/inputs/1", []),
    "a string among rows": ({"inputs": [[[1, 2]], ""], "lengths": MISSING}, "/inputs/1", []),
    "a list among numbers": ({"inputs": [[[1, [2]], [3, 4]]]}, "/inputs/0/0/1", ["list"]),
    "a step with fewer features": ({"inputs": [[[1, 2], [3]], [[1, 2], [3, 4]]]}, "/inputs/0/1", ["1", "2"]),
    "ragged inputs with lengths": ({"inputs": [X[0], X[1][:2]]}, "/lengths", ["leave it out"]),
    "ragged inputs time-major": (
        {"inputs": [X[0], X[1][:2]], "lengths": MISSING, "time_major": True},
        "/time_major",
        ["leave it out"],
    ),
    "beyond float32": ({"inputs": [[[1e39]]], "lengths": MISSING}, "/inputs", ["float32", "step 0 of row 0"]),
    # lengths
    "a negative length": ({"lengths": [3, -1]}, "/lengths/1", ["-1", "0..3"]),
    "a length too long": ({"lengths": [4, 3]}, "/lengths/0", ["4", "0..3"]),
    "a length far too long": ({"lengths": [3, 2**62]}, "/lengths/1", ["0..3"]),
    "a length beyond 64 bits": ({"lengths": [3, 10**20]}, "/lengths/1", ["whole"]),
    "a fractional length": ({"lengths": [3, 2.5]}, "/lengths/1", ["2.5", "whole"]),
    "a length with a point": ({"lengths": [3.0, 2.0]}, "/lengths/0", ["whole"]),
    "a length in words": ({"lengths": ["three", "two"]}, "/lengths/0", ["string", "number"]),
    "a length as text": ({"lengths": [3, "2"]}, "/lengths/1", ["string"]),
    "a boolean length": ({"lengths": [True, False]}, "/lengths/0", ["boolean", "number"]),
    "a null length": ({"lengths": [None, 1]}, "/lengths/0", ["null", "number"]),
    "too few lengths": ({"lengths": [3]}, "/lengths", ["1", "2"]),
    "too many lengths": ({"lengths": [3, 2, 1]}, "/lengths", ["3", "2"]),
    "no lengths at all": ({"lengths": []}, "/lengths", ["0", "2"]),
    "one length for all": ({"lengths": 3}, "/lengths", ["list"]),
    "lengths a string": ({"lengths": "3,2"}, "/lengths", ["list"]),
    "lengths an object": ({"lengths": {"0": 3}}, "/lengths", ["list"]),
    "lengths in lists": ({"lengths": [[3], [2]]}, "/lengths", ["list"]),
    "lengths ragged": ({"lengths": [[3], [2, 1]]}, "/lengths", ["list"]),
    "lengths of all kinds": ({"lengths": [["a"], "b"]}, "/lengths", []),
    "lengths of null and lists": ({"lengths": [None, [1]]}, "/lengths", []),
    "a fraction declared an integer": ({"lengths": {"dtype": "int64", "values": [2.5, 2]}}, "/lengths", []),
    # cell, model
    "no such cell": ({"cell": "lsmt"}, "/cell", ["'lsmt'", "`lstm`", "gru", "rnn"]),
    "a cell that is a number": ({"cell": 5}, "/cell", ["string", "5"]),
    "a cell that is a list": ({"cell": ["lstm"]}, "/cell", ["string"]),
    "an empty cell": ({"cell": ""}, "/cell", ["lstm", "gru", "rnn"]),
    "a cell of a million letters": ({"cell": "x" * 1_000_000}, "/cell", ["lstm", "gru", "rnn"]),
    "both cell and model": ({"model": "m"}, "/model", ["exactly one", "both"]),
    "neither cell nor model": ({"cell": MISSING}, "/cell", ["exactly one", "neither"]),
    # sizes
    "no num_units": ({"num_units": MISSING}, "/num_units", ["weights"]),
    "num_units 0": ({"num_units": 0}, "/num_units", ["0", "at least 1"]),
    "num_units -3": ({"num_units": -3}, "/num_units", ["-3", "at least 1"]),
    "num_units a billion": ({"num_units": 10**9}, "/num_units", ["1000000000", "UNROLLED_MAX_UNITS"]),
    "num_units beyond 64 bits": ({"num_units": 10**20}, "/num_units", ["integer"]),
    "num_units a fraction": ({"num_units": 2.5}, "/num_units", ["integer", "2.5"]),
    "num_units a float": ({"num_units": 3.0}, "/num_units", ["integer"]),
    "num_units a string": ({"num_units": "3"}, "/num_units", ["integer", "'3'"]),
    "num_units true": ({"num_units": True}, "/num_units", ["integer"]),
    "num_units an empty list": ({"num_units": []}, "/num_units", ["empty"]),
    "num_units with a 0": ({"num_units": [3, 0]}, "/num_units/1", ["0"]),
    "num_units with a string": ({"num_units": [3, "3"]}, "/num_units/1", []),
    "num_units with a billion": ({"num_units": [3, 10**9]}, "/num_units/1", ["UNROLLED_MAX_UNITS"]),
    "num_units nested": ({"num_units": [[3]]}, "/num_units/0", ["integer"]),
    "num_units for 100,000 layers": ({"num_units": [1] * 100_000}, "/num_units", ["100000", "UNROLLED_MAX_LAYERS"]),
    "num_layers 0": ({"num_layers": 0}, "/num_layers", ["1", "0"]),
    "num_layers a million": ({"num_layers": 10**6}, "/num_layers", ["1000000", "UNROLLED_MAX_LAYERS"]),
    "num_layers a fraction": ({"num_layers": 1.5}, "/num_layers", ["integer"]),
    "num_layers a string": ({"num_layers": "2"}, "/num_layers", ["integer"]),
    "num_layers true": ({"num_layers": True}, "/num_layers", ["integer"]),
    "num_layers and a longer list": ({"num_layers": 2, "num_units": [3, 3, 3]}, "/num_layers", ["2", "3"]),
    "a net of too many weights": ({"num_units": 8192, "num_layers": 64}, "/num_units", ["UNROLLED_MAX_PARAMETERS"]),
    # the others
    "bidirectional 1": ({"bidirectional": 1}, "/bidirectional", ["boolean"]),
    "bidirectional a string": ({"bidirectional": "yes"}, "/bidirectional", ["boolean"]),
    "time_major a string": ({"time_major": "true"}, "/time_major", ["boolean"]),
    "seed a string": ({"seed": "7"}, "/seed", ["integer", "'7'"]),
    "seed a fraction": ({"seed": 0.5}, "/seed", ["integer", "0.5"]),
    "seed ragged": ({"seed": [[1], [1, 2]]}, "/seed", ["integer"]),
    "dtype float16": ({"dtype": "float16"}, "/dtype", ["float32", "float64"]),
    "dtype 32": ({"dtype": 32}, "/dtype", ["float32", "float64"]),
    "return a string": ({"return": "outputs"}, "/return", ["list"]),
    "return what is not there": ({"return": ["outputs", "hidden"]}, "/return/1", ["last_output", "hidden"]),
    "predictions without a readout": ({"return": ["state", "predictions"]}, "/return/1", ["readout"]),
    "an unknown field": ({"lenghts": [3, 2], "lengths": MISSING}, "/lenghts", ["'lenghts'", "`lengths`"]),
    "a field in capitals": ({"Bidirectional": True}, "/Bidirectional", ["`bidirectional`"]),
    "a Python name": ({"returned": ["state"]}, "/returned", ["`return`"]),
    "a field of /step": ({"state": []}, "/state", ["initial_state"]),
    "an unknown field of a million letters": ({"x" * 1_000_000: 1}, None, []),
    "a field of a NUL": ({"\0": 1}, None, ["unknown"]),
    "a field of dollars and dots": ({"$.a": 1}, "/$.a", ["'$.a'"]),
    "a field with slashes": ({"a/b~c": 1}, "/a~1b~0c", ["'a/b~c'"]),
    # options
    "options a list": ({"cell_options": [1]}, "/cell_options", ["dictionary"]),
    "an unknown option": ({"cell_options": {"forget_bais": 1}}, "/cell_options/forget_bais", ["`forget_bias`"]),
    "an option of another cell": ({"cell_options": {"reset_after": True}}, "/cell_options/reset_after", ["lstm"]),
    "no such activation": ({"cell_options": {"activation": "tahn"}}, "/cell_options/activation", ["tanh"]),
    "an activation that is a number": ({"cell_options": {"activation": 1}}, "/cell_options/activation", []),
    "an activation with odd numbers": (
        {"cell_options": {"activation": {"name": "relu", "alhpa": 1}}},
        "/cell_options/activation/alhpa",
        ["'alhpa'"],
    ),
    "a forget_bias in words": ({"cell_options": {"forget_bias": "one"}}, "/cell_options/forget_bias", ["number"]),
    "a forget_bias true": ({"cell_options": {"forget_bias": True}}, "/cell_options/forget_bias", ["number"]),
    "a forget_bias ragged": ({"cell_options": {"forget_bias": [[1], [1, 2]]}}, "/cell_options/forget_bias", ["number"]),
    "a forget_bias of 100,000": (
        {"cell_options": {"forget_bias": [1] * 100_000}},
        "/cell_options/forget_bias",
        ["number"],
    ),
    "a negative clip": ({"cell_options": {"cell_clip": -1}}, "/cell_options/cell_clip", ["-1", "positive"]),
    "num_proj 0": ({"cell_options": {"num_proj": 0}}, "/cell_options/num_proj", ["at least 1"]),
    "num_proj a fraction": ({"cell_options": {"num_proj": 1.5}}, "/cell_options/num_proj", ["whole"]),
    "num_proj a quadrillion": ({"cell_options": {"num_proj": 10**15}}, None, ["limit"]),
    "no such direction": ({"cell_options": {"direction": "up"}}, "/cell_options/direction", ["reverse"]),
    "a direction that contradicts": (
        {"bidirectional": True, "cell_options": {"direction": "reverse"}},
        "/cell_options/direction",
        ["bidirectional", "direction"],
    ),
    "too few activations": ({"cell_options": {"activations": ["Tanh"]}}, "/cell_options/activations", ["1", "3"]),
    "alphas without activations": (
        {"cell_options": {"activation_alpha": [1]}},
        "/cell_options/activation_alpha",
        ["activations"],
    ),
    # readout
    "a readout that is a list of numbers": ({"readout": [1]}, "/readout", []),
    "an empty readout": ({"readout": []}, "/readout", []),
    "a readout without a kernel": ({"readout": {"bias": [1]}}, "/readout", ["kernel", "weight"]),
    "a readout with two kernels": ({"readout": {"kernel": H, "weight": H}}, "/readout", ["one of"]),
    "a readout of another size": ({"readout": {"kernel": [[1]] * 4}}, "/readout/kernel", ["[4, 1]", "[3, n]"]),
    "a weight of another size": ({"readout": {"weight": [[1]] * 3}}, "/readout/weight", ["[3, 1]", "[n, 3]"]),
    "a readout bias of another size": (
        {"readout": {"kernel": [[1]] * 3, "bias": [1, 2]}},
        "/readout/bias",
        ["[2]", "[1]"],
    ),
    "an unknown field of a readout": (
        {"readout": {"kernel": [[1]] * 3, "activaton": "softmax"}},
        "/readout/activaton",
        ["`activation`"],
    ),
    "no such readout activation": (
        {"readout": {"kernel": [[1]] * 3, "activation": "sofmax"}},
        "/readout/activation",
        [],
    ),
    "a readout activation of numbers": (
        {"readout": {"kernel": [[1]] * 3, "activation": [1, 1]}},
        "/readout/activation",
        [],
    ),
    "a readout of words": ({"readout": {"kernel": "abc"}}, "/readout/kernel", ["numbers"]),
    "a readout of all kinds": ({"readout": {"kernel": ["a", ["b"]]}}, "/readout/kernel", ["number"]),
    "a second readout of another size": (
        {"readout": [{"kernel": [[1]] * 3}, {"kernel": [[1]] * 3}]},
        "/readout/1/kernel",
        ["[3, 1]", "[1, n]"],
    ),
    # initial_state
    "a state for no layer": ({"initial_state": []}, "/initial_state", ["0 layers", "1"]),
    "a state for two layers": ({"initial_state": [{"c": H, "h": H}] * 2}, "/initial_state", ["2 layers", "has 1"]),
    "a state that is an object": ({"initial_state": {"c": H, "h": H}}, "/initial_state", ["list"]),
    "a state that is an array": ({"initial_state": H}, "/initial_state", ["list"]),
    "a state that is a string": ({"initial_state": "zeros"}, "/initial_state", ["list"]),
    "a state without c": ({"initial_state": [{"h": H}]}, "/initial_state/0", ["'c'", "'h'"]),
    "a state with more": ({"initial_state": [{"c": H, "h": H, "m": H}]}, "/initial_state/0", ["'m'"]),
    "a state by direction": (
        {"initial_state": [{"forward": {"c": H, "h": H}, "backward": {"c": H, "h": H}}]},
        "/initial_state/0",
        ["'c'", "'forward'"],
    ),
    "a state for another batch": (
        {"initial_state": [{"c": H * 2, "h": H}]},
        "/initial_state/0/c",
        ["[4, 3]", "[2, 3]"],
    ),
    "a state for other units": (
        {"initial_state": [{"c": H, "h": [[1, 2]] * 2}]},
        "/initial_state/0/h",
        ["[2, 2]", "[2, 3]"],
    ),
    "a state of rank 1": ({"initial_state": [{"c": H, "h": [1, 2, 3]}]}, "/initial_state/0/h", ["[3]", "[2, 3]"]),
    "a state of words": ({"initial_state": [{"c": H, "h": "zeros"}]}, "/initial_state/0/h", ["numbers"]),
    "a state of all kinds": ({"initial_state": [{"c": H, "h": ["a", ["b"]]}]}, "/initial_state/0/h", ["number"]),
    "a ragged state": ({"initial_state": [{"c": H, "h": [[1, 2, 3], [1]]}]}, "/initial_state/0/h", ["numbers"]),
    "a state of null": ({"initial_state": [{"c": H, "h": None}]}, "/initial_state/0/h", ["numbers"]),
    "a state beyond float32": ({"initial_state": [{"c": H, "h": [[1e39] * 3] * 2}]}, "/initial_state/0/h", ["finite"]),
}


def changed(request, changes):
    return {name: value for name, value in (request | changes).items() if value is not MISSING}


@pytest.mark.parametrize(("changes", "pointer", "words"), FIELDS.values(), ids=FIELDS)
def test_a_field_that_is_wrong(client, changes, pointer, words):
    check(client, changed(GOOD, changes), 422, pointer, words)


def test_the_request_that_all_of_these_change_is_good(client):
    assert array(client.run(**GOOD)["outputs"]).shape == (2, 3, 3)
    assert client.run(**TRAINED)["model"]["num_units"] == [3, 3]


# -- weights -----------------------------------------------------------------------------------------------------------

LAYER = WEIGHTS["layers"][0]

#: (the weights, where the fault is, words)
BAD_WEIGHTS = {
    "a list": ([1], "/weights", []),
    "a string": ("pytorch", "/weights", []),
    "no layers": ({"layout": "keras"}, "/weights", ["layers"]),
    "an empty list of layers": ({"layers": []}, "/weights/layers", ["list"]),
    "layers that are numbers": ({"layers": [1, 2]}, "/weights/layers", ["list"]),
    "no such layout": ({"layout": "pytorhc", "state_dict": {}}, "/weights/layout", ["'pytorhc'", "pytorch"]),
    "a layout that is a number": ({"layout": 1, "layers": []}, "/weights/layout", ["tensorflow"]),
    "layers where a state_dict belongs": ({"layout": "pytorch", "layers": []}, "/weights/layers", ["state_dict"]),
    "an empty state_dict": ({"layout": "pytorch", "state_dict": {}}, "/weights/state_dict", ["weight_ih_l0"]),
    "an unknown variable": (
        {"layers": [LAYER | {"kernal": LAYER["kernel"]}]},
        "/weights/layers/0/kernal",
        ["`kernel`"],
    ),
    "a missing variable": ({"layers": [{"bias": LAYER["bias"]}]}, "/weights/layers/0", ["kernel", "bias"]),
    "an empty layer": ({"layers": [{}]}, "/weights/layers/0", ["kernel"]),
    "a bias of another size": (
        {"layers": [LAYER | {"bias": [0] * 8}]},
        "/weights/layers/0/bias",
        ["[8]", "[12]"],
    ),
    "a kernel of rank 1": ({"layers": [{"kernel": [1, 2]}]}, "/weights/layers/0/kernel", ["[2]", "matrix"]),
    "a kernel that is no multiple of 4": ({"layers": [{"kernel": [[1] * 6] * 3}]}, "/weights/layers/0/kernel", ["6"]),
    "a kernel with too few rows": ({"layers": [{"kernel": [[1] * 12] * 3}]}, "/weights/layers/0/kernel", ["[3, 12]"]),
    "a kernel of words": ({"layers": [{"kernel": "abc"}]}, "/weights/layers/0/kernel", ["numbers"]),
    "a kernel of all kinds": ({"layers": [{"kernel": ["a", ["b"]]}]}, "/weights/layers/0/kernel", ["number"]),
    "a kernel of null": ({"layers": [{"kernel": [[None]]}]}, "/weights/layers/0/kernel", ["number"]),
    "a ragged kernel": ({"layers": [{"kernel": [[1], [1, 2]]}]}, "/weights/layers/0/kernel", ["numbers"]),
    "an empty kernel": ({"layers": [{"kernel": []}]}, "/weights/layers/0/kernel", ["[0]"]),
    "layers that do not fit together": (
        {"layers": [LAYER, listed(random_weights("tensorflow", "lstm", [7, 3]))["layers"][0]]},
        None,
        ["layer 1", "7", "3"],
    ),
    "one direction of two": ({"layers": [{"forward": LAYER}]}, "/weights/layers/0", ["backward"]),
    "a fault in the second layer": (
        {"layers": [LAYER, LAYER | {"bias": "x"}]},
        "/weights/layers/1/bias",
        ["numbers"],
    ),
    "peepholes in part": ({"layers": [LAYER | {"w_f_diag": [1] * 3}]}, "/weights/layers/0", ["w_i_diag", "w_o_diag"]),
    "a module's prefix": (
        {"layout": "pytorch", "state_dict": {"encoder.weight_ih_l0": [[1]]}},
        "/weights/state_dict/encoder.weight_ih_l0",
        ["prefix"],
    ),
    "a layer left out": (
        {"layout": "pytorch", "state_dict": {"weight_ih_l1": [[1]], "weight_hh_l1": [[1]]}},
        "/weights/state_dict",
        ["1"],
    ),
    "weights of another cell": (
        listed(random_weights("pytorch", "gru", [2, 4])),
        "/weights/state_dict/weight_hh_l0",
        ["[12, 4]"],
    ),
    "too many directions": (
        {"layout": "onnx", "layers": [{"W": [[[1, 1]] * 4] * 3, "R": [[[1]] * 4] * 3}]},
        "/weights/layers/0/R",
        [],
    ),
    "too large for float32": ({"layers": [LAYER | {"bias": [1e39] * 12}]}, "/weights", ["float64"]),
}


@pytest.mark.parametrize(("weights", "pointer", "words"), BAD_WEIGHTS.values(), ids=BAD_WEIGHTS)
def test_weights_that_do_not_fit(client, weights, pointer, words):
    check(client, TRAINED | {"weights": weights}, 422, pointer, words)


def test_inputs_and_weights_of_different_sizes_name_both(client):
    check(client, TRAINED | {"inputs": [[[1, 2, 3]]]}, 422, "/inputs", ["3", "2"])


def test_unknown_names_come_before_what_is_missing_because_of_them(client):
    said = client.refusal("/run", cell="rnn", num_units=3, imputs=X)
    assert "`inputs`" in said["detail"]


# -- anything at all ---------------------------------------------------------------------------------------------------

SEEDS = [
    GOOD | {"initial_state": [{"c": H, "h": H}], "return": ["outputs", "gates"], "seed": 3, "dtype": "float64"},
    GOOD | {"bidirectional": True, "num_layers": 2, "time_major": False, "cell_options": {"cell_clip": 1.0}},
    GOOD | {"readout": [{"kernel": [[1, 2]] * 3, "bias": [0, 1], "activation": "softmax"}], "num_units": [3]},
    GOOD | {"cell_options": {"activation": {"name": "elu", "alpha": 0.5}, "num_proj": 3, "state_is_tuple": False}},
    GOOD | {"cell_options": {"activations": ["Sigmoid", "Tanh", "Tanh"], "direction": "forward", "input_forget": 1}},
    TRAINED,
    {"cell": "gru", "inputs": X, "weights": listed(random_weights("pytorch", "gru", [2, 3]))},
    {"cell": "gru", "inputs": X, "weights": listed(random_weights("keras", "gru", [2, 3], both=True))},
    {"cell": "lstm", "inputs": X, "weights": listed(random_weights("onnx", "lstm", [2, 3], both=True))},
    {"cell": "rnn", "num_units": 2, "inputs": {"shape": [1, 2, 1], "dtype": "float32", "values": [1, 2]}},
]
#: As JSON, so that every draw is a value of its own.
TEXTS = """
null; true; false; 0; -1; 1; 2; 5; 1.5; -0.0; 1e-320; 1e39; 1e308; 4611686018427387904; 9223372036854775808;
100000000000000000000; ""; "x"; "lstm"; "tanh"; "\\u0000"; "é"; []; {}; [[]]; [{}]; [[], [1]]; [1, [2]]; [[1], [2, 3]];
[["a"], "b"]; [null, [1]]; [[], null]; [[{}]]; [true]; [1, null]; [1, 1, 1, 1]; [[1, 2], [1, 2]]; [[[1, 2]]];
{"values": [1]}; {"values": [[]], "shape": [0, 2]}; {"shape": [1099511627776, 0, 2], "values": []}; {"values": 1};
{"values": [1], "shape": []}; {"values": [1.5], "dtype": "int8"}; {"a": {"b": [1]}}; {"name": "relu"}
"""
VALUES = st.sampled_from(TEXTS.split(";")).map(json.loads)
JUNK = st.recursive(
    VALUES, lambda tree: st.lists(tree, max_size=3) | st.dictionaries(st.text(max_size=3), tree, max_size=3)
)


def places(tree, where=()):
    """Paths to everything in a request."""
    yield where
    for key, item in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield from places(item, (*where, key))


def mutated(data, request):
    """The request with one to three of its parts replaced, taken out, doubled or renamed."""
    request = copy.deepcopy(request)
    for _ in range(data.draw(st.integers(1, 3))):
        *path, last = data.draw(st.sampled_from([where for where in places(request) if where]))
        at = request
        for key in path:
            at = at[key]
        deed = data.draw(st.sampled_from(["replace", "replace", "replace", "remove", "double", "rename"]))
        if deed == "replace":
            at[last] = data.draw(VALUES | JUNK)
        elif deed == "remove":
            del at[last]
        elif isinstance(at, list):
            at.append(copy.deepcopy(at[last]))
        else:
            at[data.draw(st.text(max_size=5)) if deed == "rename" else f"{last}x"] = copy.deepcopy(at[last])
    return request


def assert_answered(client, path, content):
    response = client.post(path, content=content, headers={"content-type": "application/json"})
    if response.status_code == 200:
        assert "null" not in response.text
    else:
        assert response.status_code in (400, 404, 413, 422)
        problem(response, response.status_code)


@settings(max_examples=300)
@given(st.data())
def test_no_change_of_a_good_request_is_more_than_a_4xx(client, data):
    request = mutated(data, data.draw(st.sampled_from(SEEDS)))
    assert_answered(client, "/run", json.dumps(request))


@settings(max_examples=150)
@given(st.data())
def test_no_change_of_a_good_step_is_more_than_a_4xx(client, data):
    request = data.draw(st.sampled_from([{k: v for k, v in seed.items() if k != "lengths"} for seed in SEEDS]))
    step = request | {"inputs": X[0][:2]}
    step = {"state" if name == "initial_state" else name: value for name, value in step.items()}
    assert_answered(client, "/step", json.dumps(mutated(data, step)))


@settings(max_examples=150)
@given(st.dictionaries(st.sampled_from([*GOOD, "model", "weights", "readout", "return", "cell_options"]), JUNK))
def test_no_json_object_is_more_than_a_4xx(client, fields):
    assert_answered(client, "/run", json.dumps(fields))


@settings(max_examples=150)
@given(st.data())
def test_no_damage_to_the_bytes_of_a_good_request_is_more_than_a_4xx(client, data):
    body = bytearray(json.dumps(data.draw(st.sampled_from(SEEDS[:5]))).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body)))
        body[at : at + data.draw(st.integers(0, 8))] = data.draw(
            st.binary(max_size=4)
            | st.sampled_from([b"[", b"]", b"{", b"}", b",", b":", b'"', b"1e", b"-", b"NaN", b"\\u"])
        )
    assert_answered(client, "/run", bytes(body))


@pytest.mark.parametrize("path", ["/run", "/step", "/gradients", "/generate"])
@pytest.mark.parametrize(
    "body", [{"values": [1.5]}, {"shape": [1], "values": [1]}, {"values": [[0.5]], "dtype": "float32"}]
)
def test_an_array_in_place_of_a_request_has_fields_that_nobody_knows(client, path, body):
    assert "/values" in pointers(client.refusal(path, **body))
