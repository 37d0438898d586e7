"""What a network reads: features or token ids, with or without lengths, and masked steps told by their values."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rnn_engine.errors import EngineError, LengthsError, NonFiniteError, OptionError, ShapeError
from rnn_engine.front import Front
from rnn_engine.readout import Embedding

TABLE = np.random.default_rng(0).standard_normal((6, 2)).astype(np.float32)
F32 = np.dtype("float32")


def embeds(**more):
    return Front(2, Embedding(TABLE), **more)


def lengths(batch):
    return batch.packing.lengths.tolist()


def steps(values, width=2):
    """[B, T] -> [B, T, width], every feature of a step the same."""
    return np.repeat(np.array(values, np.float32)[:, :, np.newaxis], width, axis=2)


# -- masks -------------------------------------------------------------------------------------------------------------

#: Fronts that skip steps, with how a batch is made for them out of numbers of which 0 is masked.
MASKED = {
    "token 0": (embeds(mask_token=0), np.array),
    "token 3": (embeds(mask_token=3), lambda ids: np.where(np.array(ids) == 0, 3, np.array(ids) % 3)),
    "value 0": (Front(2, mask_value=0.0), steps),
    "value -1.5": (Front(2, mask_value=-1.5), lambda values: steps(values) - 1.5),
}
masked_fronts = pytest.mark.parametrize(("front", "made"), MASKED.values(), ids=MASKED)


@masked_fronts
@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        ([[1, 2, 4], [4, 2, 1]], [3, 3]),
        ([[1, 2, 0], [4, 0, 0]], [2, 1]),
        ([[0, 0, 0], [1, 2, 4]], [0, 3]),
        ([[0, 0], [0, 0]], [0, 0]),
        ([[1]], [1]),
        ([[0]], [0]),
    ],
)
@pytest.mark.parametrize("time_major", [False, True], ids=["batch-major", "time-major"])
def test_lengths_are_read_off_the_masked_steps_at_the_ends(front, made, batch, expected, time_major):
    inputs = made(batch)
    packed = front.pack(inputs.swapaxes(0, 1) if time_major else inputs, time_major=time_major)
    assert lengths(packed) == expected
    assert packed.packing.max_time == inputs.shape[1]
    kept = [inputs[row, :length] for row, length in enumerate(expected)]
    for row, real in enumerate(kept):
        np.testing.assert_array_equal(packed.data[packed.packing.rows == row], real)


@masked_fronts
@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 0)])
def test_a_batch_without_steps_has_nothing_masked(front, made, shape):
    assert lengths(front.pack(made(np.zeros(shape, np.int64)))) == [0] * shape[0]


@masked_fronts
@pytest.mark.parametrize(
    ("batch", "step", "row"),
    [([[1, 0, 2]], 1, 0), ([[1, 2, 0], [0, 1, 0]], 0, 1), ([[1, 1, 1, 1], [2, 0, 0, 4]], 1, 1)],
)
@pytest.mark.parametrize("time_major", [False, True], ids=["batch-major", "time-major"])
def test_a_masked_step_before_the_last_real_one_is_refused_with_its_place(front, made, batch, step, row, time_major):
    inputs = made(batch)
    with pytest.raises(LengthsError, match=f"step {step} of row {row} is .* before its last real step") as caught:
        front.pack(inputs.swapaxes(0, 1) if time_major else inputs, time_major=time_major)
    assert caught.value.where == ("inputs",)


def test_what_is_masked_is_named():
    with pytest.raises(LengthsError, match="is the id 3, which the model skips"):
        embeds(mask_token=3).pack([[3, 1]])
    with pytest.raises(LengthsError, match=r"is all -1\.5, which the model skips"):
        Front(1, mask_value=-1.5).pack([[[-1.5], [0.0]]])


@masked_fronts
def test_lengths_that_are_given_count_and_nothing_behind_them_is_looked_at(front, made):
    inputs = made([[1, 2, 0, 4], [1, 0, 2, 0]])
    assert lengths(front.pack(inputs, [2, 1])) == [2, 1]
    if inputs.dtype.kind == "f":
        inputs[0, 2:], inputs[1, 1:] = np.nan, np.nan
        packed = front.pack(inputs, [2, 1])
        assert np.isfinite(front.features(packed, F32).data).all()


@masked_fronts
def test_a_masked_step_within_a_given_length_is_refused_with_its_place(front, made):
    with pytest.raises(LengthsError, match=r"step 2 of row 1 is .*, within its length of 3.*shorten the row"):
        front.pack(made([[1, 1, 1], [1, 1, 0]]), [3, 3])


def test_a_step_is_masked_only_where_all_its_features_have_the_value():
    x = np.array([[[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 0.0]]], np.float32)
    with pytest.raises(LengthsError, match="step 0 of row 0"):
        Front(2, mask_value=0.0).pack(x)
    assert lengths(Front(2, mask_value=0.0).pack(x[:, 1:])) == [2]


def test_values_are_compared_in_float32_as_keras_does():
    front = Front(1, mask_value=0.1)
    for value in (0.1, np.float32(0.1), 0.1 + 1e-12):
        assert lengths(front.pack(np.array([[[1.0], [value]]], np.float64))) == [1]
    assert lengths(front.pack(np.array([[[1.0], [0.1001]]]))) == [2]
    assert lengths(front.pack(np.array([[[1.0], [1e300]]]))) == [2]


def test_padding_that_is_no_number_is_not_taken_for_a_masked_step():
    x = np.array([[[1.0], [np.nan]]])
    packed = Front(1, mask_value=0.0).pack(x)
    assert lengths(packed) == [2]
    with pytest.raises(NonFiniteError, match="at step 1 of row 0"):
        Front(1, mask_value=0.0).features(packed, F32)


def test_without_a_mask_every_step_counts():
    assert lengths(Front(2).pack(steps([[0, 0], [1, 0]]))) == [2, 2]
    assert lengths(embeds().pack([[0, 0], [1, 0]])) == [2, 2]


@given(
    hnp.arrays(np.int64, hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=5), elements=st.integers(0, 2))
)
def test_lengths_are_one_past_the_last_step_that_is_not_masked(ids):
    expected = [max((t + 1 for t, token in enumerate(row) if token), default=0) for row in ids.tolist()]
    inside = any(token == 0 for row, end in zip(ids.tolist(), expected, strict=True) for token in row[:end])
    front = embeds(mask_token=0)
    if inside:
        with pytest.raises(LengthsError):
            front.pack(ids)
    else:
        assert lengths(front.pack(ids)) == expected


@given(st.lists(st.lists(st.integers(0, 2), max_size=4), min_size=1, max_size=4))
def test_ragged_rows_lose_the_masked_steps_that_they_end_in(rows):
    flat, ends = np.array(list(itertools.chain(*rows)), np.int64), np.array([len(row) for row in rows])
    expected = [max((t + 1 for t, token in enumerate(row) if token), default=0) for row in rows]
    inside = any(0 in row[:end] for row, end in zip(rows, expected, strict=True))
    front = embeds(mask_token=0)
    if inside:
        with pytest.raises(LengthsError):
            front.without_masked_ends(flat, ends)
    else:
        left, real = front.without_masked_ends(flat, ends)
        assert real.tolist() == expected
        assert left.tolist() == [token for row, end in zip(rows, expected, strict=True) for token in row[:end]]


@masked_fronts
def test_a_single_step_cannot_be_masked(front, made):
    one = made([[1], [0], [0]])[:, 0]
    with pytest.raises(OptionError, match=r"row 1 of inputs is .* leave that row out"):
        front.single_step(one)
    np.testing.assert_array_equal(front.single_step(one[:1]).data, one[:1])


# -- lengths of the model's own ----------------------------------------------------------------------------------------


def test_lengths_of_the_models_own_are_those_of_every_batch_that_tells_none():
    front = Front(2, lengths=np.array([3, 0, 1]))
    x = steps(np.ones((3, 4)))
    assert lengths(front.pack(x)) == [3, 0, 1]
    assert lengths(front.pack(x.swapaxes(0, 1), time_major=True)) == [3, 0, 1]
    assert lengths(front.pack(x, [4, 4, 4])) == [4, 4, 4]


def test_a_batch_that_the_models_own_lengths_do_not_fit_is_refused():
    front = Front(2, lengths=np.array([3, 0, 1]))
    with pytest.raises(LengthsError, match="fixes the lengths of 3 rows, the batch has 2: give `lengths`") as caught:
        front.pack(steps(np.ones((2, 4))))
    assert caught.value.where == ("lengths",)
    with pytest.raises(LengthsError, match="length 3 of row 0"):
        front.pack(steps(np.ones((3, 2))))


def test_the_models_own_lengths_count_and_what_is_masked_behind_them_does_not():
    front = embeds(mask_token=0, lengths=np.array([2, 1]))
    assert lengths(front.pack([[1, 2, 0], [3, 0, 4]])) == [2, 1]


# -- token ids and features --------------------------------------------------------------------------------------------


def test_token_ids_are_looked_up():
    packed = embeds().pack([[5, 0], [2, 2]], [2, 1])
    np.testing.assert_array_equal(embeds().features(packed, F32).padded(), [TABLE[[5, 0]], [TABLE[2], [0, 0]]])


@pytest.mark.parametrize("kind", ["int8", "uint8", "int64", "uint64"])
@pytest.mark.parametrize("bad", [6, 100, -1])
def test_an_id_that_the_embedding_does_not_have_is_told_with_its_place(kind, bad):
    if bad < 0 and kind[0] == "u":
        bad = int(np.iinfo(kind).max)
    ids = np.array([[1, 2, 3], [4, bad, 5]], kind)
    with pytest.raises(OptionError, match=rf"token id {bad} at step 1 of row 1 is outside 0\.\.5") as caught:
        embeds().features(embeds().pack(ids), F32)
    assert caught.value.where == ("inputs",)


def test_ids_in_the_padding_are_not_looked_at():
    ids = np.array([[1, -7], [99, 99], [2, 3]])
    np.testing.assert_array_equal(embeds().features(embeds().pack(ids, [1, 0, 2]), F32).padded()[0, 0], TABLE[1])


@pytest.mark.parametrize(
    ("front", "inputs", "said"),
    [
        (Front(2), [[1, 2]], "no embedding, so every time step is a list of features"),
        (Front(2), [[[1.0]]], "1 features a time step, the network takes 2"),
        (Front(2), [[[[1.0, 2.0]]]], r"expected \[batch, max_time, 2\]"),
        (Front(2), [[[1.0], [1.0, 2.0]]], "regularly nested"),
        (Front(2), [[["a", "b"]]], "must be numbers"),
        (Front(2), [[[True, False]]], "must be numbers"),
        (embeds(), [[1.0, 2.0]], r"of float64, expected integer token ids \[batch, max_time\]"),
        (embeds(), [1, 2], r"expected integer token ids \[batch, max_time\]"),
        (embeds(), [[[1, 2]]], r"expected integer token ids \[batch, max_time\]"),
        (embeds(), [[1], [1, 2]], "regularly nested"),
        (embeds(mask_token=0), [[1.0]], "integer token ids"),
        (Front(2, mask_value=0.0), [[0.0]], "no embedding"),
    ],
)
def test_inputs_of_the_wrong_kind_are_refused_with_what_is_expected(front, inputs, said):
    with pytest.raises(ShapeError, match=said) as caught:
        front.pack(inputs)
    assert caught.value.where == ("inputs",)


def test_a_value_that_is_not_finite_is_told_with_its_place():
    x = steps(np.ones((3, 4)))
    x[2, 1, 1] = np.inf
    with pytest.raises(NonFiniteError, match="not finite in float32, at step 1 of row 2"):
        Front(2).features(Front(2).pack(x), F32)
    with pytest.raises(NonFiniteError, match="not finite in float32, at step 0 of row 0"):
        Front(1).features(Front(1).pack([[[1e300]]]), F32)
    assert Front(1).features(Front(1).pack([[[1e300]]]), np.dtype("float64")).data.tolist() == [[1e300]]


# -- the embedding -----------------------------------------------------------------------------------------------------


def test_an_embedding_is_cast_to_what_the_net_computes_in():
    assert Embedding.of(TABLE.astype(np.float64), 2, "float32").table.dtype == np.float32


@pytest.mark.parametrize("table", [np.zeros((6, 3)), np.zeros((0, 2)), np.zeros(2), np.zeros((1, 6, 2))])
def test_a_table_that_does_not_fit_is_refused_with_both_shapes(table):
    with pytest.raises(ShapeError, match="the first layer takes 2 features") as caught:
        Embedding.of(table, 2, "float32")
    assert str(list(table.shape)) in caught.value.detail


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_a_table_that_is_not_finite_where_it_is_computed_with_is_refused(value):
    with pytest.raises(EngineError, match="not finite in float32"):
        Embedding.of(np.full((3, 2), value), 2, "float32")
