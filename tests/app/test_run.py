"""POST /run, field by field, against the equations written once more in reference.py."""

import numpy as np
import pytest

from tests.app.client import array, arrays, listed, pointers, service
from tests.app.reference import random_weights, unroll

CELLS = ["rnn", "lstm", "gru"]
LAYOUTS = ["tensorflow", "pytorch", "keras", "onnx"]
X = np.random.default_rng(6).normal(size=(3, 6, 4)).round(3)
LENGTHS = [6, 4, 6]

#: The article's example: batch 3, max time 6, 4 features, lengths 6, 4, 6, hidden 5.
ARTICLE = {"num_units": 5, "dtype": "float64", "inputs": X.tolist(), "lengths": LENGTHS}


def nets(**more):
    """The article's request for each cell."""
    return [{"cell": cell, **ARTICLE, **more} for cell in CELLS]


# -- the article's example ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_articles_example(client, cell):
    answer = client.run(cell=cell, **ARTICLE)
    outputs, (state,) = array(answer["outputs"]), arrays(answer["state"])
    assert outputs.shape == (3, 6, 5)
    assert outputs.dtype == np.float64
    assert not outputs[1, 4:].any()
    assert outputs[1, :4].all()
    assert list(state) == (["c", "h"] if cell == "lstm" else ["h"])
    assert np.array_equal(state["h"], [row[length - 1] for row, length in zip(outputs, LENGTHS, strict=True)])


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 2e-5)])
def test_outputs_and_states_are_what_the_equations_say(client, cell, dtype, tolerance):
    returned = ["outputs", "state", "weights"]
    answer = arrays(client.run(**ARTICLE | {"cell": cell, "dtype": dtype, "num_layers": 2, "return": returned}))
    outputs, state = unroll(cell, answer["weights"]["layers"], X, LENGTHS)
    assert answer["outputs"].dtype == dtype
    assert np.allclose(answer["outputs"], outputs, rtol=0, atol=tolerance)
    for got, expected in zip(answer["state"], state, strict=True):
        assert got.keys() == expected.keys()
        for name in expected:
            assert np.allclose(got[name], expected[name], rtol=0, atol=tolerance)


def test_the_answer_has_the_fields_of_the_contract(client):
    answer = client.run(cell="lstm", **ARTICLE)
    model = {
        "cell": "lstm",
        "num_layers": 1,
        "num_units": [5],
        "input_size": 4,
        "bidirectional": False,
        "parameters": 200,
        "state_size": [{"c": 5, "h": 5}],
        "output_size": 5,
    }
    assert model.items() <= answer["model"].items()
    assert answer["model"]["kernel"] in ("fused", "numpy")
    assert answer["lengths"] == LENGTHS
    assert set(answer) == {"model", "lengths", "outputs", "state"}
    assert {"shape": [3, 5], "dtype": "float64"}.items() <= answer["state"][0]["c"].items()


def test_three_stacked_layers_of_128_at_batch_100(client):
    x = np.random.default_rng(1).normal(size=(100, 10, 8)).astype(np.float32)
    lengths = [1 + row % 10 for row in range(100)]
    request = {"cell": "lstm", "num_layers": 3, "num_units": 128, "inputs": x.tolist(), "lengths": lengths}
    answer = arrays(client.run(**request, **{"return": ["outputs", "state", "weights"]}))
    outputs, state = unroll("lstm", answer["weights"]["layers"], x, lengths)
    assert answer["outputs"].shape == (100, 10, 128)
    assert [layer["c"].shape for layer in answer["state"]] == [(100, 128)] * 3
    assert np.allclose(answer["outputs"], outputs, rtol=0, atol=2e-5)
    assert np.allclose(answer["state"][2]["c"], state[2]["c"], rtol=0, atol=2e-5)
    assert answer["model"]["parameters"] == (8 + 128) * 512 + 512 + 2 * (256 * 512 + 512)


def test_a_state_of_one_layer_is_no_state_for_three(client):
    one = client.run(cell="lstm", **ARTICLE)["state"]
    said = client.refusal("/run", cell="lstm", num_layers=3, initial_state=one, **ARTICLE)
    assert "1 layer" in said["detail"]
    assert "3" in said["detail"]
    assert pointers(said) == ["/initial_state"]


