"""A row's bits depend on its own steps, its own state and the weights, whatever computes it and beside what."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from unittest import mock

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from hypothesis import given, settings
from hypothesis import strategies as st

from rnn_engine import Network, fusion, set_threads, unrolling
from rnn_engine.blueprint import Blueprint
from rnn_engine.errors import NonFiniteError
from rnn_engine.kernels.stack import Stack
from rnn_engine.passes import Passes
from rnn_engine.threads import cores, workers
from tests.rnn_engine.kernels.nets import BOTH, OPTIONS, example, examples, layer, rows_of, same_bits, stack
from tests.rnn_engine.kernels.tiles import ODD, OF_HOSTS, every_tile, fused, needs_kernels

pytestmark = needs_kernels

any_tile = st.sampled_from(list((OF_HOSTS | ODD).values()))
every_option = pytest.mark.parametrize(("cell", "options"), OPTIONS.values(), ids=OPTIONS)
AVX2 = OF_HOSTS["AVX2 6x16"]
SIZES = (1, 2, 3, 7, 64)


@contextmanager
def threads(count):
    """So many threads, which even the smallest net is spread over."""
    set_threads(count)
    try:
        with mock.patch.object(fusion, "WORTH_THREADS", 0), mock.patch.object(unrolling, "WORTH_THREADS", 0):
            yield
    finally:
        set_threads(cores())


def some_example(seed, layers, *, lengths, max_time, with_state=True, **more):
    blueprint = Blueprint(layers, "keras", **more)
    return example(np.random.default_rng(seed), blueprint, lengths, max_time, with_state=with_state)


def picked(answer, rows):
    """Some rows of outputs and states."""
    return answer[0][rows], rows_of(answer[1], rows)


# -- beside which rows -------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(examples(most_rows=12), any_tile, st.sampled_from(SIZES), st.randoms(use_true_random=False))
def test_a_row_has_the_bits_that_it_has_in_any_other_batch(ex, tile, size, choice):
    net = fused(ex.net(), tile)
    whole, rows = net.run(*ex.batch()), range(len(ex.lengths))
    shuffled = choice.sample(rows, len(rows))
    for some in (shuffled, [choice.choice(rows) for _ in range(size)], *([row] for row in shuffled[:3])):
        same_bits(net.run(*ex.batch(some)), picked(whole, some))


@every_tile
@every_option
def test_a_row_alone_has_the_bits_that_it_has_among_64_whatever_the_options(cell, options, tile):
    random = np.random.default_rng(1)
    lengths = random.integers(0, 5, 64)
    ex = some_example(2, stack(random, cell, 3, [21], BOTH, options), lengths=lengths, max_time=4)
    net = fused(ex.net(), tile)
    whole = net.run(*ex.batch())
    for size in SIZES[:-1]:
        rows = random.choice(64, size, replace=False)
        same_bits(net.run(*ex.batch(rows)), picked(whole, rows))


@every_tile
def test_a_row_alone_has_the_bits_that_it_has_among_others_with_matrices_too_large_for_a_cache(tile):
    random = np.random.default_rng(3)
    plan = layer(random, "gru", 3, 1024, options={"reset_after": True})
    ex = some_example(4, [plan], lengths=[2] * 9, max_time=2)
    net = fused(ex.net(), tile)
    whole = net.run(*ex.batch())
    for rows in ([4], [8, 0], [1, 2, 3]):
        same_bits(net.run(*ex.batch(rows)), picked(whole, rows))


@settings(max_examples=40)
@given(examples(), any_tile, st.integers(1, 9))
def test_padded_longer_a_row_has_the_same_bits(ex, tile, more):
    net, (inputs, lengths, state) = fused(ex.net(), tile), ex.batch()
    outputs, final = net.run(inputs, lengths, state)
    padding = np.full((len(inputs), more, *inputs.shape[2:]), -1 if inputs.dtype == np.int64 else np.nan, inputs.dtype)
    longer, same = net.run(np.concatenate([inputs, padding], axis=1), lengths, state)
    same_bits((longer[:, : inputs.shape[1]], same), (outputs, final))
    assert not longer[:, inputs.shape[1] :].any()


@settings(max_examples=20)
@given(examples())
def test_every_tile_gives_the_same_bits(ex):
    expected = fused(ex.net(), AVX2).run(*ex.batch())
    for tile in (OF_HOSTS | ODD).values():
        same_bits(fused(ex.net(), tile).run(*ex.batch()), expected)


# -- in how many calls -------------------------------------------------------------------------------------------------


@given(examples(both_ways=False, most_time=12), any_tile, st.data())
def test_cut_into_chunks_of_steps_the_bits_are_the_same(ex, tile, data):
    net, (inputs, lengths, state) = fused(ex.net(), tile), ex.batch()
    time = inputs.shape[1]
    cuts = sorted(data.draw(st.sets(st.integers(0, time))) | {0, time})
    chunks, last = [], state
    for start, stop in pairwise(cuts):
        left = np.clip(lengths - start, 0, stop - start)
        outputs, last = net.run(inputs[:, start:stop], left, last)
        chunks.append(outputs)
    same_bits((np.concatenate(chunks, axis=1), last), net.run(inputs, lengths, state))


@given(examples(both_ways=False, most_rows=20), any_tile)
def test_stepped_the_bits_are_the_same(ex, tile):
    net, (inputs, _, state) = fused(ex.net(), tile), ex.batch()
    inputs = np.maximum(inputs, 0) if inputs.dtype == np.int64 else np.nan_to_num(inputs, nan=0.5)
    stepped, last = [], state
    for t in range(inputs.shape[1]):
        output, last = net.step(inputs[:, t], last)
        stepped.append(output)
    same_bits((np.stack(stepped, axis=1), last), net.run(inputs, None, state))


@every_tile
@every_option
@pytest.mark.parametrize("rows", [1, 3, 16])
def test_steps_of_few_rows_take_a_shorter_way_with_the_same_bits(cell, options, tile, rows):
    options = {name: value for name, value in options.items() if name != "state_is_tuple"}
    ex = some_example(
        5, stack(np.random.default_rng(6), cell, 3, [21, 6], options=options), lengths=[4] * rows, max_time=4
    )
    net, (inputs, _, state) = fused(ex.net(), tile), ex.batch()
    expected = net.run(inputs, None, state), net.run(inputs)
    with mock.patch.object(Network, "forward", side_effect=AssertionError("the long way")):
        for last, (outputs, final) in zip((state, None), expected, strict=True):
            for t in range(4):
                output, last = net.step(inputs[:, t], last)
                same_bits(output, outputs[:, t])
            same_bits(last, final)


def test_what_a_step_returns_is_not_changed_by_the_next():
    ex = some_example(7, stack(np.random.default_rng(8), "lstm", 3, [8]), lengths=[2], max_time=2)
    net, (inputs, _, state) = fused(ex.net(), AVX2), ex.batch()
    output, after = net.step(inputs[:, 0], state)
    kept = output.copy(), rows_of(after, slice(None))
    net.step(inputs[:, 1], after)
    same_bits((output, after), kept)
    same_bits(state, ex.batch()[2])


# -- by how many threads -----------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(examples(most_rows=20), any_tile)
def test_any_number_of_threads_gives_the_same_bits(ex, tile):
    net, answers = fused(ex.net(), tile), []
    for count in (1, 2, 3):
        with threads(count):
            answers.append(net.run(*ex.batch()))
    same_bits(answers[1], answers[0])
    same_bits(answers[2], answers[0])


@pytest.mark.parametrize(("count", "sides", "tasks"), [(1, ("forward",), 1), (3, ("forward",), 3), (4, BOTH, 4)])
def test_rows_are_indeed_spread_over_threads(count, sides, tasks):
    plan = layer(np.random.default_rng(9), "gru", 3, 5, sides)
    ex = some_example(10, [plan], lengths=[4, 4, 0, 4, 4, 4, 4], max_time=4)
    net = fused(ex.net(), AVX2)
    with (
        threads(count),
        mock.patch.object(Stack, "run", autospec=True, side_effect=Stack.run) as run,
    ):
        net.run(*ex.batch())
    assert run.call_count == tasks


def test_callers_at_once_get_the_bits_that_each_gets_alone():
    random = np.random.default_rng(11)
    plans = [*stack(random, "lstm", 3, [33], options={"num_proj": 17}), layer(random, "gru", 17, 20, BOTH)]
    deep = [some_example(k, plans, lengths=random.integers(0, 9, 1 + 3 * k), max_time=8) for k in range(12)]
    net = fused(deep[0].net(), AVX2)
    stepping = fused(some_example(12, stack(random, "lstm", 3, [33, 5]), lengths=[1], max_time=1).net(), AVX2)
    x = random.uniform(-1, 1, (40, 2, 3)).astype(np.float32)

    def walked(k):
        state, outputs = None, []
        for t in range(20):
            output, state = stepping.step(x[(k + t) % 40], state)
            outputs.append(output)
        return np.stack(outputs), state

    with threads(2):
        alone = [net.run(*ex.batch()) for ex in deep], [walked(k) for k in range(40)]
        with ThreadPoolExecutor(8) as pool:
            together = pool.map(lambda k: (net.run(*deep[k % 12].batch()), walked(k % 40)), range(240))
            for k, (ran, stepped) in enumerate(together):
                same_bits(ran, alone[0][k % 12])
                same_bits(stepped, alone[1][k % 40])


def test_callers_at_once_of_one_packed_batch_get_the_same_bits():
    random = np.random.default_rng(13)
    ex = some_example(14, [layer(random, "gru", 3, 20, BOTH)], lengths=random.integers(0, 30, 40), max_time=30)
    net, (inputs, lengths, state) = fused(ex.net(), AVX2), ex.batch()
    expected = net.forward(net.pack(inputs, lengths), state).outputs.data
    with threads(3), ThreadPoolExecutor(8) as pool:
        for _ in range(10):
            batch = net.pack(inputs, lengths)
            for result in pool.map(lambda _: net.forward(batch, state), range(8)):  # noqa: B023
                same_bits(result.outputs.data, expected)


def test_threads_can_be_changed_while_others_compute():
    random = np.random.default_rng(15)
    ex = some_example(16, [layer(random, "lstm", 3, 17)], lengths=[6] * 12, max_time=6)
    net = fused(ex.net(), AVX2)
    expected = net.run(*ex.batch())
    with threads(3), ThreadPoolExecutor(2) as pool:
        running = [pool.submit(net.run, *ex.batch()) for _ in range(60)]
        for count in (1, 3, 2, 4, 1, 3):
            set_threads(count)
            assert workers().count == count
        for future in running:
            same_bits(future.result(), expected)


# -- after what --------------------------------------------------------------------------------------------------------


@every_option
def test_what_another_call_left_behind_changes_nothing(cell, options):
    options = {name: value for name, value in options.items() if name != "state_is_tuple"}
    ex = some_example(
        17, stack(np.random.default_rng(18), cell, 3, [21], options=options), lengths=[3, 1, 0], max_time=3
    )
    net, (inputs, _, _) = fused(ex.net(), AVX2), ex.batch()
    expected, stepped = net.run(*ex.batch()), net.step(inputs[:1, 0])
    infinite = np.full((3, 3, 3), np.inf, np.float32)
    with pytest.raises(NonFiniteError, match="at step 0 of row 0"):
        net.run(infinite)
    with pytest.raises(NonFiniteError, match="at step 0 of row 0"):
        net.step(infinite[:1, 0])
    with mock.patch.object(Passes, "_refuse", side_effect=AssertionError("something is not finite")):
        same_bits(net.run(*ex.batch()), expected)
    with mock.patch.object(Network, "forward", side_effect=AssertionError("the long way")):
        same_bits(net.step(inputs[:1, 0]), stepped)
