"""A network's digest: the same for the same weights, another for whatever makes its states mean something else."""

from __future__ import annotations

import struct
from dataclasses import replace
from hashlib import blake2b
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnn_engine import Network, digest
from rnn_engine.activations import ACTIVATIONS
from rnn_engine.blueprint import Blueprint, DenseBlueprint, LayerBlueprint
from rnn_engine.catalog import CELLS
from tests.oracles.strategies import keras_cases, onnx_cases, pytorch_cases, tensorflow_cases
from tests.rnn_engine import network

any_case = st.one_of(onnx_cases(), *(cases() for cases in (pytorch_cases, keras_cases, tensorflow_cases)))

#: What each option may be beside its default.
OTHERS = {
    "activation": "relu",
    "recurrent_activation": "tanh",
    "forget_bias": 0.5,
    "use_peepholes": True,
    "output_activation": "relu",
    "cell_clip": 0.5,
    "num_proj": 2,
    "state_is_tuple": False,
    "reset_after": True,
    "clip": 0.25,
    "input_forget": True,
    "residual": True,
}
#: Other words for what stands above, or for the directions.
WORDS = {"direction", "activations", "activation_alpha", "activation_beta", "linear_before_reset", "proj_clip"}


def drawn(cell="lstm", options=None, dtype="float32", seed=0, **more):
    return Network.from_seed(cell, 3, 3, seed, dtype, cell_options=options, **more)


def blueprint(**changes):
    normal = np.random.default_rng(0).standard_normal
    parameters = {"kernel": normal((1, 2, 2)), "recurrent_kernel": normal((1, 2, 2)), "bias": normal((1, 2))}
    layer = LayerBlueprint("rnn", {}, {"forward": parameters, "backward": parameters})
    more = {"embedding": normal((5, 2)), "readout": [DenseBlueprint(normal((4, 3)), normal(3), "softmax")]}
    return replace(Blueprint([layer], "tensorflow", **more), **changes)


def of(**changes):
    return Network.from_blueprint(blueprint(**changes)).digest


def layer_of(**changes):
    return of(layers=[replace(blueprint().layers[0], **changes)])


# -- the same ----------------------------------------------------------------------------------------------------------


@given(any_case)
def test_it_is_that_of_any_network_with_the_same_weights(case):
    assert network(case).digest == network(case).digest
    assert len(network(case).digest) == digest.SIZE


def test_it_is_the_same_in_every_release():
    """A state token holds as long as this does: to change how it is found is to end all tokens there are."""
    layers = [{"kernel": [[0.5, -1.0], [2.0, 0.25], [0.0, 1.0]], "bias": [0.125, -0.5]}]
    net = Network.from_weights({"layers": layers}, "rnn")
    told = [
        b'["front", [1, null, null]]\n["layer", ["rnn", false, false, false]]\n',
        b'["forward", {"activation": "tanh", "clip": null, "num_units": 2.0}]\n',
        b'["bias", ["<f4", 1, 2]]\n' + struct.pack("<2f", 0.125, -0.5),
        b'["kernel", ["<f4", 1, 1, 2]]\n' + struct.pack("<2f", 0.5, -1.0),
        b'["recurrent_kernel", ["<f4", 1, 2, 2]]\n' + struct.pack("<4f", 2.0, 0.25, 0.0, 1.0),
        b'["gives", "sequence"]\n',
    ]
    assert net.digest == blake2b(b"".join(told), digest_size=16).digest()
    assert net.digest.hex() == "6a94074c371d855abf887ae70be2f13c"


def test_layouts_names_and_ways_of_writing_a_number_do_not_count():
    net = drawn("rnn")
    again = Network.from_weights(net.weights, "rnn")
    assert again.digest == net.digest
    assert drawn(options={"forget_bias": 1}).digest == drawn(options={"forget_bias": 1.0}).digest == drawn().digest
    named = Network.from_blueprint(blueprint(), labels={"name": "a", "version": 3})
    assert named.digest == of(format="keras", notes=["b"]) == layer_of(name="c")


def test_a_readout_that_is_added_does_not_count_and_copies_share_what_was_found():
    net = Network.from_blueprint(blueprint())
    with mock.patch.object(digest, "digest", wraps=digest.digest) as found:
        other = net.with_readout({"kernel": np.ones((4, 2))})
        assert other.digest == net.digest == net.with_kernel("numpy").digest == net.with_readout(None).digest
        assert net.digest == of()
        assert found.call_count == 2