@pytest.mark.parametrize(("inputs", "state", "output"), [([1, 1], 0.1, 0.175991), ([1, 1, 1], 0.1, 0.156736)])
def test_tensorflows_own_gru_constants(client, inputs, state, output):
    rows, units = len(inputs) + 2, 2
    kernels = {"gates_kernel": np.full((rows, 2 * units), 0.5), "candidate_kernel": np.full((rows, units), 0.5)}
    biases = {"gates_bias": np.ones(2 * units), "candidate_bias": np.zeros(units)}
    weights = listed({"layers": [kernels | biases]})
    answer = client.run(cell="gru", weights=weights, inputs=[[inputs]], initial_state=[{"h": [[state] * units]}])
    assert np.allclose(array(answer["outputs"]), output, atol=1e-6)


# -- lengths, padding, ragged and time-major input ---------------------------------------------------------------------


def test_padding_can_hold_anything_and_changes_nothing(client):
    clean = client.run(cell="lstm", **ARTICLE, bidirectional=True, num_layers=2)
    padded = X.copy()
    padded[1, 4:] = 1e300
    request = ARTICLE | {"inputs": padded.tolist(), "bidirectional": True, "num_layers": 2}
    assert client.run(cell="lstm", **request) == clean
    assert client.run(cell="lstm", **request | {"dtype": "float32"})["lengths"] == LENGTHS  # 1e300 is not in float32


def test_a_row_of_length_0_keeps_its_initial_state(client):
    state = [{"c": np.full((3, 5), 0.25).tolist(), "h": np.full((3, 5), -0.5).tolist()}]
    answer = arrays(client.run(cell="lstm", **ARTICLE | {"lengths": [6, 0, 1]}, initial_state=state))
    assert not answer["outputs"][1].any()
    assert (answer["state"][0]["c"][1] == 0.25).all()
    assert (answer["state"][0]["h"][1] == -0.5).all()
    assert (answer["state"][0]["h"][2] == answer["outputs"][2, 0]).all()


@pytest.mark.parametrize("request_", nets(num_layers=2, bidirectional=True))
def test_a_row_does_not_depend_on_what_else_is_in_its_batch(client, request_):
    together = array(client.run(**request_)["outputs"])
    for row, length in enumerate(LENGTHS):
        alone = client.run(**request_ | {"inputs": [X[row, :length].tolist()], "lengths": [length]})
        assert np.allclose(array(alone["outputs"])[0], together[row, :length], rtol=0, atol=1e-12)


@pytest.mark.parametrize("request_", nets())
def test_ragged_inputs_are_the_padded_ones_with_lengths(client, request_):
    ragged = [row[:length].tolist() for row, length in zip(X, LENGTHS, strict=True)]
    padded = client.run(**request_)
    answer = client.run(**{k: v for k, v in request_.items() if k != "lengths"} | {"inputs": ragged})
    assert answer == padded


def test_ragged_inputs_may_have_empty_sequences_and_are_padded_to_the_longest(client):
    answer = client.run(cell="rnn", num_units=2, inputs=[[[1], [2]], [], [[3]]])
    assert answer["lengths"] == [2, 0, 1]
    assert array(answer["outputs"]).shape == (3, 2, 2)
    assert not array(answer["outputs"])[1].any()


@pytest.mark.parametrize("request_", nets(num_layers=2))
def test_time_major_swaps_the_first_two_axes_of_inputs_and_outputs_alone(client, request_):
    batch_major = arrays(client.run(**request_))
    answer = arrays(client.run(**request_ | {"inputs": X.swapaxes(0, 1).tolist(), "time_major": True}))
    assert np.array_equal(answer["outputs"].swapaxes(0, 1), batch_major["outputs"])
    assert np.array_equal(answer["state"][1]["h"], batch_major["state"][1]["h"])


def test_without_lengths_every_step_is_real(client):
    answer = client.run(**{k: v for k, v in ARTICLE.items() if k != "lengths"}, cell="gru")
    assert answer["lengths"] == [6, 6, 6]
    assert array(answer["outputs"])[1, 4:].all()


def test_max_time_0_gives_empty_outputs_and_the_initial_state(client):
    weights = listed(random_weights("tensorflow", "lstm", [4, 5]))
    state = [{"c": [[0.5] * 5] * 3, "h": [[0.25] * 5] * 3}]
    for inputs in ([[], [], []], {"shape": [3, 0, 4], "values": []}, {"shape": [3, 0, 4], "values": [[], [], []]}):
        answer = arrays(client.run(cell="lstm", weights=weights, inputs=inputs, initial_state=state))
        assert answer["outputs"].shape == (3, 0, 5)
        assert answer["lengths"] == [0, 0, 0]
        assert (answer["state"][0]["c"] == 0.5).all()


