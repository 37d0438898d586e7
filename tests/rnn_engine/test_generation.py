"""Rows that feed themselves: against `raw_rnn`, their definition, and against themselves however they are computed."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnn_engine import MultiRNNCell, Network, kernels, raw_rnn
from rnn_engine.blueprint import Blueprint, DenseBlueprint, LayerBlueprint
from rnn_engine.errors import NonFiniteError
from rnn_engine.feeds import ConstantFeed, TokenFeed, ValueFeed
from rnn_engine.generation import FedStrand, Generation, Prompts, advance, by_loop, generate
from rnn_engine.packed import PackedBatch
from rnn_engine.sampling import Sampling
from rnn_engine.types import map_state

VOCABULARY, FEATURES = 11, 3
OPTIONS = {"lstm": {"forget_bias": 1.0}, "gru": {"reset_after": True}, "rnn": {}}


def net_of(cell="lstm", units=(6, 5), dtype="float32", *, embeds=True, size=VOCABULARY, activation="softmax", **more):
    """A net with weights from a seed, and a readout of `size`; token ids in front, or FEATURES features."""
    rng = np.random.default_rng(3)
    plain = Network.from_seed(cell, list(units), FEATURES, seed=5, dtype="float64", cell_options=OPTIONS[cell])
    layers = [LayerBlueprint(cell, dict(layer.options), {"forward": layer.first.parameters}) for layer in plain.layers]
    readout = [DenseBlueprint(6 * rng.standard_normal((units[-1], size)), rng.standard_normal(size), activation)]
    table = 4 * rng.standard_normal((VOCABULARY, FEATURES)) if embeds else None
    return Network.from_blueprint(Blueprint(layers, "keras", embedding=table, readout=readout, **more), dtype)


def by_raw_rnn(net, inputs, steps, following, state=None, ended=lambda predictions: False):
    """`raw_rnn` over the net's own cells: prompts [B, T, …], then `following(predictions)` as next inputs."""
    cell = MultiRNNCell([layer.first for layer in net.layers])
    table = net.front.embedding
    embed = (lambda given: table.table[given]) if table is not None else (lambda given: given)
    batch, max_time = inputs.shape[:2]
    put_out = []

    def loop_fn(time, output, cell_state, finished):
        if output is None:
            start = state or map_state(np.copy, cell.zero_state(batch, net.dtype))
            return np.zeros(batch, bool), embed(inputs[:, 0]).astype(net.dtype), start, None, np.zeros(batch, bool)
        if time < max_time:
            return np.zeros(batch, bool), embed(inputs[:, time]).astype(net.dtype), cell_state, None, finished
        predictions = output
        for dense in net.readout:
            predictions = dense(predictions)
        put_out.append(np.where(finished[:, None], 0, predictions))
        finished = finished | ended(predictions) | (len(put_out) == steps)
        return finished, embed(following(predictions)).astype(net.dtype), cell_state, None, finished

    _, final, _ = raw_rnn(cell, loop_fn)
    return np.stack(put_out, axis=1), final


