"""From what a file holds and what its owner says to one network: readout, embedding, options, and what is told."""

from __future__ import annotations

import numpy as np
import pytest

from rnn_engine import Network, PackedBatch
from rnn_engine.errors import EngineError, NonFiniteError, OptionError, ShapeError
from rnn_engine.formats.base import Contents, Mask, Module, Stage
from rnn_engine.formats.config import Config
from rnn_engine.formats.resolve import resolve

RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((2, 4, 3)).astype(np.float32)
IDS = RANDOM.integers(0, 6, (2, 4))


def normal(*shape):
    return RANDOM.standard_normal(shape).astype(np.float32)


def keras_module(name, cell="rnn", inputs=3, units=2, **more):
    """A layer as a Keras file brings it, its tensors named like paths."""
    columns = {"rnn": 1, "gru": 3, "lstm": 4}[cell] * units
    layer = {"kernel": normal(inputs, columns), "recurrent_kernel": normal(units, columns), "bias": normal(columns)}
    tensors = {("layers", 0, variable): f"{name}/{variable}" for variable in layer}
    return Module(name, cell, {"layout": "keras", "layers": [layer]}, tensors, **more)


def contents(*modules, extra=None, **more):
    """A file that holds these modules, and other tensors by name."""
    arrays = {
        tensor: module.weights["layers"][place[1]][place[2]]
        for module in modules
        for place, tensor in module.tensors.items()
    }
    return Contents("keras", arrays | (extra or {}), list(modules), **more)


NET = keras_module("rnn")
EXTRA = {
    "emb.weight": normal(6, 3),
    "fc.weight": normal(5, 2),
    "fc.kernel": normal(2, 5),
    "fc.bias": normal(5),
    "out.weight": normal(4, 5),
}


def network(config, found=None):
    return Network.from_blueprint(resolve(found or contents(NET, extra=EXTRA), Config.of(config)))


def refused(error, config, found=None):
    with pytest.raises(error) as caught:
        network(config, found)
    return caught.value


def outputs(net, x=X):
    return net.forward(net.pack(x)).outputs.padded()


def predictions(net, x=X):
    made = net.forward(net.pack(x)).predictions
    return made.padded() if isinstance(made, PackedBatch) else made


# -- embedding and readout ---------------------------------------------------------------------------------------------


def test_token_ids_are_looked_up_in_the_embedding_by_name():
    net = network({"embedding": "emb.weight"})
    np.testing.assert_array_equal(outputs(net, IDS), outputs(network({}), EXTRA["emb.weight"][IDS]))