@pytest.mark.parametrize("returned", ["outputs", "last_output", "state", "predictions", "gates", "states", "weights"])
@pytest.mark.parametrize("shape", [(0, 6, 4), (3, 0, 4), (0, 0, 4)])
def test_nothing_in_is_nothing_out_for_everything_that_can_be_returned(client, returned, shape):
    readout = {"kernel": np.ones((10, 3)).tolist(), "activation": "softmax"}
    inputs = {"shape": shape, "values": []}
    request = {"cell": "gru", "num_units": 5, "bidirectional": True, "inputs": inputs, "readout": readout}
    answer = arrays(client.run(**request, **{"return": [returned]}))
    assert answer["lengths"] == [0] * shape[0]
    sizes = {"outputs": (*shape[:2], 10), "predictions": (*shape[:2], 3), "last_output": (shape[0], 10)}
    if returned in sizes:
        assert answer[returned].shape == sizes[returned]


def test_an_empty_batch_works_where_something_tells_the_input_size(client):
    weights = listed(random_weights("pytorch", "gru", [4, 5]))
    for request in (
        {"weights": weights, "inputs": []},
        {"num_units": 5, "inputs": {"shape": [0, 6, 4], "values": []}, "lengths": []},
    ):
        answer = arrays(client.run(cell="gru", **request))
        assert answer["model"]["input_size"] == 4
        assert answer["outputs"].shape[::2] == (0, 5)
        assert answer["state"][0]["h"].shape == (0, 5)
        assert answer["lengths"] == []


@pytest.mark.parametrize("inputs", [[], [[]], [[], []]])
def test_an_empty_batch_is_refused_where_nothing_tells_the_input_size(client, inputs):
    said = client.refusal("/run", cell="lstm", num_units=5, inputs=inputs)
    assert "input size" in said["detail"]
    assert pointers(said) == ["/inputs"]


# -- arrays in a request -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "inputs",
    [
        {"shape": [3, 6, 4], "dtype": "float64", "values": X.tolist()},
        {"shape": [3, 6, 4], "dtype": "float64", "values": X.ravel().tolist()},
        {"shape": [3, 6, 4], "values": X.ravel().tolist()},
        {"values": X.tolist()},
    ],
    ids=["nested", "flat", "without dtype", "without shape"],
)
def test_an_array_may_be_an_object(client, inputs):
    assert client.run(cell="lstm", **ARTICLE | {"inputs": inputs}) == client.run(cell="lstm", **ARTICLE)


def test_integers_are_features_too(client):
    whole = {"cell": "rnn", "num_units": 3, "inputs": [[[1, -2], [3, 0]]]}
    same = client.run(**whole)
    assert client.run(**whole | {"inputs": [[[1.0, -2.0], [3.0, 0.0]]]}) == same
    assert client.run(**whole | {"inputs": {"shape": [1, 2, 2], "dtype": "int8", "values": [1, -2, 3, 0]}}) == same


def test_a_float64_tensor_is_rounded_to_float32_first(client):
    rounded = X.astype(np.float32).astype(float)
    narrow = ARTICLE | {"dtype": "float32"}
    assert client.run(cell="gru", **narrow) == client.run(cell="gru", **narrow | {"inputs": rounded.tolist()})


# -- state -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_", [*nets(num_layers=2), *nets(dtype="float32")])
def test_a_state_posted_back_continues_the_sequence(client, request_):
    whole = arrays(client.run(**request_ | {"lengths": [6, 6, 6]}))
    first = client.run(**request_ | {"inputs": X[:, :2].tolist(), "lengths": None})
    second = client.run(**request_ | {"inputs": X[:, 2:].tolist(), "lengths": None, "initial_state": first["state"]})
    tolerance = 1e-6 if request_["dtype"] == "float32" else 1e-12
    assert np.allclose(array(second["outputs"]), whole["outputs"][:, 2:], rtol=0, atol=tolerance)
    for got, expected in zip(arrays(second["state"]), whole["state"], strict=True):
        for name in expected:
            assert np.allclose(got[name], expected[name], rtol=0, atol=tolerance)


def test_a_bidirectional_state_is_named_by_direction_and_goes_back_in(client):
    request = {"cell": "lstm", **ARTICLE, "bidirectional": True, "num_layers": 2}
    answer = client.run(**request)
    assert [{side: list(entry[side]) for side in entry} for entry in answer["state"]] == [
        {"forward": ["c", "h"], "backward": ["c", "h"]}
    ] * 2
    assert answer["model"]["state_size"] == [{"forward": {"c": 5, "h": 5}, "backward": {"c": 5, "h": 5}}] * 2
    outputs, state = array(answer["outputs"]), arrays(answer["state"])[1]
    assert outputs.shape == (3, 6, 10)
    assert np.array_equal(state["forward"]["h"][1], outputs[1, 3, :5])
    assert np.array_equal(state["backward"]["h"], outputs[:, 0, 5:])
    assert client.run(**request, initial_state=answer["state"])["outputs"] != answer["outputs"]