# -- another -----------------------------------------------------------------------------------------------------------


@given(any_case, st.integers(0, 2**32 - 1))
def test_another_bit_of_any_weight_gives_another(case, seed):
    net, random = network(case), np.random.default_rng(seed)
    before = net.digest
    cell = [cell for layer in net.layers for cell in layer.cells.values()][-1]
    name = random.choice(list(cell.parameters))
    raw = cell.parameters[name].reshape(-1).view(np.uint8)
    raw[random.integers(raw.size)] ^= 1 << random.integers(8)
    net.fingerprint.known = None
    assert net.digest != before


def test_every_option_of_every_cell_is_told_apart():
    assert {name for kind in CELLS.values() for name in kind.options} == set(OTHERS) | WORDS
    for kind in CELLS.values():
        options = {name: OTHERS[name] for name in kind.options if name in OTHERS}
        found = [drawn(kind.name).digest, *(drawn(kind.name, {name: value}).digest for name, value in options.items())]
        assert len(set(found)) == len(found)
    projected = {"num_proj": 2}
    assert drawn(options=projected).digest != drawn(options=projected | {"proj_clip": 0.5}).digest


@pytest.mark.parametrize("cell", CELLS)
def test_every_activation_is_told_apart_with_its_numbers(cell):
    found = {drawn(cell, {"activation": name}).digest for name in ACTIVATIONS}
    found |= {drawn(cell, {"activation": {"name": "leaky_relu", "alpha": alpha}}).digest for alpha in (0.5, 0.75)}
    assert len(found) == len(ACTIVATIONS) + 2


def test_cells_sizes_directions_types_and_seeds_are_told_apart():
    nets = [drawn(cell) for cell in CELLS]
    nets += [drawn(dtype="float64"), drawn(seed=1), drawn(num_layers=2), drawn(bidirectional=True)]
    nets += [drawn(options={"direction": "reverse"}), Network.from_seed("lstm", 4, 3), Network.from_seed("lstm", 3, 4)]
    assert len({net.digest for net in nets}) == len(nets)


def test_what_stands_around_the_layers_is_told_apart():
    embedding, (dense,) = blueprint().embedding, blueprint().readout
    found = [of(), of(embedding=None), of(embedding=embedding[:4]), of(embedding=embedding + 1)]
    found += [of(mask_token=0), of(mask_token=1), of(gives="last_output"), of(gives="last_step"), of(readout=[])]
    found += [of(readout=[replace(dense, **{name: getattr(dense, name) * 2})]) for name in ("kernel", "bias")]
    found += [of(readout=[replace(dense, activation=act)]) for act in (None, "log_softmax", "relu")]
    found += [of(readout=[replace(dense, bias=None)]), of(embedding=None, mask_value=0.0)]
    found += [of(embedding=None, mask_value=-1.0)]
    assert len(set(found)) == len(found)


def test_what_a_layer_does_beside_its_cells_is_told_apart():
    ways = ("forward", "backward")
    starts = [{side: {"h": np.full((rows, 2), value)} for side in ways} for rows, value in ((1, 0), (1, 1), (2, 1))]
    parameters = blueprint().layers[0].parameters["forward"]
    found = [layer_of(), layer_of(go_backwards=True), layer_of(options={"residual": True})]
    found += [layer_of(initial_state=start) for start in starts]
    with_readout = blueprint().readout[0]
    merged = replace(with_readout, kernel=with_readout.kernel[:2])
    layers = [replace(blueprint().layers[0], merge=merge) for merge in ("sum", "ave", "mul")]
    found += [of(layers=[layer], readout=[merged]) for layer in layers]
    found += [of(layers=[LayerBlueprint("rnn", {}, {side: parameters})], readout=[merged]) for side in ways]
    assert len(set(found)) == len(found)


# -- when --------------------------------------------------------------------------------------------------------------


def test_it_is_of_the_weights_that_the_network_has_now():
    net = drawn()
    before = net.digest
    assert net.initialize(7).digest == drawn(seed=7).digest != before
    assert net.initialize(0).digest == before


def test_without_weights_of_its_type_there_is_none():
    planned = Network.planned("gru", 3, 2)
    narrow = drawn()
    assert narrow.digest
    for net in (
        planned,
        narrow.planned_in("float64"),
        drawn().with_readout({"kernel": np.ones((3, 2))}).planned_in("float64"),
    ):
        with pytest.raises(RuntimeError, match="before it has its weights"):
            net.digest  # noqa: B018
        assert net.fingerprint.known is None