def flat(state):
    """All arrays of a state, of either form, side by side."""
    if isinstance(state, list):
        return np.concatenate([part for layer in state for part in layer.values()], axis=1)
    parts = []
    map_state(parts.append, state)
    return np.concatenate(parts, axis=1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_greedy_tokens_are_those_of_raw_rnn(cell, dtype):
    net = net_of(cell, dtype=dtype)
    prompts = np.random.default_rng(1).integers(0, VOCABULARY, (7, 3))
    expected, state = by_raw_rnn(net, prompts, 20, lambda predictions: predictions.argmax(axis=1))
    feed = TokenFeed(7, 20, "softmax", Sampling(), with_logs=True)
    got = generate(net, prompts, feed)
    assert feed.tokens.tolist() == expected.argmax(axis=2).tolist()
    assert len(np.unique(feed.tokens)) > 3
    atol = 1e-5 if dtype == "float32" else 1e-12
    np.testing.assert_allclose(feed.log_probabilities, np.log(expected.max(axis=2)), atol=atol)
    np.testing.assert_allclose(flat(got), flat(state), atol=atol)


def test_rows_end_with_a_stop_token_and_keep_their_state_as_in_raw_rnn():
    net = net_of("gru")
    prompts = np.arange(VOCABULARY)[:, None]
    stops = (1, 9)

    def ended(predictions):
        return np.isin(predictions.argmax(axis=1), stops)

    expected, state = by_raw_rnn(net, prompts, 12, lambda p: p.argmax(axis=1), ended=ended)
    feed = TokenFeed(VOCABULARY, 12, "softmax", Sampling(), stops=stops)
    got = generate(net, prompts, feed)
    chosen = expected.argmax(axis=2)
    lengths = [next((k + 1 for k, token in enumerate(row) if token in stops), 12) for row in chosen.tolist()]
    assert feed.lengths.tolist() == lengths
    assert len(set(lengths)) > 2
    assert feed.stopped.tolist() == [row[n - 1] in stops for row, n in zip(chosen.tolist(), lengths, strict=True)]
    for row, n in enumerate(lengths):
        assert feed.tokens[row, :n].tolist() == chosen[row, :n].tolist()
    np.testing.assert_allclose(flat(got), flat(state), atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_predictions_are_fed_back_beside_the_features_that_are_known(dtype):
    net = net_of("lstm", dtype=dtype, embeds=False, size=2, activation="tanh")
    rng = np.random.default_rng(2)
    prompts, future = rng.standard_normal((4, 5, FEATURES)), rng.standard_normal((4, 9, 1)).astype(dtype)
    times = iter(range(10))

    def following(predictions):
        step = next(times)
        known = future[:, min(step, 8)]
        return np.stack([predictions[:, 1], known[:, 0], predictions[:, 0]], axis=1)

    expected, state = by_raw_rnn(net, prompts, 10, following)
    feed = ValueFeed(4, 10, [2, 0], FEATURES, dtype, future)
    got = generate(net, prompts, feed)
    atol = 1e-5 if dtype == "float32" else 1e-12
    np.testing.assert_allclose(feed.put_out, expected, atol=atol)
    np.testing.assert_allclose(flat(got), flat(state), atol=atol)


def test_constant_inputs_are_those_of_a_prompt_that_repeats_them():
    net = net_of("gru", embeds=False, size=2)
    inputs = np.random.default_rng(4).standard_normal((3, FEATURES)).astype(np.float32)
    feed = ConstantFeed(3, 6, 2, inputs, np.float32)
    state = generate(net, inputs[:, None], feed)
    result = net.forward(net.pack(np.repeat(inputs[:, None], 6, axis=1)))
    np.testing.assert_array_equal(feed.put_out, result.predictions.padded())
    np.testing.assert_array_equal(flat(state), flat(result.state))


def test_one_hot_tokens_are_ids_that_an_identity_embeds():
    ids = net_of("gru", size=FEATURES, activation="linear")
    ids.front = replace(ids.front, embedding=replace(ids.front.embedding, table=np.eye(FEATURES, dtype=np.float32)))
    features = net_of("gru", embeds=False, size=FEATURES, activation="linear")
    prompts = np.array([[0, 2], [1, 1], [2, 0]])
    by_id = TokenFeed(3, 15, "linear", Sampling(1.0), seeds=[3, 4, 5])
    by_feature = TokenFeed(3, 15, "linear", Sampling(1.0), seeds=[3, 4, 5], one_hot=FEATURES)
    generate(ids, prompts, by_id)
    generate(features, np.eye(FEATURES)[prompts], by_feature)
    np.testing.assert_array_equal(by_id.tokens, by_feature.tokens)


@st.composite
def requests(draw):
    lengths = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    stops = draw(st.sampled_from([(), (3,), (1, 8, 9)]))
    sampling = draw(st.sampled_from([Sampling(), Sampling(1.0), Sampling(0.7, top_k=4), Sampling(1.3, top_p=0.8)]))
    samples = draw(st.integers(1, 3)) if sampling.temperature else 1
    return lengths, stops, sampling, samples, draw(st.integers(1, 8)), draw(st.sampled_from(["rnn", "gru", "lstm"]))


NETS = {cell: net_of(cell) for cell in OPTIONS}
PROMPTS = np.random.default_rng(8).integers(0, VOCABULARY, (4, 4))


def made(request, chosen=slice(None)):
    lengths, stops, sampling, samples, steps, cell = request
    rows = np.array(lengths)[chosen]
    seeds = np.arange(len(lengths))[chosen]
    feed = TokenFeed(len(rows) * samples, steps, "softmax", sampling, seeds=seeds.tolist(), stops=stops, with_logs=True)
    return NETS[cell], PROMPTS[: len(lengths)][chosen], rows, feed, samples


def what(feed, state):
    kept = np.arange(feed.steps) < feed.lengths[:, None]
    return [feed.lengths, feed.stopped, feed.tokens * kept, feed.log_probabilities * kept, flat(state)]


@pytest.mark.skipif(kernels.here() is None, reason="rounding differs without kernels")
@given(requests(), st.lists(st.integers(1, 3), min_size=1, max_size=4))
def test_rows_have_the_same_bits_however_their_steps_are_taken(request, ticks):
    net, prompts, lengths, feed, samples = made(request)
    expected = what(feed, generate(net, prompts, feed, lengths, samples=samples))

    _, _, _, other, _ = made(request)
    looped = what(other, by_loop(net, Prompts(PackedBatch.pack(prompts, lengths), None, samples), other))
    for one, same in zip(expected, looped, strict=True):
        np.testing.assert_array_equal(one, same)

    _, _, _, third, _ = made(request)
    generation = Generation(net, third, net.passes.begin(prompts, lengths, None), samples)
    beside = net.passes.begin(PROMPTS[:2], None, None)
    ordinary = beside.strands()[0]
    strands = [*generation.strands(samples), ordinary]  # a prompt each
    turn = 0
    while any(strand.left for strand in strands):
        some = [strand for k, strand in enumerate(strands) if strand.left and (k + turn) % 3] or [
            strand for strand in strands if strand.left
        ]
        saved = [strand.saved() for strand in some]
        assert advance(some, ticks[turn % len(ticks)], net.passes.work)
        if turn % 4 == 1:  # as a tick that failed is taken back, and computed again
            for strand, before in zip(some, saved, strict=True):
                strand.restore(before)
                assert advance([strand], ticks[turn % len(ticks)], net.passes.work)
        turn += 1
    for one, same in zip(expected, what(third, generation.state), strict=True):
        np.testing.assert_array_equal(one, same)
    np.testing.assert_array_equal(beside.outputs, net.forward(net.pack(PROMPTS[:2])).outputs.padded())


@pytest.mark.skipif(kernels.here() is None, reason="rounding differs without kernels")
@given(requests(), st.integers(0, 3))
def test_a_row_alone_is_what_it_is_among_others(request, row):
    row %= len(request[0])
    net, prompts, lengths, feed, samples = made(request)
    expected = what(feed, generate(net, prompts, feed, lengths, samples=samples))
    net, prompts, lengths, alone, samples = made(request, slice(row, row + 1))
    got = what(alone, generate(net, prompts[:, : lengths[0]], alone, samples=samples))
    for one, same in zip(expected, got, strict=True):
        np.testing.assert_array_equal(one[row * samples : (row + 1) * samples], same)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_generation_goes_on_from_its_state_and_last_tokens(cell):
    net = NETS[cell]
    whole = TokenFeed(4, 12, "softmax", Sampling())
    generate(net, PROMPTS, whole)
    first, second = TokenFeed(4, 5, "softmax", Sampling()), TokenFeed(4, 7, "softmax", Sampling())
    state = generate(net, PROMPTS, first)
    generate(net, first.tokens[:, -1:], second, initial_state=state)
    np.testing.assert_array_equal(np.concatenate([first.tokens, second.tokens], axis=1), whole.tokens)


def test_steps_are_told_of_as_they_come():
    told = []
    feed = TokenFeed(4, 3, "softmax", Sampling())
    net = NETS["gru"]
    begun = net.passes.begin(PROMPTS, None, None)
    if begun is None:
        by_loop(net, Prompts(net.pack(PROMPTS)), feed, lambda step, rows: told.append((step, rows.tolist())))
    else:
        generation = Generation(net, feed, begun, told=lambda step, rows: told.append((step, rows.tolist())))
        (strand,) = generation.strands(64)
        assert isinstance(strand, FedStrand)
        assert strand.left == 4 + 2
        assert advance([strand], 4, net.passes.work)
        assert told == [(0, [0, 1, 2, 3])]
        assert advance([strand], 99, net.passes.work)
        assert strand.left == 0
    assert told == [(step, [0, 1, 2, 3]) for step in range(3)]


def test_a_token_that_is_no_step_is_never_chosen():
    prompts = np.array([k for k in range(VOCABULARY) if k != 9])[:, None]
    free, never = (TokenFeed(10, 30, "softmax", Sampling(), never=never) for never in (None, 9))
    generate(NETS["gru"], prompts, free)
    generate(net_of("gru", mask_token=9), prompts, never)
    assert 9 in free.tokens
    assert 9 not in never.tokens


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_token_that_is_no_step_is_not_even_chosen_where_no_other_is_possible(temperature):
    feed = TokenFeed(3, 1, "softmax", Sampling(temperature), never=0)
    with np.errstate(divide="ignore"):
        feed.take(0, np.arange(3), np.array([[1.0, 0, 0], [1, 0, 0], [0.5, 0.5, 0]]))
    assert 0 not in feed.tokens
    assert feed.tokens[2] == 1


def test_what_overflows_is_told_with_its_step():
    weights = {"layers": [{"kernel": np.full((FEATURES + 2, 2), 1e20), "bias": np.zeros(2)}]}
    net = Network.from_weights(weights, "rnn", cell_options={"activation": "relu"})
    net = net.with_readout({"kernel": np.full((2, FEATURES), 1e-2)})
    feed = ValueFeed(1, 5, range(FEATURES), FEATURES, np.float32)
    with pytest.raises(NonFiniteError, match=r"generated step 1: .*overflows float32"):
        generate(net, np.ones((1, 1, FEATURES)), feed)