@pytest.mark.parametrize("cell", CELLS)
def test_an_initial_state_is_what_the_equations_start_from(client, cell):
    names = ["c", "h"] if cell == "lstm" else ["h"]
    state = {name: np.random.default_rng(3).normal(size=(3, 5)) for name in names}
    request = {"cell": cell, **ARTICLE, "initial_state": listed([state]), "return": ["outputs", "weights"]}
    answer = arrays(client.run(**request))
    expected, _ = unroll(cell, answer["weights"]["layers"], X, LENGTHS, [state])
    assert np.allclose(answer["outputs"], expected, rtol=0, atol=1e-12)


def test_state_is_tuple_false_takes_and_gives_one_array_c_first(client):
    request = {"cell": "lstm", **ARTICLE, "num_layers": 2}
    joined = request | {"cell_options": {"state_is_tuple": False}}
    named, answer = arrays(client.run(**request)), client.run(**joined)
    together = arrays(answer["state"])
    for k in range(2):
        assert list(together[k]) == ["ch"]
        assert np.array_equal(together[k]["ch"], np.hstack([named["state"][k]["c"], named["state"][k]["h"]]))
    again = client.run(**joined, initial_state=answer["state"])
    assert again["outputs"] == client.run(**request, initial_state=client.run(**request)["state"])["outputs"]


# -- layers, units, names ----------------------------------------------------------------------------------------------


def test_num_units_may_be_a_list_which_settles_the_layers(client):
    answer = client.run(cell="gru", **ARTICLE | {"num_units": [7, 3, 2]})
    assert answer["model"]["num_units"] == [7, 3, 2]
    assert answer["model"]["num_layers"] == 3
    assert [entry["h"]["shape"] for entry in answer["state"]] == [[3, 7], [3, 3], [3, 2]]
    assert answer["outputs"]["shape"] == [3, 6, 2]
    said = client.refusal("/run", cell="gru", **ARTICLE | {"num_units": [7, 3], "num_layers": 3})
    assert "2" in said["detail"]
    assert "3" in said["detail"]


@pytest.mark.parametrize(
    ("alias", "name"),
    [("BasicRNNCell", "rnn"), ("SimpleRNN", "rnn"), ("LSTM", "lstm"), ("BasicLSTMCell", "lstm"), ("GRUCell", "gru")],
)
def test_a_cell_answers_to_its_names_elsewhere(client, alias, name):
    assert client.run(cell=alias, **ARTICLE) == client.run(cell=name, **ARTICLE)


def test_residual_adds_each_layers_input_where_the_sizes_permit(client):
    request = {"cell": "gru", **ARTICLE, "num_units": [4, 4, 5], "return": ["outputs", "weights"]}
    plain = arrays(client.run(**request))
    answer = arrays(client.run(**request | {"cell_options": {"residual": True}}))
    below = X
    for k, layer in enumerate(plain["weights"]["layers"]):
        outputs, _ = unroll("gru", [layer], below, LENGTHS)
        real = np.arange(6)[:, np.newaxis] < np.array(LENGTHS)[:, np.newaxis, np.newaxis]
        below = outputs + below * real if k < 2 else outputs
    assert np.allclose(answer["outputs"], below, rtol=0, atol=1e-12)


@pytest.mark.parametrize("cell", CELLS)
def test_directions_of_onnx(client, cell):
    full = {k: v for k, v in ARTICLE.items() if k not in ("num_units", "lengths")}
    weights = listed(random_weights("onnx", cell, [4, 5]))
    forward = arrays(client.run(cell=cell, weights=weights, **full | {"inputs": X[:, ::-1].tolist()}))
    backward = arrays(client.run(cell=cell, weights=weights, **full, cell_options={"direction": "reverse"}))
    assert np.array_equal(backward["outputs"], forward["outputs"][:, ::-1])
    assert list(backward["state"][0]) == (["c", "h"] if cell == "lstm" else ["h"])
    assert np.array_equal(backward["state"][0]["h"], forward["state"][0]["h"])
    both = listed(random_weights("onnx", cell, [4, 5], both=True))
    answer = client.run(cell=cell, weights=both, **full, cell_options={"direction": "bidirectional"})
    assert answer["model"]["bidirectional"] is True
    assert answer["outputs"]["shape"] == [3, 6, 10]
    assert answer["outputs"] == client.run(cell=cell, weights=both, **full)["outputs"]


