"""Batches that are unrolled a few steps at a time, together with others: the bits that each has alone and at once."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from hypothesis import given, settings
from hypothesis import strategies as st

from rnn_engine.blueprint import Blueprint
from rnn_engine.errors import OptionError, StateError
from rnn_engine.unrolling import advance
from tests.rnn_engine.kernels.nets import BOTH, OPTIONS, example, layer, same_bits, stack
from tests.rnn_engine.kernels.test_bits import threads
from tests.rnn_engine.kernels.tiles import ODD, OF_HOSTS, every_tile, fused, needs_kernels

pytestmark = needs_kernels

TILES = list((OF_HOSTS | ODD).values())
AVX2 = OF_HOSTS["AVX2 6x16"]


@st.composite
def nets_with_batches(draw):
    """A net that reads forward, several batches for it, and when each of them joins."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    cell, options = draw(st.sampled_from(list(OPTIONS.values())))
    units = draw(st.lists(st.sampled_from((1, 5, 16, 33)), min_size=1, max_size=3))
    embeds = draw(st.booleans())
    plan = stack(random, cell, 3, units, options={k: v for k, v in options.items() if k != "state_is_tuple"})
    more = {"embedding": random.normal(size=(11, 3)).astype(np.float32)} if embeds else {}
    blueprint = Blueprint(plan, "keras", **more)
    batches = []
    for _ in range(draw(st.integers(1, 5))):
        rows, time = draw(st.integers(1, 9)), draw(st.integers(0, 12))
        lengths = random.integers(0, time + 1, rows) if draw(st.booleans()) else [time] * rows
        batches.append(example(random, blueprint, lengths, time, with_state=draw(st.booleans())))
    joins = draw(st.lists(st.integers(0, 6), min_size=len(batches), max_size=len(batches)))
    return batches, joins


def begin(net, ex, **more):
    inputs, lengths, state = ex.batch()
    return net.passes.begin(inputs, lengths, state, **more)


@settings(max_examples=60)
@given(nets_with_batches(), st.sampled_from(TILES), st.lists(st.integers(1, 5), min_size=1), st.data())
def test_batches_that_join_and_end_at_any_step_have_the_bits_that_each_has_alone(drawn, tile, chunks, data):
    batches, joins = drawn
    count, most = data.draw(st.sampled_from((1, 2, 3))), data.draw(st.sampled_from((1, 2, 64)))
    net = fused(batches[0].net(), tile)
    expected = [net.run(*ex.batch()) for ex in batches]
    begun = [begin(net, ex) for ex in batches]
    strands = [
        (joining + k, strand)
        for joining, one in zip(joins, begun, strict=True)
        for k, strand in enumerate(one.strands(most))
    ]
    with threads(count):
        tick = 0
        while any(strand.left > 0 for _, strand in strands):
            there = [strand for joining, strand in strands if joining <= tick and strand.left > 0]
            assert advance(there, chunks[tick % len(chunks)])
            tick += 1
    for one, (outputs, state) in zip(begun, expected, strict=True):
        same_bits((one.outputs, one.state), (outputs, state))


@every_tile
def test_batches_of_a_net_that_reads_both_ways_run_whole_and_together(tile):
    random = np.random.default_rng(1)
    blueprint = Blueprint(stack(random, "gru", 3, [17, 5], BOTH, {"reset_after": True}), "keras")
    batches = [
        example(random, blueprint, [4, 0, 7], 7, with_state=True),
        example(random, blueprint, [3], 3, with_state=False),
    ]
    net = fused(batches[0].net(), tile)
    begun = [begin(net, ex) for ex in batches]
    strands = [one for all_ in begun for one in all_.strands(2)]
    assert advance(strands, 1)
    assert [one.left for one in strands] == [0, 0, 0]
    for one, ex in zip(begun, batches, strict=True):
        same_bits((one.outputs, one.state), net.run(*ex.batch()))


def test_sequences_that_stand_one_after_the_other_have_the_bits_of_the_padded_batch():
    random = np.random.default_rng(2)
    ex = example(random, Blueprint(stack(random, "lstm", 3, [16, 5]), "keras"), [4, 0, 7, 1], 7, with_state=True)
    net = fused(ex.net(), AVX2)
    inputs, lengths, state = ex.batch()
    flat = np.concatenate([row[:length] for row, length in zip(inputs, lengths, strict=True)])
    starts = np.cumsum(lengths) - lengths
    one = net.passes.begin(flat, lengths, state, starts=starts, sizes=(4, 7))
    for strand in one.strands(3):
        while strand.left:
            assert advance([strand], 2)
    same_bits((one.outputs, one.state), net.run(*ex.batch()))


