"""Work that is computed at once: strand by strand, and from its beginning where something in it is not finite."""

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from app.work import STRAND_ROWS, Work
from rnn_engine.blueprint import Blueprint
from tests.rnn_engine.kernels.nets import BOTH, example, same_bits, stack
from tests.rnn_engine.kernels.tiles import needs_kernels

pytestmark = needs_kernels

ROWS = 2 * STRAND_ROWS + 3
PLANS = {
    ways: stack(np.random.default_rng(5), "gru", 3, [17, 5], ways, {"reset_after": True}) for ways in [BOTH[:1], BOTH]
}


def batch(ways, rows=ROWS):
    random = np.random.default_rng(rows)
    lengths = random.integers(0, 7, rows)
    lengths[STRAND_ROWS : 2 * STRAND_ROWS] = 0
    return example(random, Blueprint(PLANS[ways], "keras"), lengths, 7, with_state=True)


def work_of(net, ex, at_once):
    inputs, lengths, state = ex.batch()
    begun = net.passes.begin(inputs, lengths, state)
    return Work(begun, net.passes.work, lambda of: {"outputs": of.outputs, "state": of.state}, at_once)


@pytest.mark.parametrize("ways", PLANS)
def test_all_strands_are_computed_and_those_without_steps_are_none(ways):
    net, ex = batch(ways).net(), batch(ways)
    work = work_of(net, ex, at_once=None)
    assert [strand.first for strand in work.strands] == [0, 2 * STRAND_ROWS]
    assert work.splits == (ways != BOTH)
    answer = work.run()
    same_bits((answer["outputs"], answer["state"]), net.run(*ex.batch()))


@pytest.mark.parametrize("row", [1, ROWS - 1])
def test_what_is_not_finite_in_any_strand_is_computed_from_its_beginning(row):
    net, ex = batch(BOTH).net(), batch(BOTH)
    ex.lengths[row] = 7
    ex.inputs[row] = np.inf
    work = work_of(net, ex, at_once=lambda: {"told": "by the other way"})
    assert work.run() == {"told": "by the other way"}
    assert work.failed
    assert work.strands == []  # whose memory the other way may need


def test_work_that_no_kernel_knows_has_no_strands():
    work = Work(None, 0, None, lambda: {"done": 1})
    assert work.strands == []
    assert not work.splits
    assert work.answer() == work.run() == {"done": 1}