def test_a_net_may_mix_plain_and_bidirectional_layers(client):
    bottom = random_weights("tensorflow", "gru", [4, 5], both=True)["layers"]
    top = random_weights("tensorflow", "gru", [10, 3])["layers"]
    answer = client.run(cell="gru", weights=listed({"layers": bottom + top}), inputs=X.tolist())
    assert answer["model"]["bidirectional"] == [True, False]
    assert [list(entry) for entry in answer["state"]] == [["forward", "backward"], ["h"]]
    assert answer["outputs"]["shape"] == [3, 6, 3]


# -- weights and seeds -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_returned_weights_are_the_given_ones_and_can_be_posted_back(client, layout, cell, both, dtype):
    weights = random_weights(layout, cell, [4, 5, 3], both=both)
    everything = ["outputs", "state", "weights"]
    request = {"cell": cell, "dtype": dtype, "inputs": X.tolist(), "lengths": LENGTHS, "return": everything}
    answer = client.run(**request, weights=listed(weights))
    assert answer["model"]["bidirectional"] is both
    assert answer["model"]["num_units"] == [5, 3]
    assert_equal_trees(arrays(answer["weights"]), weights, dtype)
    assert client.run(**request, weights=answer["weights"]) == answer


def assert_equal_trees(got, expected, dtype):
    if isinstance(expected, np.ndarray):
        assert got.dtype == dtype
        assert np.array_equal(got, expected.astype(dtype))
    elif isinstance(expected, dict):
        assert got.keys() == expected.keys()
        for name in expected:
            assert_equal_trees(got[name], expected[name], dtype)
    elif isinstance(expected, list):
        for one, other in zip(got, expected, strict=True):
            assert_equal_trees(one, other, dtype)
    else:
        assert got == expected


@pytest.mark.parametrize("cell", CELLS)
def test_seeded_weights_can_be_posted_back(client, cell):
    request = {"cell": cell, **ARTICLE, "num_layers": 2, "bidirectional": True, "seed": 3}
    seeded = client.run(**request, **{"return": ["outputs", "weights"]})
    del request["num_units"]
    assert client.run(**request, weights=seeded["weights"])["outputs"] == seeded["outputs"]


@pytest.mark.parametrize(
    ("layout", "cell", "expected"), [("pytorch", "lstm", 220), ("keras", "gru", 165), ("onnx", "lstm", 235)]
)
def test_parameters_are_counted_as_given(client, layout, cell, expected):
    weights = random_weights(layout, cell, [4, 5])
    answer = client.run(cell=cell, weights=listed(weights), inputs=X.tolist(), **{"return": []})
    assert answer["model"]["parameters"] == expected


@pytest.mark.parametrize(("said", "pointer"), [
    ({"num_layers": 3}, "/num_layers"),
    ({"num_units": 6}, "/num_units"),
    ({"num_units": [5, 4]}, "/num_units"),
    ({"bidirectional": True}, "/bidirectional"),
])  # fmt: skip
def test_a_field_that_contradicts_the_weights_is_refused(client, said, pointer):
    weights = listed(random_weights("pytorch", "lstm", [4, 5, 5]))
    request = {"cell": "lstm", "weights": weights, "inputs": X.tolist()}
    assert pointers(client.refusal("/run", **request, **said)) == [pointer]
    client.run(**request, num_layers=2, num_units=5, bidirectional=False)


def test_forget_bias_is_1_for_tensorflow_and_0_for_the_other_layouts(client):
    base = {"cell": "lstm", "inputs": X.tolist(), "lengths": LENGTHS, "dtype": "float64", "return": ["outputs"]}
    for layout in LAYOUTS:
        request = base | {"weights": listed(random_weights(layout, "lstm", [4, 5]))}
        default = client.run(**request)
        by_hand = [client.run(**request, cell_options={"forget_bias": bias}) for bias in (0, 1)]
        assert default["outputs"] == by_hand[layout == "tensorflow"]["outputs"]
        assert default["outputs"] != by_hand[layout != "tensorflow"]["outputs"]