@pytest.mark.parametrize(
    ("readout", "expected"),
    [
        ({"weight": "fc.weight"}, lambda h: h @ EXTRA["fc.weight"].T),
        ({"kernel": "fc.kernel"}, lambda h: h @ EXTRA["fc.kernel"]),
        ({"kernel": "fc.kernel", "bias": None, "weight": None}, lambda h: h @ EXTRA["fc.kernel"]),
        ({"weight": "fc.weight", "bias": "fc.bias"}, lambda h: h @ EXTRA["fc.weight"].T + EXTRA["fc.bias"]),
        (
            [{"weight": "fc.weight", "bias": "fc.bias", "activation": "relu"}, {"weight": "out.weight"}],
            lambda h: np.maximum(h @ EXTRA["fc.weight"].T + EXTRA["fc.bias"], 0) @ EXTRA["out.weight"].T,
        ),
    ],
)
def test_a_readout_is_found_by_name(readout, expected):
    net = network({"readout": readout})
    np.testing.assert_allclose(predictions(net), expected(outputs(net)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("spelled", ["softmax", "Softmax", "log_softmax", "LogSoftmax", "logsoftmax"])
def test_a_readout_may_end_in_a_softmax_however_it_is_spelled(spelled):
    net = network({"readout": {"weight": "fc.weight", "activation": spelled}})
    exponentials = np.exp(outputs(net) @ EXTRA["fc.weight"].T)
    shares = exponentials / exponentials.sum(-1, keepdims=True)
    np.testing.assert_allclose(predictions(net), np.log(shares) if "og" in spelled else shares, rtol=0, atol=1e-6)


def test_without_a_sequence_to_return_the_readout_sees_each_rows_last_output():
    net = network({"readout": {"weight": "fc.weight"}, "return_sequences": False})
    result = net.forward(net.pack(X, [2, 4]))
    last = result.outputs.padded()[[0, 1], [1, 3]]
    np.testing.assert_allclose(result.predictions, last @ EXTRA["fc.weight"].T, rtol=0, atol=1e-6)
    assert net.metadata["return_sequences"] is False


def test_it_is_told_where_each_tensor_went():
    config = {"embedding": "emb.weight", "readout": [{"weight": "fc.weight", "bias": "fc.bias"}]}
    blueprint = resolve(contents(NET, extra=EXTRA), Config.of(config))
    assert blueprint.ignored == ["fc.kernel", "out.weight"]
    assert set(blueprint.tensors) | set(blueprint.ignored) == set(contents(NET, extra=EXTRA).arrays)
    assert blueprint.tensors["emb.weight"] == "embedding"
    assert blueprint.tensors["fc.weight"].startswith("readout.0.")
    assert blueprint.tensors["fc.bias"] == "readout.0.bias"
    assert blueprint.tensors["rnn/kernel"] == "layers.0.kernel"


def test_a_tensor_that_serves_twice_is_told_of_twice():
    """Tied weights: the embedding's table is the readout's matrix too."""
    found = contents(keras_module("rnn", units=3), extra={"tied": normal(6, 3)})
    config = Config.of({"embedding": "tied", "readout": {"weight": "tied"}})
    went = resolve(found, config).tensors["tied"]
    assert "embedding" in went
    assert "readout.0" in went


@pytest.mark.parametrize(
    ("config", "where", "meant"),
    [
        ({"embedding": "emb.wieght"}, ("config", "embedding"), "emb.weight"),
        ({"readout": {"weight": "fc.weigh"}}, ("config", "readout", "weight"), "fc.weight"),
        ({"readout": [{"weight": "fc.weight", "bias": "fc.biass"}]}, ("config", "readout", 0, "bias"), "fc.bias"),
    ],
)
def test_a_tensor_that_is_not_there_gets_the_nearest_name(config, where, meant):
    error = refused(OptionError, config)
    assert f"did you mean `{meant}`?" in error.detail
    assert error.where == where


def test_among_thousands_of_tensors_the_nearest_is_named_and_the_message_stays_short():
    found = contents(NET, extra={f"block.{k}.weight": normal(1) for k in range(5000)} | {"emb.weight": normal(6, 3)})
    detail = refused(OptionError, {"embedding": "emb.wieght"}, found).detail
    assert "did you mean `emb.weight`?" in detail
    assert len(detail) < 1000
    assert len(refused(OptionError, {"embedding": "nothing like it"}, found).detail) < 1000


@pytest.mark.parametrize(
    ("config", "said", "where"),
    [
        ({"readout": {}}, '"kernel" [units, n] and "weight" [n, units]', ("config", "readout")),
        ({"readout": {"kernel": "fc.kernel", "weight": "fc.weight"}}, "name one of", ("config", "readout")),
        ({"readout": {"weigth": "fc.weight"}}, "did you mean `weight`?", ("config", "readout", "weigth")),
        ({"readout": {"weight": 1}}, "full name of a tensor", ("config", "readout", "weight")),
        ({"readout": {"weight": [[1.0]]}}, "full name of a tensor", ("config", "readout", "weight")),
        ({"readout": {"weight": "fc.weight", "bias": 0}}, "full name of a tensor", ("config", "readout", "bias")),
        (
            {"readout": {"weight": "fc.bias"}},
            "'fc.bias' has shape [5], expected [n, 2]",
            ("config", "readout", "weight"),
        ),
        (
            {"readout": {"weight": "fc.weight", "activation": "rellu"}},
            "did you mean `relu`?",
            ("config", "readout", "activation"),
        ),
        ({"readout": [{"weight": "fc.weight", "activation": 3}]}, "got 3", ("config", "readout", 0, "activation")),
    ],
)
def test_a_readout_that_is_none_is_refused_at_its_place(config, said, where):
    error = refused(EngineError, config)
    assert said in error.detail
    assert error.where == where


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"embedding": "fc.weight"}, ["fc.weight", "[5, 2]", "3"]),
        ({"embedding": "fc.bias"}, ["fc.bias", "[5]", "3"]),
        ({"readout": {"weight": "out.weight"}}, ["out.weight", "[4, 5]", "[n, 2]"]),
        ({"readout": {"kernel": "fc.weight"}}, ["fc.weight", "[5, 2]", "[2, n]"]),
        ({"readout": {"weight": "fc.weight", "bias": "long"}}, ["long", "[7]", "[5]"]),
        ({"readout": [{"weight": "fc.weight"}, {"weight": "fc.weight"}]}, ["fc.weight", "[5, 2]", "[n, 5]"]),
    ],
)
def test_a_tensor_of_the_wrong_shape_is_named_with_its_own_shape_and_the_one_expected(config, named):
    detail = refused(ShapeError, config, contents(NET, extra=EXTRA | {"long": normal(7)})).detail
    for part in named:
        assert part in detail, detail


