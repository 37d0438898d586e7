"""Packed batches: the figure in packed.py, and every array of a packing against plain loops over rows and steps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnn_engine.errors import LengthsError, ShapeError
from rnn_engine.packed import PackedBatch, Packing, check_lengths
from tests.rnn_engine import poisoned


@st.composite
def batches(draw):
    """[B, T, 2] of numbers that are all different, and lengths [B]; B and T may be 0."""
    time = draw(st.integers(0, 6))
    lengths = draw(st.lists(st.integers(0, time), max_size=6))
    x = np.arange(len(lengths) * time * 2, dtype=np.float64).reshape(len(lengths), time, 2) + 1
    return x, np.array(lengths, np.int64)


def longest_first(lengths):
    return sorted(range(len(lengths)), key=lambda row: -lengths[row])


def places(lengths):
    """(row, step) of every row of data, by the definition: step by step, in each the living rows, longest first."""
    steps = range(max(lengths, default=0))
    return [(row, t) for t in steps for row in longest_first(lengths) if t < lengths[row]]


def test_rows_are_packed_as_in_the_figure():
    letters = np.array([list("a???"), list("abcd"), list("ab??")])
    batch = PackedBatch.pack(letters, [1, 4, 2])
    assert batch.data.tolist() == ["a", "a", "a", "b", "b", "c", "d"]
    assert batch.packing.rows.tolist() == [1, 2, 0, 1, 2, 1, 1]
    assert batch.packing.times.tolist() == [0, 0, 0, 1, 1, 2, 3]
    assert batch.packing.steps == [(0, 3), (3, 5), (5, 6), (6, 7)]


@given(batches(), st.booleans())
def test_packing_takes_the_real_steps_and_nothing_of_the_padding(batch, time_major):
    x, lengths = batch
    inputs = poisoned(x, lengths)
    packed = PackedBatch.pack(inputs.swapaxes(0, 1) if time_major else inputs, lengths, time_major=time_major)
    expected = [x[row, t] for row, t in places(lengths)]
    np.testing.assert_array_equal(packed.data, np.reshape(expected, (-1, 2)))
    assert list(zip(packed.packing.rows, packed.packing.times, strict=True)) == places(lengths)


@given(batches(), st.booleans())
def test_padding_puts_every_step_back_and_exact_zeros_past_the_ends(batch, time_major):
    x, lengths = batch
    padded = PackedBatch.pack(x, lengths).padded(time_major=time_major)
    np.testing.assert_array_equal(padded.swapaxes(0, 1) if time_major else padded, poisoned(x, lengths, 0.0))


@given(batches())
def test_reversing_turns_every_rows_real_steps_around_and_twice_is_nothing(batch):
    x, lengths = batch
    packed = PackedBatch.pack(x, lengths)
    expected = [x[row, lengths[row] - 1 - t] for row, t in places(lengths)]
    np.testing.assert_array_equal(packed.reversed().data, np.reshape(expected, (-1, 2)))
    np.testing.assert_array_equal(packed.reversed().reversed().data, packed.data)


@given(batches())
def test_a_packing_counts_its_rows_and_steps(batch):
    x, lengths = batch
    packing = PackedBatch.pack(x, lengths).packing
    assert (packing.batch_size, packing.max_time) == x.shape[:2]
    assert packing.total == sum(lengths)
    assert packing.widest == sum(lengths > 0)
    assert packing.is_full == all(lengths == x.shape[1])
    assert [stop - start for start, stop in packing.steps] == [sum(lengths > t) for t in range(max(lengths, default=0))]
    assert [start for start, _ in packing.steps] == [0, *(stop for _, stop in packing.steps)][: len(packing.steps)]


@given(batches())
def test_last_tells_where_each_living_rows_last_step_stands(batch):
    x, lengths = batch
    packed = PackedBatch.pack(x, lengths)
    expected = [x[row, lengths[row] - 1] for row in longest_first(lengths) if lengths[row]]
    np.testing.assert_array_equal(packed.data[packed.packing.last], np.reshape(expected, (-1, 2)))


@given(batches())
def test_states_are_sorted_longest_row_first_and_back_and_never_the_callers_own(batch):
    x, lengths = batch
    packing = PackedBatch.pack(x, lengths).packing
    state = np.arange(len(lengths) * 3).reshape(-1, 3)
    ordered = packing.sorted_state(state)
    np.testing.assert_array_equal(ordered, state[longest_first(lengths)])
    assert not np.shares_memory(ordered, state)
    np.testing.assert_array_equal(packing.unsorted_state(ordered), state)


@given(batches(), st.integers(1, 12))
def test_spans_cut_all_steps_into_runs_of_as_many_rows_each_of_about_the_size_asked_for(batch, rows):
    x, lengths = batch
    packing = PackedBatch.pack(x, lengths).packing
    spans = list(packing.spans(rows))
    assert [start for start, _, _ in spans] == [0, *(stop for _, stop, _ in spans)][: len(spans)]
    assert sum(stop - start for start, stop, _ in spans) == packing.total
    for start, stop, alive in spans:
        assert (stop - start) % alive == 0
        assert stop - start <= max(rows, alive)
    steps = {start: stop - start for start, stop in packing.steps}
    assert all(steps[t] == alive for start, stop, alive in spans for t in range(start, stop, alive))


@given(batches())
def test_concatenated_sequences_pack_as_their_padded_batch(batch):
    x, lengths = batch
    flat = np.concatenate([x[row, :length] for row, length in enumerate(lengths)] or [x.reshape(0, 2)])
    packed = PackedBatch.concatenated(flat, lengths)
    np.testing.assert_array_equal(packed.data, PackedBatch.pack(x, lengths).data)
    assert packed.packing.max_time == max(lengths, default=0)


def test_token_ids_and_arrays_of_any_rank_are_packed_too():
    ids = np.array([[1, 2], [3, 4]])
    assert PackedBatch.pack(ids, [1, 2]).data.tolist() == [3, 1, 4]
    images = np.arange(2 * 2 * 3 * 4).reshape(2, 2, 3, 4)
    np.testing.assert_array_equal(PackedBatch.pack(images, [1, 2]).data, images[[1, 0, 1], [0, 0, 1]])


def test_a_single_step_is_a_batch_of_one_step_of_every_row():
    batch = PackedBatch.single_step(np.array([[1.0], [2.0]]))
    np.testing.assert_array_equal(batch.padded(), [[[1.0]], [[2.0]]])


@pytest.mark.parametrize(("lengths", "expected"), [(None, [3, 3]), ([0, 3], [0, 3]), (np.uint8([1, 2]), [1, 2])])
def test_lengths_become_64_bit_integers_all_of_max_time_if_not_given(lengths, expected):
    checked = check_lengths(lengths, 2, 3)
    assert checked.dtype == np.int64
    assert checked.tolist() == expected


@pytest.mark.parametrize(
    ("lengths", "message", "row"),
    [
        ([1, -1], "length -1 of row 1 is outside 0..3 (max_time)", 1),
        ([4, 1], "length 4 of row 0 is outside 0..3 (max_time)", 0),
        (np.array([1, 2**64 - 1], np.uint64), "length 18446744073709551615 of row 1 is outside 0..3 (max_time)", 1),
        ([2, 1.5], "lengths[1] is 1.5: expected a whole number of time steps", 1),
        ([2.0, 1.0], "lengths[0] is 2.0: expected a whole number of time steps", 0),
        ([2, np.nan], "lengths[1] is nan: expected a whole number of time steps", 1),
        ([True, False], "lengths[0] is True: expected a whole number of time steps", 0),
        (["1", "2"], "lengths[0] is 1: expected a whole number of time steps", 0),
        ([2**70, 1], "lengths[0] is 1180591620717411303424: expected a whole number of time steps", 0),
        ([1], "lengths has 1 entries, the batch has 2 rows: give one per row", None),
        ([1, 2, 3], "lengths has 3 entries, the batch has 2 rows: give one per row", None),
        ([], "lengths has 0 entries, the batch has 2 rows: give one per row", None),
        (3, "lengths must be a list of 2 whole numbers, one per row", None),
        ([[1, 2]], "lengths must be a list of 2 whole numbers, one per row", None),
        ([[1], [1, 2]], "lengths must be a list of 2 whole numbers, one per row", None),
    ],
    ids=str,
)
def test_lengths_that_do_not_fit_are_named_with_their_row(lengths, message, row):
    with pytest.raises(LengthsError) as caught:
        check_lengths(lengths, 2, 3)
    assert caught.value.detail == message
    assert caught.value.where == (("lengths",) if row is None else ("lengths", row))


def test_a_batch_needs_rows_and_steps():
    with pytest.raises(ShapeError, match=r"inputs have shape \[3\], expected \[batch, max_time, …\]") as caught:
        PackedBatch.pack(np.zeros(3))
    assert caught.value.where == ("inputs",)


def test_concatenate_is_the_inverse_of_packing_concatenated_sequences():
    flat = np.arange(14.0).reshape(7, 2)
    packed = PackedBatch.concatenated(flat, [2, 0, 4, 1])
    assert np.array_equal(packed.packing.concatenate(packed.data), flat)


def test_concatenated_sequences_must_add_up_to_their_lengths():
    with pytest.raises(LengthsError, match="lengths add up to 5, the inputs have 4 steps") as caught:
        PackedBatch.concatenated(np.zeros((4, 2)), [2, 3])
    assert caught.value.where == ("lengths",)


def test_a_packing_is_worked_out_from_the_lengths_alone():
    packing = Packing(np.array([0, 2, 1]), 5)
    np.testing.assert_array_equal(packing.pad(np.array([1, 2, 3])), [[0] * 5, [1, 3, 0, 0, 0], [2, 0, 0, 0, 0]])