@pytest.mark.parametrize(
    ("layout", "bias_rank", "default"),
    [("tensorflow", 1, False), ("pytorch", 1, True), ("keras", 2, True), ("keras", 1, False), ("keras", 0, True)],
)
def test_reset_after_is_what_the_layout_means(client, layout, bias_rank, default):
    weights = random_weights(layout, "gru", [4, 5])
    if layout == "keras":
        layer = weights["layers"][0]
        layer["bias"] = [None, layer["bias"][0], layer["bias"]][bias_rank]
        weights["layers"][0] = {name: value for name, value in layer.items() if value is not None}
    request = {"cell": "gru", "weights": listed(weights), "inputs": X.tolist(), "return": ["outputs"]}
    answer = client.run(**request)
    assert client.run(**request, cell_options={"reset_after": default})["outputs"] == answer["outputs"]
    if layout != "keras" or bias_rank == 0:
        assert client.run(**request, cell_options={"reset_after": not default})["outputs"] != answer["outputs"]


def test_onnx_resets_before_unless_linear_before_reset(client):
    weights = listed(random_weights("onnx", "gru", [4, 5]))
    request = {"cell": "gru", "weights": weights, "inputs": X.tolist(), "return": ["outputs"]}
    default, before, after = (
        client.run(**request, cell_options=options)["outputs"]
        for options in ({}, {"linear_before_reset": 0}, {"linear_before_reset": 1})
    )
    assert default == before
    assert default != after


def test_a_seed_means_the_same_weights_in_every_process_that_runs(client):
    answers = [client.run(cell="lstm", **ARTICLE, seed=seed) for seed in (0, 1, -1, 2**63)]
    assert answers[0] == client.run(cell="lstm", **ARTICLE)
    assert len({str(answer["outputs"]) for answer in answers}) == 4
    with service() as other:
        assert [other.run(cell="lstm", **ARTICLE, seed=seed) for seed in (0, 1, -1, 2**63)] == answers


@pytest.mark.parametrize("change", [
    {"dtype": "float32"},
    {"num_units": 6},
    {"num_layers": 2},
    {"bidirectional": True},
    {"cell_options": {"forget_bias": 0.0}},
    {"cell_options": {"activation": "relu"}},
    {"cell_options": {"use_peepholes": True}},
    {"cell_options": {"num_proj": 3}},
])  # fmt: skip
def test_another_net_of_the_same_seed_is_another_net(client, change):
    first = client.run(cell="lstm", **ARTICLE, seed=5)
    assert client.run(cell="lstm", **ARTICLE | change, seed=5)["outputs"] != first["outputs"]
    assert client.run(cell="lstm", **ARTICLE, seed=5) == first


# -- what is returned --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["outputs", "last_output", "state", "predictions", "gates", "states", "weights"])
def test_exactly_what_was_asked_for_is_returned(client, name):
    request = {"cell": "gru", **ARTICLE, "readout": {"kernel": np.ones((5, 2)).tolist()}}
    assert set(client.run(**request, **{"return": [name]})) == {"model", "lengths", name}


def test_return_may_ask_for_nothing_or_for_all(client):
    everything = ["outputs", "last_output", "state", "predictions", "gates", "states", "weights"]
    request = {"cell": "gru", **ARTICLE, "readout": {"kernel": np.ones((5, 2)).tolist()}}
    assert set(client.run(**request, **{"return": []})) == {"model", "lengths"}
    assert set(client.run(**request, **{"return": everything})) == {"model", "lengths", *everything}
    assert set(client.run(**request)) == {"model", "lengths", "outputs", "state", "predictions"}


def test_last_output_is_forward_at_the_last_real_step_and_backward_at_the_first(client):
    request = {"cell": "lstm", **ARTICLE | {"lengths": [6, 4, 0]}, "bidirectional": True, "num_layers": 2}
    for time_major in (False, True):
        inputs = (X.swapaxes(0, 1) if time_major else X).tolist()
        asked = {"inputs": inputs, "time_major": time_major, "return": ["outputs", "last_output"]}
        answer = arrays(client.run(**request | asked))
        outputs = answer["outputs"].swapaxes(0, 1) if time_major else answer["outputs"]
        expected = [
            np.hstack([outputs[0, 5, :5], outputs[0, 0, 5:]]),
            np.hstack([outputs[1, 3, :5], outputs[1, 0, 5:]]),
        ]
        assert np.array_equal(answer["last_output"], [*expected, np.zeros(10)])


