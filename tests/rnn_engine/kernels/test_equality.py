"""What kernels compute equals what the plain loop computes in float64, to 1e-6 of the scale of the values."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from hypothesis import given, settings
from hypothesis import strategies as st

from rnn_engine import fusion
from rnn_engine.blueprint import Blueprint
from rnn_engine.kernels.products import LARGE_BYTES
from rnn_engine.kernels.specs import KNOWN
from rnn_engine.kernels.tile import Tile
from tests.rnn_engine import assert_same
from tests.rnn_engine.kernels.nets import BOTH, INPUTS, OPTIONS, UNITS, example, examples, layer, options_of, stack
from tests.rnn_engine.kernels.tiles import ODD, OF_HOSTS, every_tile, fused, needs_kernels

pytestmark = needs_kernels

any_tile = st.sampled_from(list((OF_HOSTS | ODD).values()))
every_option = pytest.mark.parametrize(("cell", "options"), OPTIONS.values(), ids=OPTIONS)
AVX2 = OF_HOSTS["AVX2 6x16"]
LENGTHS = [3, 0, 5, 1, 5, 2, 4]


def assert_near(ours, exact, name="outputs"):
    """Two trees of arrays, within 1e-6 of the largest number, or of 1."""
    if isinstance(exact, dict):
        assert set(ours) == set(exact)
        for key in exact:
            assert_near(ours[key], exact[key], f"{name}/{key}")
    elif isinstance(exact, (list, tuple)):
        assert len(ours) == len(exact)
        for k, (one, other) in enumerate(zip(ours, exact, strict=True)):
            assert_near(one, other, f"{name}/{k}")
    else:
        assert ours.dtype == np.float32
        assert ours.shape == exact.shape
        scale = max(1, np.abs(exact).max(initial=0))
        np.testing.assert_allclose(ours, exact, rtol=0, atol=1e-6 * scale, err_msg=name)


def assert_equal_to_the_loop(ex, tile):
    loop = ex.net("float64")
    assert loop.kernel == "numpy"
    exact = loop.run(*ex.batch(dtype="float64"))
    assert_near(fused(ex.net(), tile).run(*ex.batch()), exact)


def some_example(seed, layers, *, lengths=LENGTHS, max_time=6, with_state=True, **more):
    return example(
        np.random.default_rng(seed), Blueprint(layers, "keras", **more), lengths, max_time, with_state=with_state
    )


# -- all together -----------------------------------------------------------------------------------------------------


@settings(max_examples=100)
@given(examples(), any_tile)
def test_any_net_equals_the_loop(ex, tile):
    assert_equal_to_the_loop(ex, tile)


# -- one by one -------------------------------------------------------------------------------------------------------


@every_tile
@every_option
def test_every_option_of_every_cell_equals_the_loop(cell, options, tile):
    random = np.random.default_rng(1)
    assert_equal_to_the_loop(some_example(2, stack(random, cell, 3, [21, 6], BOTH, options)), tile)


@every_tile
@pytest.mark.parametrize("input_size", INPUTS)
@pytest.mark.parametrize("units", UNITS)
def test_every_number_of_units_and_inputs_equals_the_loop(units, input_size, tile):
    random = np.random.default_rng(units)
    gru = layer(random, "gru", input_size, units, options={"reset_after": False})
    lstm = layer(random, "lstm", units, 5, ("backward",), {"num_proj": units})
    assert_equal_to_the_loop(some_example(3, [gru, lstm]), tile)


PLACES = {
    "rnn": [{}],
    "gru": [{"reset_after": False}, {"reset_after": True, "recurrent_bias": True}],
    "lstm": [{}],
}
WHERE = {"rnn": ["activation"], "gru": ["activation", "recurrent_activation"]}
WHERE["lstm"] = [*WHERE["gru"], "output_activation"]


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize(
    ("cell", "options", "place"),
    [
        (cell, options, place)
        for cell, all_options in PLACES.items()
        for options in all_options
        for place in WHERE[cell]
    ],
)
def test_every_activation_in_every_place_equals_the_loop(cell, options, place, name):
    random = np.random.default_rng(4)
    plan = layer(random, cell, 3, 9, BOTH, options | {place: name})
    assert_equal_to_the_loop(some_example(5, [plan]), AVX2)


@every_tile
@pytest.mark.parametrize("rows", range(1, 27))
def test_every_number_of_rows_equals_the_loop(rows, tile):
    random = np.random.default_rng(rows)
    plan = layer(random, "lstm", 3, 50, options={"num_proj": 5})
    assert_equal_to_the_loop(some_example(6, [plan], lengths=[3] * (rows - 1) + [2], max_time=3), tile)


@pytest.mark.parametrize("merge", ["concat", "sum", "ave", "mul"])
@pytest.mark.parametrize("go_backwards", [False, True])
@pytest.mark.parametrize("sides", [("forward",), ("backward",), BOTH])
@pytest.mark.parametrize("lengths", [LENGTHS, [4, 4, 4], [0, 4, 4], [0, 0]], ids=str)
def test_every_direction_merge_and_order_equals_the_loop(sides, merge, go_backwards, lengths):
    random = np.random.default_rng(7)
    plans = stack(random, "gru", 5, [7, 5, 4], sides, {"reset_after": True}, merge=merge, go_backwards=go_backwards)
    assert_equal_to_the_loop(some_example(8, plans, lengths=lengths), AVX2)


@every_option
def test_what_is_added_to_its_inputs_equals_the_loop(cell, options):
    size = options.get("num_proj", 13)
    random = np.random.default_rng(9)
    plans = [layer(random, cell, size, 13, BOTH[:ways], options | {"residual": True}) for ways in (1, 1, 2)]
    assert_equal_to_the_loop(some_example(10, plans), AVX2)


@pytest.mark.parametrize("rows", [1, len(LENGTHS)])
def test_a_learned_initial_state_equals_the_loop(rows):
    random = np.random.default_rng(11)
    initial = {side: {"c": random.uniform(-1, 1, (rows, 6)), "h": random.uniform(-1, 1, (rows, 2))} for side in BOTH}
    plan = layer(random, "lstm", 3, 6, BOTH, {"num_proj": 2}, initial_state=initial)
    assert_equal_to_the_loop(some_example(12, [plan], with_state=False), AVX2)


@every_tile
@pytest.mark.parametrize("rows", [1, 2, 3, 9])
def test_matrices_too_large_for_a_cores_cache_equal_the_loop(rows, tile):
    random = np.random.default_rng(13)
    plan = layer(random, "lstm", 3, 768, options={"forget_bias": 0.0})
    assert LARGE_BYTES <= 4 * 768 * 4 * 768
    assert_equal_to_the_loop(some_example(14, [plan], lengths=[2] * rows, max_time=2), tile)


def test_more_steps_than_are_projected_at_a_time_equal_the_loop():
    random = np.random.default_rng(15)
    plan = layer(random, "gru", 40, 100, BOTH, {"reset_after": True})
    lengths = random.integers(0, 120, 12)
    assert_equal_to_the_loop(some_example(16, [plan], lengths=lengths, max_time=120), AVX2)


@pytest.mark.parametrize("rows", [2, 3, 4, 5])
def test_a_tile_of_any_height_covers_every_number_of_rows(rows):
    plan = layer(np.random.default_rng(17), "rnn", 3, 9)
    for count in range(1, 4 * rows + 2):
        assert_equal_to_the_loop(some_example(18, [plan], lengths=[1] * count, max_time=1), Tile(4, rows))


# -- embeddings -------------------------------------------------------------------------------------------------------


def embedding_net(seed, cell, options, sides=BOTH):
    random = np.random.default_rng(seed)
    table = random.uniform(-1, 1, (30, 10)).astype(np.float32)
    return some_example(seed, stack(random, cell, 10, [21, 6], sides, options), embedding=table)


@every_tile
@every_option
def test_a_table_projected_at_load_gives_the_bits_of_one_projected_as_it_is_read(monkeypatch, cell, options, tile):
    ex = embedding_net(19, cell, options)
    at_load = fused(ex.net(), tile)
    monkeypatch.setattr(fusion, "TABLE_BYTES", 0)
    as_read = fused(ex.net(), tile)
    assert [cell.table is None for cell in first_cells(at_load) + first_cells(as_read)] == [False] * 2 + [True] * 2
    assert_same(at_load.run(*ex.batch()), as_read.run(*ex.batch()))


def first_cells(net):
    return list(net.passes.fused[0].cells.values())


@every_option
def test_a_net_that_embeds_equals_the_loop(cell, options):
    assert_equal_to_the_loop(embedding_net(20, cell, options), AVX2)


def test_a_net_that_embeds_gives_the_bits_of_one_that_is_given_the_rows_of_its_embedding():
    ex = embedding_net(21, "gru", {"reset_after": False})
    bare = replace(ex.blueprint, embedding=None)
    real = ex.inputs >= 0
    rows = np.where(real[..., np.newaxis], ex.blueprint.embedding[np.where(real, ex.inputs, 0)], np.float32(np.nan))
    looked_up = replace(ex, blueprint=bare, inputs=rows)
    assert_same(fused(ex.net(), AVX2).run(*ex.batch()), fused(looked_up.net(), AVX2).run(*looked_up.batch()))


@pytest.mark.parametrize("kind", [np.int32, np.uint8, ">i8"])
def test_token_ids_may_be_whole_numbers_of_any_type_and_order(kind):
    ex = embedding_net(22, "lstm", {})
    ids = np.maximum(ex.inputs, 0)
    net = fused(ex.net(), AVX2)
    expected = net.run(ids, ex.lengths, ex.batch()[2])
    assert_same(net.run(np.asfortranarray(ids.astype(kind)), ex.lengths, ex.batch()[2]), expected)


# -- what must make no difference -------------------------------------------------------------------------------------


@given(examples(may_embed=False), st.sampled_from([0.0, np.inf, -np.inf, 1e38]))
def test_nothing_in_the_padding_changes_a_bit(ex, poison):
    net, (inputs, lengths, state) = fused(ex.net(), AVX2), ex.batch()
    padding = np.arange(inputs.shape[1])[:, np.newaxis] >= lengths[:, np.newaxis, np.newaxis]
    other = np.where(padding, np.float32(poison), inputs)
    assert_same(net.run(other, lengths, state), net.run(inputs, lengths, state))


@given(examples())
def test_gates_that_are_asked_for_change_no_bit(ex):
    net, (inputs, lengths, state) = fused(ex.net(), AVX2), ex.batch()
    plain, traced = (
        net.forward(net.pack(inputs, lengths), state),
        net.forward(net.pack(inputs, lengths), state, gates=True),
    )
    assert_same((traced.outputs.data, traced.state), (plain.outputs.data, plain.state))
    loop = ex.net("float64").forward(net.pack(*ex.batch(dtype="float64")[:2]), ex.batch(dtype="float64")[2], gates=True)
    assert_near(traced.gates, loop.gates, "gates")


@given(examples())
def test_the_callers_arrays_are_left_as_they_were(ex):
    batch, before = ex.batch(), ex.batch()
    fused(ex.net(), AVX2).run(*batch)
    for one, other in zip(batch[:2], before[:2], strict=True):
        np.testing.assert_array_equal(one, other)
    if batch[2] is not None:
        assert_same(batch[2], before[2])


def test_inputs_need_not_stand_in_one_piece_nor_in_float32():
    ex = some_example(23, stack(np.random.default_rng(24), "gru", 6, [7], BOTH))
    net, (inputs, lengths, state) = fused(ex.net(), AVX2), ex.batch()
    expected = net.run(inputs, lengths, state)
    scattered = np.repeat(np.repeat(inputs, 2, axis=2), 3, axis=0)[::3, :, ::2]
    for other in (np.asfortranarray(inputs), scattered, inputs.astype(">f4"), inputs.astype(np.float64)):
        assert_same(net.run(other, lengths, state), expected)


def test_the_examples_reach_every_cell_with_every_option():
    """Of what nets.py draws, nothing is refused, and everything is drawn somewhere."""
    seen = set()

    @settings(max_examples=100)
    @given(st.sampled_from(["rnn", "gru", "lstm"]).flatmap(lambda cell: st.tuples(st.just(cell), options_of(cell))))
    def draw(drawn):
        cell, options = drawn
        seen.update((cell, name) for name in options)

    draw()
    assert {name for cell, name in seen if cell == "lstm"} >= {
        "activation", "recurrent_activation", "output_activation", "clip", "use_peepholes", "input_forget", "cell_clip",
        "num_proj", "proj_clip", "forget_bias", "state_is_tuple", "recurrent_bias",
    }  # fmt: skip
    assert ("gru", "reset_after") in seen