def test_outputs_without_padding_stand_one_sequence_after_the_other():
    random = np.random.default_rng(8)
    ex = example(random, Blueprint(stack(random, "gru", 3, [16, 5]), "keras"), [4, 0, 7, 1], 7, with_state=True)
    net = fused(ex.net(), AVX2)
    inputs, lengths, state = ex.batch()
    one, whole = net.passes.begin(inputs, lengths, state, pads=False), begin(net, ex)
    for each in (one, whole):
        for strand in each.strands(3):
            assert advance([strand], 7)
    padded = zip(whole.outputs, lengths, strict=True)
    same_bits((one.outputs, one.state), (np.concatenate([row[:length] for row, length in padded]), whole.state))
    same_bits(net.finished(one).outputs.data, net.forward(net.pack(inputs, lengths), state).outputs.data)


def test_time_major_inputs_give_time_major_outputs():
    random = np.random.default_rng(3)
    ex = example(random, Blueprint(stack(random, "rnn", 3, [5]), "keras"), [4, 2], 4, with_state=False)
    net = fused(ex.net(), AVX2)
    inputs, lengths, _ = ex.batch()
    one = net.passes.begin(inputs.swapaxes(0, 1), lengths, None, time_major=True)
    assert advance(one.strands(), 4)
    same_bits(one.outputs.swapaxes(0, 1), net.run(inputs, lengths)[0])


def test_what_is_not_finite_is_told_and_harms_no_other_batch():
    random = np.random.default_rng(4)
    blueprint = Blueprint(stack(random, "lstm", 3, [16, 5]), "keras")
    good = [example(random, blueprint, [5, 3], 5, with_state=True) for _ in range(2)]
    net = fused(good[0].net(), AVX2)
    bad = net.passes.begin(np.full((3, 5, 3), np.inf, np.float32), None, None)
    begun = [begin(net, good[0]), bad, begin(net, good[1])]
    strands = [strand for one in begun for strand in one.strands()]
    assert not advance(strands, 2)
    begun.remove(bad)
    assert advance([strand for strand in strands if strand.unrolling is not bad], 5)
    for one, ex in zip(begun, good, strict=True):
        same_bits((one.outputs, one.state), net.run(*ex.batch()))


def test_strange_token_ids_are_refused_before_anything_is_read_by_them_but_not_in_the_padding():
    random = np.random.default_rng(5)
    blueprint = Blueprint(
        stack(random, "gru", 3, [5]), "keras", embedding=random.normal(size=(7, 3)).astype(np.float32)
    )
    net = fused(example(random, blueprint, [1], 1, with_state=False).net(), AVX2)
    ids = np.array([[1, 2, 3], [4, 2**40, -5]])
    with pytest.raises(OptionError, match=r"token id 1099511627776 at step 1 of row 1 is outside 0\.\.6"):
        net.passes.begin(ids, None, None)
    one = net.passes.begin(ids, np.array([3, 1]), None)
    assert advance(one.strands(), 3)
    same_bits((one.outputs, one.state), net.run(ids, [3, 1]))
    with pytest.raises(OptionError, match="token id 9 at step 0 of row 1"):
        net.passes.begin(np.array([1, 9]), np.array([1, 1]), None, starts=np.array([0, 1]), sizes=(2, 1))


def test_a_state_of_another_shape_is_refused_by_the_name_that_it_was_given_under():
    random = np.random.default_rng(6)
    ex = example(random, Blueprint(stack(random, "gru", 3, [5]), "keras"), [2], 2, with_state=False)
    net = fused(ex.net(), AVX2)
    with pytest.raises(StateError, match=r"state of layer 0 has h of shape \[1, 4\]"):
        net.passes.begin(ex.inputs, None, [{"h": np.zeros((1, 4))}], name="state")


def test_layers_that_do_more_than_leave_their_outputs_have_no_such_way():
    random = np.random.default_rng(7)
    for more in ({"options": {"residual": True}}, {"sides": BOTH, "merge": "sum"}):
        blueprint = Blueprint([layer(random, "gru", 5, 5, **more)], "keras")
        net = fused(example(random, blueprint, [2], 2, with_state=False).net(), AVX2)
        assert net.passes.begin(np.zeros((1, 2, 5), np.float32), None, None) is None
        assert net.run(np.zeros((1, 2, 5), np.float32))[0].shape == (1, 2, 5)