def test_lstm_gates_are_activations_that_give_the_outputs(client):
    request = {"cell": "lstm", **ARTICLE, "num_layers": 2, "return": ["outputs", "gates"]}
    answer = arrays(client.run(**request))
    assert [set(layer) for layer in answer["gates"]] == [{"input", "forget", "output", "candidate"}] * 2
    i, f, o, g = (answer["gates"][1][name] for name in ("input", "forget", "output", "candidate"))
    c = np.zeros((3, 5))
    for t in range(6):
        c = f[:, t] * c + i[:, t] * g[:, t]
        assert np.allclose(answer["outputs"][:, t], o[:, t] * np.tanh(c), rtol=0, atol=1e-12)
    for gate in (i, f, o, g):
        assert gate.shape == (3, 6, 5)
        assert not gate[1, 4:].any()
        assert gate[1, :4].all()


def test_gru_gates_are_activations_that_give_the_outputs_both_ways(client):
    request = {"cell": "gru", **ARTICLE, "bidirectional": True, "return": ["outputs", "gates"]}
    answer = arrays(client.run(**request))
    (gates,), outputs = answer["gates"], answer["outputs"]
    assert set(gates) == {"forward", "backward"}
    z, n = gates["forward"]["update"], gates["forward"]["candidate"]
    assert np.allclose(outputs[:, 0, :5], (1 - z[:, 0]) * n[:, 0], rtol=0, atol=1e-12)
    z, n = gates["backward"]["update"], gates["backward"]["candidate"]
    assert np.allclose(outputs[1, 3, 5:], (1 - z[1, 3]) * n[1, 3], rtol=0, atol=1e-12)  # where row 1 begins, backward
    following = z[1, 2] * outputs[1, 3, 5:] + (1 - z[1, 2]) * n[1, 2]
    assert np.allclose(outputs[1, 2, 5:], following, rtol=0, atol=1e-12)
    assert not gates["backward"]["reset"][1, 4:].any()


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
def test_states_are_those_of_runs_that_end_at_each_step(client, kind):
    request = {"cell": kind, **ARTICLE, "num_layers": 2}
    states = arrays(client.run(**request, **{"return": ["states"]}))["states"]
    for t in range(1, 7):
        ended = arrays(client.run(**request | {"lengths": [min(length, t) for length in ARTICLE["lengths"]]}))["state"]
        for layer in (0, 1):
            assert set(states[layer]) == set(ended[layer])
            for name, parts in states[layer].items():
                assert parts.shape == (3, 6, 5)
                alive = [row for row, length in enumerate(ARTICLE["lengths"]) if t <= length]
                assert np.allclose(parts[alive, t - 1], ended[layer][name][alive], rtol=0, atol=1e-12)
                assert not parts[1, 4:].any()


def test_states_of_both_directions_are_packed_with_packed_sequences(client):
    request = {"cell": "lstm", "num_units": 5, "bidirectional": True, "dtype": "float64", "return": ["states", "state"]}
    lengths = [6, 4, 6]
    padded = arrays(client.run(**request, inputs=X.tolist(), lengths=lengths))
    rows = np.concatenate([X[row, :length] for row, length in enumerate(lengths)])
    packed = arrays(client.run(**request, inputs=rows.tolist(), lengths=lengths, packed=True))
    for side in ("forward", "backward"):
        for name in ("c", "h"):
            steps = padded["states"][0][side][name]
            expected = np.concatenate([steps[row, :length] for row, length in enumerate(lengths)])
            assert np.array_equal(packed["states"][0][side][name], expected)
    assert np.array_equal(padded["states"][0]["backward"]["c"][:, 0], padded["state"][0]["backward"]["c"])


def test_gates_are_time_major_with_the_outputs(client):
    request = {"cell": "gru", **ARTICLE, "return": ["gates"]}
    (plain,) = arrays(client.run(**request))["gates"]
    (turned,) = arrays(client.run(**request | {"inputs": X.swapaxes(0, 1).tolist(), "time_major": True}))["gates"]
    for name in ("reset", "update", "candidate"):
        assert np.array_equal(turned[name].swapaxes(0, 1), plain[name])


# -- readout -----------------------------------------------------------------------------------------------------------

K, B = np.random.default_rng(9).normal(size=(5, 3)).round(3), np.array([0.5, -1.0, 0.25])


