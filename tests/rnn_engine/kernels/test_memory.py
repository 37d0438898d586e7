"""What a kernel is handed is where and what it expects: it reads memory by address, and would not notice."""

from dataclasses import replace

import numpy as np
import pytest

from rnn_engine import Network, PackedBatch, kernels
from rnn_engine.errors import LengthsError, ShapeError
from rnn_engine.front import Front
from rnn_engine.packed import Packing
from rnn_engine.readout import Embedding
from tests.rnn_engine import assert_close, assert_same

pytestmark = pytest.mark.skipif(kernels.here() is None, reason=kernels.why_not())

RANDOM = np.random.default_rng(12)
X = RANDOM.normal(size=(3, 5, 4)).astype(np.float32)


def net(cell="lstm", units=16):
    return Network.from_seed(cell, units, 4)


@pytest.mark.parametrize("lengths", [None, [5, 3, 1], [1, 5, 3]])
@pytest.mark.parametrize("as_order", [np.asfortranarray, lambda part: np.repeat(part, 2, 1)[:, ::2]])
def test_a_state_may_lie_in_memory_in_any_order(as_order, lengths):
    state = [{name: RANDOM.normal(size=(3, 16)).astype(np.float32) for name in ("c", "h")}]
    odd = [{name: as_order(part) for name, part in state[0].items()}]
    assert not odd[0]["h"].flags.c_contiguous
    assert_same(net().run(X, lengths, odd), net().run(X, lengths, state))
    assert_same(net().step(X[:, 0], odd), net().step(X[:, 0], state))


@pytest.mark.parametrize(
    "as_order", [np.asfortranarray, lambda x: np.repeat(x, 2, 2)[..., ::2], lambda x: x.astype("f8")]
)
def test_inputs_may_lie_in_memory_in_any_order_and_type(as_order):
    for lengths in (None, [5, 3, 1]):
        assert_same(net().run(as_order(X), lengths), net().run(X, lengths))
    assert_same(net().step(as_order(X)[:, 0]), net().step(X[:, 0]))


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("units", [5, 16, 32])
def test_a_state_of_the_models_own_begins_every_row(cell, units):
    """One row that all rows of a batch begin with."""
    plain = net(cell, units)
    layer = plain.layers[0]
    own = {"forward": tuple(RANDOM.normal(size=(1, size)).astype(np.float32) for size in layer.first.flat_sizes)}
    fused = Network([replace(layer, initial_state=own)], Front(4))
    given = [dict(zip(layer.state_names, (np.repeat(part, 3, 0) for part in own["forward"]), strict=True))]
    assert fused.kernel == "fused"
    assert_same(fused.run(X), plain.run(X, None, given))
    assert_close(fused.run(X), fused.with_kernel("numpy").run(X), 1e-6)


@pytest.mark.parametrize("kernel", ["auto", "numpy"])
@pytest.mark.parametrize("data", [np.zeros((6, 3), np.float32), np.zeros((2, 4), np.float32), np.zeros(6, np.float32)])
def test_a_packed_batch_of_another_shape_is_refused(kernel, data):
    batch = PackedBatch(data, Packing(np.array([3, 2, 1]), 3))
    with pytest.raises(ShapeError, match=r"the packed batch has shape \[.*\] of float32, expected numbers \[6, 4\]"):
        net().with_kernel(kernel).forward(batch)


@pytest.mark.parametrize("ids", [np.array([np.nan, 0.0]), np.array([1.7, 0.0]), np.array([[1], [0]])])
def test_packed_ids_that_are_none_are_refused(ids):
    table = Embedding(RANDOM.normal(size=(7, 4)).astype(np.float32))
    embeds = Network(net().layers, Front(4, table))
    batch = PackedBatch(ids, Packing(np.array([2]), 2))
    with pytest.raises(ShapeError, match=r"expected whole token ids \[2\]"):
        embeds.forward(batch)


def test_a_packing_of_another_batch_is_refused():
    for packing in (Packing(np.array([50, 40, 3]), 50), Packing(np.array([5, 4]), 5)):
        with pytest.raises(LengthsError, match=r"the lengths are of . rows padded to .* steps, the inputs have 3 rows"):
            net().run(X, packing)


def test_a_net_planned_in_another_type_is_not_computed_by_a_kernel_for_this_one():
    ready = net()
    assert_close(np.float32(ready.planned_in("float64").run(X.astype(np.float64))[0]), ready.run(X)[0], 1e-6)


def test_a_wide_readout_of_many_rows_is_computed_in_parts(monkeypatch):
    from rnn_engine import fusion

    readout = {"kernel": RANDOM.normal(size=(16, 37)).tolist(), "bias": RANDOM.normal(size=37).tolist()}
    whole = net().with_readout(readout)
    expected = whole.forward(whole.pack(X)).predictions
    monkeypatch.setattr(fusion, "PADDED_FLOATS", 100)
    monkeypatch.setattr(fusion, "WORTH_THREADS", 0)
    parts = net().with_readout(readout)
    assert_same(parts.forward(parts.pack(X)).predictions.data, expected.data)


def test_a_cell_that_llvm_cannot_compile_is_computed_by_the_loop(monkeypatch):
    library = kernels.here()

    def broken(*_):
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(type(library), "load", broken)
    options = {"activation": "linear", "recurrent_activation": "hard_sigmoid", "input_forget": True, "clip": 2.0}
    with_rare = Network.from_seed("lstm", 3, 4, cell_options=options).prepare()
    assert with_rare.kernel == "numpy"
    assert_same(with_rare.run(X), with_rare.with_kernel("numpy").run(X))
