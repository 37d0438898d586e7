"""Trained networks as data: kept without loss, and computed layer by layer as their parts say."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rnn_engine import BasicRNNCell, GRUCell, LSTMCell, LSTMStateTuple, MultiRNNCell, Network, dynamic_rnn
from rnn_engine.blueprint import VERSION, Blueprint, DenseBlueprint, LayerBlueprint
from rnn_engine.errors import OptionError, ShapeError
from rnn_engine.formats import safetensors
from rnn_engine.types import as_float
from tests.rnn_engine import assert_close, assert_same, poisoned

RANDOM = np.random.default_rng(0)
GATES = {"rnn": 1, "gru": 3, "lstm": 4}
CELLS = {"rnn": BasicRNNCell, "gru": GRUCell, "lstm": LSTMCell}
OPTIONS = {"rnn": {}, "gru": {"reset_after": True}, "lstm": {"forget_bias": 0.0}}
LENGTHS = np.array([3, 0, 5, 1])
X = RANDOM.standard_normal((4, 5, 3))


def parameters(cell, inputs, units, output=None):
    """Canonical parameters of one direction."""
    blocks, output = GATES[cell], output or units
    shapes = {"kernel": (blocks, inputs, units), "recurrent_kernel": (blocks, output, units), "bias": (blocks, units)}
    shapes |= {"recurrent_bias": (blocks, units)} if cell == "gru" else {}
    shapes |= {"projection_kernel": (units, output)} if output != units else {}
    return {name: RANDOM.standard_normal(shape) * 0.5 for name, shape in shapes.items()}


def layer(cell, inputs, units, *sides, options=None, **more):
    each = {side: parameters(cell, inputs, units) for side in sides or ("forward",)}
    return LayerBlueprint(cell, OPTIONS[cell] | (options or {}), each, **more)


def network(*layers, dtype="float64", **more):
    return Network.from_blueprint(Blueprint(list(layers), "keras", **more), dtype)


def one_way(plan, side="forward"):
    """The cell of one direction of a layer, built by hand."""
    built = plan.parameters[side]
    cell = CELLS[plan.cell](built["kernel"].shape[2], **plan.options)
    cell.build(built, "float64")
    return cell


# -- kept --------------------------------------------------------------------------------------------------------------


def everything():
    """A net with everything that a blueprint can hold, in every type that it may have."""
    bottom = LayerBlueprint(
        "lstm",
        {"activation": {"name": "leaky_relu", "alpha": 0.2}, "forget_bias": 0.5, "cell_clip": 3.0, "proj_clip": None},
        {side: parameters("lstm", 3, 4, output=2) for side in ("forward", "backward")},
        name="encoder/α.0",
        merge="sum",
        initial_state={
            side: {"c": np.full((1, 4), 0.25), "h": np.full((1, 2), -0.5, np.float32)}
            for side in ("forward", "backward")
        },
    )
    back = layer("gru", 2, 3, "backward", options={"reset_after": True}, go_backwards=True)
    top = layer("rnn", 3, 2, initial_state={"forward": {"h": np.ones((2, 2))}})
    return Blueprint(
        [bottom, back, top] + [layer("rnn", 2, 2, name=str(k)) for k in range(3, 12)],
        layout="onnx",
        embedding=RANDOM.standard_normal((6, 3)).astype(np.float32),
        readout=[
            DenseBlueprint(RANDOM.standard_normal((2, 4)), RANDOM.standard_normal(4), {"name": "elu", "alpha": 0.5}),
            DenseBlueprint(RANDOM.standard_normal((4, 3)), None, "log_softmax"),
        ],
        gives="last_step",
        mask_token=0,
        mask_value=-1.5,
        lengths=np.array([2, 1]),
        format="onnx",
        assumed=["activation: tanh"],
        ignored=["a", "b.c"],
        notes=["a note"],
        tensors={"w": "layers.0.forward.kernel", "ü": "embedding"},
    )


def kept(blueprint, folder):
    """Through a JSON text and a file of arrays."""
    parts, arrays = blueprint.to_parts()
    safetensors.write(folder / "kept.safetensors", arrays, {})
    return Blueprint.from_parts(json.loads(json.dumps(parts)), safetensors.read(folder / "kept.safetensors")[1])


def as_tree(value):
    """All of a blueprint as dicts, lists, arrays and plain values, with their types."""
    if hasattr(value, "__dataclass_fields__"):
        return {name: as_tree(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, dict):
        return {name: as_tree(item) for name, item in value.items()}
    if isinstance(value, list):
        return [as_tree(item) for item in value]
    return ("array", str(value.dtype), value.tolist()) if isinstance(value, np.ndarray) else (type(value), value)


def test_a_net_with_everything_in_it_is_kept_without_loss(tmp_path):
    whole = everything()
    assert as_tree(kept(whole, tmp_path)) == as_tree(whole)


def test_a_net_with_nothing_but_a_layer_is_kept_without_loss(tmp_path):
    plain = Blueprint([layer("rnn", 3, 2)], "pytorch")
    assert as_tree(kept(plain, tmp_path)) == as_tree(plain)


@pytest.mark.parametrize(("token", "value"), [(None, None), (0, None), (7, None), (None, 0.0), (None, -1.0)])
def test_a_mask_of_0_is_a_mask(tmp_path, token, value):
    stored = kept(Blueprint([layer("rnn", 3, 2)], "keras", mask_token=token, mask_value=value), tmp_path)
    assert (stored.mask_token, stored.mask_value) == (token, value)


def test_what_is_kept_computes_the_same_bits(tmp_path):
    whole = everything()
    net, same = (Network.from_blueprint(blueprint) for blueprint in (whole, kept(whole, tmp_path)))
    ids = np.array([[1, 2, 3], [4, 5, 0]])
    first, second = (n.forward(n.pack(ids)) for n in (net, same))
    assert_same(
        (second.outputs.data, second.state, second.predictions), (first.outputs.data, first.state, first.predictions)
    )


def test_arrays_are_named_by_what_they_are():
    names = set(everything().to_parts()[1])
    assert {"embedding", "lengths", "readout.0.kernel", "readout.0.bias", "readout.1.kernel"} <= names
    assert {"layers.0.backward.projection_kernel", "layers.1.backward.recurrent_bias"} <= names
    assert {"layers.0.backward.initial_state.c", "layers.11.forward.kernel"} <= names
    assert "readout.1.bias" not in names


@pytest.mark.parametrize("version", [VERSION + 1, 0, None, "1"])
def test_parts_of_another_version_are_refused(version):
    parts, arrays = everything().to_parts()
    with pytest.raises(OptionError, match=f"reads version {VERSION}"):
        Blueprint.from_parts(parts | {"version": version}, arrays)


def test_parameters_are_counted_all():
    assert Blueprint([layer("rnn", 3, 2)], "keras").parameters == 3 * 2 + 2 * 2 + 2
    lstm = 4 * (3 * 4 + 2 * 4 + 4) + 4 * 2
    gru = 3 * (2 * 3 + 3 * 3 + 3 + 3)
    assert everything().parameters == 2 * lstm + gru + (3 * 2 + 4 + 2) + 9 * 10 + 6 * 3 + (2 * 4 + 4) + 4 * 3


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("f2", "f4"),
        ("f4", "f4"),
        ("f8", "f8"),
        (">f4", "f4"),
        (">f8", "f8"),
        ("i1", "f4"),
        ("u2", "f4"),
        ("i4", "f8"),
        ("i8", "f8"),
    ],
)
def test_weights_of_any_type_become_the_float_that_holds_them(kind, expected):
    given = np.array([1, 3, 100], kind)
    made = as_float(given)
    assert made.dtype == np.dtype(expected)
    assert made.tolist() == [1, 3, 100]


# -- layers of several kinds -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "ragged"])
@pytest.mark.parametrize(
    "cells", [("lstm", "gru"), ("gru", "lstm"), ("rnn", "lstm", "gru"), ("lstm", "rnn")], ids="-".join
)
def test_layers_of_different_cells_are_the_cells_one_after_the_other(cells, lengths):
    plans, size = [], 3
    for k, cell in enumerate(cells):
        plans.append(layer(cell, size, k + 2))
        size = k + 2
    below, expected = X, []
    for plan in plans:
        below, state = dynamic_rnn(one_way(plan), below, lengths)
        expected.append(dict(state._asdict()) if isinstance(state, LSTMStateTuple) else {"h": state})
    assert_close(network(*plans).run(poisoned(X, lengths), lengths), (below, expected), 1e-12)
    whole, _ = dynamic_rnn(MultiRNNCell([one_way(plan) for plan in plans]), X, lengths)
    assert_close(network(*plans).run(X, lengths)[0], whole, 1e-12)


def test_layers_of_different_cells_step_as_they_run():
    net = network(layer("lstm", 3, 2), layer("gru", 2, 3))
    outputs, final = net.run(X)
    state = None
    for t in range(X.shape[1]):
        output, state = net.step(X[:, t], state)
        assert_close(output, outputs[:, t], 1e-12)
    assert_close(state, final, 1e-12)


def test_layers_of_different_cells_tell_their_weights_in_their_layouts_names():
    lstm, gru = layer("lstm", 3, 2), layer("gru", 2, 3)
    gru.parameters["backward"] = parameters("gru", 2, 3)
    weights = Network.from_blueprint(Blueprint([lstm, gru], "pytorch"), "float64").weights
    i, f, o, g = lstm.parameters["forward"]["kernel"]
    r, z, n = gru.parameters["backward"]["recurrent_kernel"]
    found = weights["state_dict"]
    np.testing.assert_array_equal(found["weight_ih_l0"], np.concatenate([i, f, g, o], axis=1).T)
    np.testing.assert_array_equal(found["weight_hh_l1_reverse"], np.concatenate([r, z, n], axis=1).T)
    assert found["bias_hh_l1"].shape == (9,)
    assert "weight_ih_l0_reverse" not in found
    keras = Network.from_blueprint(Blueprint([lstm, gru], "keras"), "float64").weights["layers"]
    np.testing.assert_array_equal(keras[0]["kernel"], np.concatenate([i, f, g, o], axis=1))
    np.testing.assert_array_equal(keras[1]["backward"]["recurrent_kernel"], np.concatenate([z, r, n], axis=1))
    assert keras[1]["forward"]["bias"].shape == (2, 9)


def test_layers_that_do_not_fit_on_each_other_are_refused():
    with pytest.raises(ShapeError, match="layer 1 takes 4 inputs, but layer 0 puts out 2"):
        network(layer("lstm", 3, 2), layer("gru", 4, 2))
    with pytest.raises(ShapeError, match="layer 1 takes 4 inputs, but layer 0 puts out 2"):
        network(layer("lstm", 3, 2, "forward", "backward", merge="sum"), layer("gru", 4, 2))


# -- what is told of them ----------------------------------------------------------------------------------------------


def test_a_net_of_several_cells_describes_itself_layer_by_layer():
    net = network(layer("lstm", 3, 2), layer("gru", 2, 3, "forward", "backward", merge="ave"))
    lstm, gru = 4 * (3 * 2 + 2 * 2 + 2), 2 * 3 * (2 * 3 + 3 * 3 + 3 + 3)
    assert net.description == {
        "cell": ["lstm", "gru"],
        "num_layers": 2,
        "num_units": [2, 3],
        "input_size": 3,
        "bidirectional": [False, True],
        "parameters": lstm + gru,
        "state_size": [{"c": 2, "h": 2}, {"forward": {"h": 3}, "backward": {"h": 3}}],
        "output_size": 3,
        "kernel": net.kernel,
    }


def test_metadata_tells_what_was_understood():
    whole = everything()
    metadata = Network.from_blueprint(whole).metadata
    assert metadata["embedding"] == {"vocabulary_size": 6, "embedding_size": 3}
    assert metadata["mask"] == {"token": 0, "value": -1.5}
    assert metadata["lengths"] == [2, 1]
    assert (metadata["return_sequences"], metadata["readout_of"]) == (False, "last_step")
    assert (metadata["input_size"], metadata["output_size"]) == (3, 2)
    bottom, back, top, *_ = metadata["layers"]
    assert bottom == {
        "name": "encoder/α.0",
        "cell": "lstm",
        "options": whole.layers[0].options,
        "units": 4,
        "input_size": 3,
        "output_size": 2,
        "bidirectional": True,
        "parameters": 2 * (4 * (3 * 4 + 2 * 4 + 4) + 4 * 2),
        "merge_mode": "sum",
        "initial_state": "of its own",
    }
    assert (back["go_backwards"], back["bidirectional"], "merge_mode" in back) == (True, False, False)
    assert (top["initial_state"], "go_backwards" in top) == ("of its own", False)
    assert metadata["readout"] == [
        {"input_size": 2, "size": 4, "bias": True, "activation": {"name": "elu", "alpha": 0.5}},
        {"input_size": 4, "size": 3, "bias": False, "activation": "log_softmax"},
    ]


def test_metadata_of_a_plain_net_names_nothing_that_is_not_there():
    metadata = network(layer("rnn", 3, 2)).metadata
    assert metadata["embedding"] is None
    assert metadata["readout"] is None
    assert metadata["return_sequences"] is True
    assert not {"mask", "readout_of", "lengths"} & set(metadata)
    json.dumps(metadata)


def test_a_trained_model_counts_its_embedding_and_readout():
    whole = everything()
    net = Network.from_blueprint(whole, labels={"name": "speller", "version": 2})
    assert net.description["parameters"] == whole.parameters
    assert list(net.description)[:2] == ["name", "version"]


def test_a_readout_given_later_is_told_of_whatever_was_asked_before():
    net = network(layer("rnn", 3, 2))
    assert net.metadata["readout"] is None
    other = net.with_readout({"kernel": np.ones((2, 4))})
    assert other.metadata["readout"] == [{"input_size": 2, "size": 4, "bias": False, "activation": "linear"}]


# -- what the readout sees ---------------------------------------------------------------------------------------------


def test_a_readout_of_the_last_step_sees_both_directions_there():
    plan, dense = layer("gru", 3, 2, "forward", "backward"), RANDOM.standard_normal((4, 3))
    net = network(plan, readout=[DenseBlueprint(dense, None, "linear")], gives="last_step")
    result = net.forward(net.pack(X, LENGTHS))
    outputs = result.outputs.padded()
    expected = outputs[np.arange(4), np.maximum(LENGTHS - 1, 0)] @ dense * (LENGTHS > 0)[:, None]
    np.testing.assert_allclose(result.predictions, expected, rtol=0, atol=1e-12)


def test_a_readout_of_the_last_output_sees_the_backward_half_at_the_first_step():
    plan, dense = layer("gru", 3, 2, "forward", "backward"), RANDOM.standard_normal((4, 3))
    net = network(plan, readout=[DenseBlueprint(dense, None, "linear")], gives="last_output")
    result = net.forward(net.pack(X, LENGTHS))
    outputs = result.outputs.padded()
    last = outputs[np.arange(4), np.maximum(LENGTHS - 1, 0)]
    last[:, 2:] = outputs[:, 0, 2:]
    np.testing.assert_allclose(result.predictions, last @ dense * (LENGTHS > 0)[:, None], rtol=0, atol=1e-12)


def test_log_softmax_is_right_for_huge_logits_too():
    kernel = np.array([[1.0, 0.0, -1.0]])
    plan = LayerBlueprint(
        "rnn",
        {"activation": "linear"},
        {"forward": {"kernel": np.ones((1, 1, 1)), "recurrent_kernel": np.zeros((1, 1, 1)), "bias": np.zeros((1, 1))}},
    )
    net = network(plan, readout=[DenseBlueprint(kernel, None, "log_softmax")])
    x = np.array([[[0.0], [2.0], [1e5]]])
    shares = [np.log(np.exp([s, 0, -s]) / np.exp([s, 0, -s]).sum()) for s in (0.0, 2.0)]
    expected = [*shares, [0.0, -1e5, -2e5]]
    result = net.forward(net.pack(x))
    np.testing.assert_allclose(result.predictions.padded()[0], expected, rtol=0, atol=1e-12)