def softmax(logits):
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize(
    ("readout", "formula"),
    [
        ({"kernel": K.tolist()}, lambda h: h @ K),
        ({"weight": K.T.tolist()}, lambda h: h @ K),
        ({"kernel": K.tolist(), "bias": B.tolist()}, lambda h: h @ K + B),
        ({"weight": K.T.tolist(), "bias": B.tolist(), "activation": "softmax"}, lambda h: softmax(h @ K + B)),
        ({"kernel": K.tolist(), "activation": "relu"}, lambda h: np.maximum(h @ K, 0)),
        (
            [
                {"kernel": K.tolist(), "bias": B.tolist(), "activation": "tanh"},
                {"weight": K[:2].tolist(), "activation": "softmax"},
            ],
            lambda h: softmax(np.tanh(h @ K + B) @ K[:2].T),
        ),
    ],
    ids=["kernel", "weight", "bias", "softmax", "relu", "two layers"],
)
def test_predictions_are_the_readout_of_every_real_output(client, readout, formula):
    answer = arrays(client.run(cell="lstm", **ARTICLE, readout=readout))
    expected = formula(answer["outputs"])
    expected[1, 4:] = 0
    assert np.allclose(answer["predictions"], expected, rtol=0, atol=1e-12)


def test_softmax_sums_to_1_over_real_steps_and_is_0_past_them(client):
    readout = {"kernel": (K * 100).tolist(), "activation": "softmax"}
    answer = client.run(cell="gru", **ARTICLE | {"dtype": "float32"}, readout=readout)
    sums = array(answer["predictions"]).sum(axis=2)
    real = np.arange(6) < np.array(LENGTHS)[:, np.newaxis]
    assert np.allclose(sums, real, rtol=0, atol=1e-6)


def test_predictions_are_time_major_with_the_outputs(client):
    request = {"cell": "gru", **ARTICLE, "readout": {"kernel": K.tolist()}}
    turned = client.run(**request | {"inputs": X.swapaxes(0, 1).tolist(), "time_major": True})
    assert np.array_equal(array(turned["predictions"]).swapaxes(0, 1), array(client.run(**request)["predictions"]))


# -- results that are no numbers ---------------------------------------------------------------------------------------

HUGE = [[1e30] * 4] * 2


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"weights": {"layers": [{"kernel": [[3e38]] * 2}]}, "inputs": [[[0], [3e38]]], "cell": "rnn"},
            ("layer 0", "step 1"),
        ),
        ({"weights": {"layers": [{"kernel": HUGE}]}, "inputs": [[[1e30]]], "cell": "lstm"}, ("layer 0", "step 0")),
        (
            {"weights": {"layers": [{"kernel": HUGE}]}, "inputs": [[[1e30]]], "cell": "lstm", "return": ["gates"]}
            | {"cell_options": {"activation": "relu", "cell_clip": 3}},
            ("layer 0", "step 0"),
        ),
    ],
    ids=["outputs", "state", "gates alone"],
)
def test_an_overflow_is_refused_naming_layer_and_step_and_never_null(client, fields, words):
    options = {"activation": "relu"} | fields.pop("cell_options", {})
    said = client.refusal("/run", **fields, cell_options=options)
    assert all(word in said["detail"] for word in words)
    assert "overflow" in said["detail"]


def test_readouts_and_weights_that_overflow_are_refused_too(client):
    big = {"cell": "rnn", "num_units": 1, "inputs": [[[1]]], "readout": {"kernel": [[3e38]], "bias": [3e38]}}
    assert "readout" in client.refusal("/run", **big)["detail"]
    weights = {"layers": [{"kernel": [[1e39], [0]]}]}
    assert "float64" in client.refusal("/run", cell="rnn", weights=weights, inputs=[[[1]]])["detail"]
    client.run(cell="rnn", weights=weights, inputs=[[[1]]], dtype="float64")


def test_ragged_sequences_of_other_features_than_the_weights_have_are_refused(client):
    weights = listed(random_weights("tensorflow", "rnn", [2, 3]))
    said = client.refusal("/run", cell="rnn", weights=weights, inputs=[[[1, 2, 3], [1, 2, 3]], [[1, 2, 3]]])
    assert "3 features" in said["detail"]
    assert "takes 2" in said["detail"]


@pytest.mark.parametrize("options", [{"forget_bias": 0}, {"activation": "relu"}, {"direction": "reverse"}])
def test_returned_weights_with_the_options_of_the_answer_compute_the_same(client, options):
    first = client.run(**ARTICLE | {"return": ["outputs", "weights"], "cell": "lstm", "cell_options": options})
    back = {key: ARTICLE[key] for key in ("inputs", "lengths", "dtype")}
    again = client.run(cell="lstm", weights=first["weights"], cell_options=first["model"]["cell_options"], **back)
    assert again["outputs"] == first["outputs"]


def test_a_misspelt_softmax_is_told_its_name(client):
    readout = {"kernel": [[1]] * 5, "activation": "sofmax"}
    assert "`softmax`" in client.refusal("/run", **ARTICLE, cell="rnn", readout=readout)["detail"]