@pytest.mark.parametrize("config", [{"embedding": "bad"}, {"readout": {"weight": "bad"}}])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_told_by_tensor(config, value):
    error = refused(NonFiniteError, config, contents(NET, extra={"bad": np.full((3, 3), value, np.float32)}))
    assert "'bad' has values that are not finite" in error.detail
    assert error.where[0] == "config"


@pytest.mark.parametrize("bad", [np.zeros((6, 3), bool), np.zeros((6, 3), complex)], ids=["bool", "complex"])
def test_a_tensor_of_no_numbers_is_refused_by_name(bad):
    assert "'bad' is of" in refused(ShapeError, {"embedding": "bad"}, contents(NET, extra={"bad": bad})).detail


# -- options -----------------------------------------------------------------------------------------------------------


def test_what_the_owner_says_of_options_goes_over_what_the_file_says():
    found = contents(keras_module("a", "lstm", options={"activation": "relu", "recurrent_activation": "hard_sigmoid"}))
    assert resolve(found, Config()).layers[0].options == {
        "activation": "relu",
        "recurrent_activation": "hard_sigmoid",
        "forget_bias": 0.0,
    }
    said = {"activation": "softsign", "forget_bias": 1.0, "cell_clip": 2.0}
    assert resolve(found, Config.of({"cell_options": said})).layers[0].options == {
        "activation": "softsign",
        "recurrent_activation": "hard_sigmoid",
        "forget_bias": 1.0,
        "cell_clip": 2.0,
    }


def test_an_option_goes_to_the_layers_that_have_it():
    found = contents(keras_module("a", "lstm"), keras_module("b", "gru", 2), chained=True)
    lstm, gru = resolve(found, Config.of({"cell_options": {"cell_clip": 2.0, "activation": "relu"}})).layers
    assert (lstm.options["cell_clip"], lstm.options["activation"]) == (2.0, "relu")
    assert "cell_clip" not in gru.options
    assert gru.options["activation"] == "relu"


def test_onnx_lists_of_activations_and_single_ones_replace_each_other():
    found = contents(
        keras_module("a", "gru", options={"activations": ["HardSigmoid", "Relu"], "activation_alpha": [0.3]})
    )
    (layer,) = resolve(found, Config.of({"cell_options": {"activation": "tanh"}})).layers
    assert "activations" not in layer.options
    assert "activation_alpha" not in layer.options
    found = contents(keras_module("a", "gru", options={"activation": "relu"}))
    (layer,) = resolve(found, Config.of({"cell_options": {"activations": ["Sigmoid", "Softsign"]}})).layers
    assert "activation" not in layer.options
    net = network({"cell_options": {"activations": ["Sigmoid", "Softsign"]}}, found)
    single = network({"cell_options": {"activation": "softsign"}}, found)
    np.testing.assert_array_equal(outputs(net), outputs(single))


@pytest.mark.parametrize(
    ("options", "said", "where"),
    [
        ({"activaton": "relu"}, "did you mean `activation`?", ("activaton",)),
        ({"reset_after": True}, "no such option", ("reset_after",)),
        ({"activation": "rellu"}, "did you mean `relu`?", ("activation",)),
        ({"clip": -1}, "expected a positive number", ("clip",)),
        ({"residual": 1}, "expected true or false", ("residual",)),
    ],
)
def test_an_option_that_no_layer_takes_is_refused_at_its_place(options, said, where):
    error = refused(OptionError, {"cell_options": options})
    assert said.lower() in error.detail.lower()
    assert error.where == ("config", "cell_options", *where)


# -- what the file says of what stands around --------------------------------------------------------------------------


def chain(**more):
    dense = Stage(EXTRA["fc.kernel"], EXTRA["fc.bias"], "relu", {"kernel": "fc.kernel", "bias": "fc.bias"})
    modules = [keras_module("below", "gru"), keras_module("above", "rnn", 2)]
    around = {"embedding": "emb.weight", "readout": [dense], "gives": "last_output", "mask": Mask(token=0)} | more
    return contents(*modules, extra=EXTRA, chained=True, notes=["a note"], **around)


def test_the_files_own_embedding_readout_mask_and_notes_are_taken():
    blueprint = resolve(chain(), Config())
    assert [layer.name for layer in blueprint.layers] == ["below", "above"]
    assert blueprint.embedding.tolist() == EXTRA["emb.weight"].tolist()
    assert (blueprint.gives, blueprint.mask_token, blueprint.mask_value) == ("last_output", 0, None)
    assert (blueprint.notes, blueprint.format) == (["a note"], "keras")
    assert blueprint.tensors["fc.kernel"] == "readout.0.kernel"
    assert blueprint.tensors["above/kernel"] == "layers.1.kernel"
    net = Network.from_blueprint(blueprint)
    result = net.forward(net.pack(np.array([[3, 1, 0], [2, 0, 0]])))
    last = result.outputs.padded()[[0, 1], [1, 0]]
    expected = np.maximum(last @ EXTRA["fc.kernel"] + EXTRA["fc.bias"], 0)
    np.testing.assert_allclose(result.predictions, expected, rtol=0, atol=1e-6)


def test_one_layer_of_a_chain_is_taken_without_what_stands_around():
    blueprint = resolve(chain(), Config.of({"module": "above"}))
    assert [layer.name for layer in blueprint.layers] == ["above"]
    assert (blueprint.embedding, blueprint.readout, blueprint.gives) == (None, [], "sequence")
    assert (blueprint.mask_token, blueprint.mask_value) == (None, None)
    assert {"fc.kernel", "emb.weight", "below/kernel"} <= set(blueprint.ignored)


def test_what_the_owner_says_goes_over_what_the_file_says():
    config = Config.of({"readout": {"weight": "fc.weight"}, "return_sequences": True})
    blueprint = resolve(chain(), config)
    assert [dense.bias for dense in blueprint.readout] == [None]
    assert blueprint.gives == "sequence"
    assert "fc.kernel" in blueprint.ignored


def test_a_net_that_gives_its_last_step_still_does_where_no_sequence_is_asked_for():
    blueprint = resolve(chain(gives="last_step"), Config.of({"return_sequences": False}))
    assert blueprint.gives == "last_step"


def test_scaled_and_shifted_inputs_go_into_the_first_layer():
    """A BatchNormalization in front, x·s + t, whatever the layer's biases are."""
    scale, shift = np.array([2.0, -0.5, 1.5], np.float32), np.array([0.1, -1.0, 0.5], np.float32)
    for cell in ("rnn", "gru", "lstm"):
        plain = keras_module("a", cell)
        folded = Module("a", cell, plain.weights, plain.tensors, affine=(scale, shift))
        expected = outputs(network({}, contents(plain)), X * scale + shift)
        np.testing.assert_allclose(outputs(network({}, contents(folded))), expected, rtol=0, atol=1e-6)


def test_assumptions_are_told_once_for_all_or_by_the_modules_they_are_of():
    said = {"activation": "tanh, say"}
    both = contents(keras_module("a", assumed=said), keras_module("b", inputs=2, assumed=said), chained=True)
    assert resolve(both, Config()).assumed == ["activation: tanh, say"]
    one = contents(keras_module("a", assumed=said), keras_module("b", inputs=2), chained=True)
    assert resolve(one, Config()).assumed == ["a: activation: tanh, say"]
    assert resolve(one, Config.of({"cell_options": {"activation": "relu"}})).assumed == []
    sequences = contents(keras_module("a", assumed={"return_sequences": "true, say"}))
    assert resolve(sequences, Config()).assumed == ["return_sequences: true, say"]
    assert resolve(sequences, Config.of({"return_sequences": True})).assumed == []


def test_an_initial_state_of_the_files_own_must_be_finite():
    found = contents(keras_module("a", initial_state={"forward": {"h": np.array([[0.0, np.nan]], np.float32)}}))
    assert "finite" in refused(NonFiniteError, {}, found).detail


def test_a_stage_of_a_readout_may_be_an_activation_alone():
    """As of a net that applies relu before its last layer, or sigmoid and then softmax."""
    readout = [{"activation": "relu"}, {"weight": "fc.weight", "activation": "sigmoid"}, {"activation": "softmax"}]
    found = contents(NET, extra=EXTRA)
    net = network({"readout": readout}, found)
    batch = net.pack(X)
    hidden = net.forward(batch).outputs.data
    y = 1 / (1 + np.exp(-np.maximum(hidden, 0) @ EXTRA["fc.weight"].T))
    expected = np.exp(y) / np.exp(y).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(net.forward(batch).predictions.data, expected, atol=2e-6)


def test_a_convolution_of_width_one_is_a_dense_layer():
    extra = EXTRA | {"conv.weight": EXTRA["fc.weight"][:, :, np.newaxis]}
    dense, conv = (
        resolve(contents(NET, extra=extra), Config.of({"readout": {"weight": n}})).readout[0].kernel
        for n in ("fc.weight", "conv.weight")
    )
    np.testing.assert_array_equal(conv, dense)
