"""How a file is cut into windows and batches."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.problems import Problem
from app.scoring.computing import Scorer
from app.scoring.planning import BATCH_ROWS, MIB, Plan
from app.scoring.sequences import Sequences
from tests.app.scoring.made import lstm

PLAN = Plan(window=1000, per_step=10, per_row=5, batch_steps=40)
LENGTHS = st.lists(st.integers(0, 90), max_size=60)


def sequences(lengths, first=0):
    lengths = np.array(lengths, np.int64)
    return Sequences(np.arange(lengths.sum()), lengths, first)


def pieces(lengths, cuts):
    """The same rows, read in pieces that end at `cuts`."""
    some, at = sequences(lengths), 0
    for cut in sorted({min(cut, len(lengths)) for cut in cuts}):
        piece, some = some.cut(cut - at)
        at = cut
        yield piece
    yield some


@given(LENGTHS, st.lists(st.integers(0, 60), max_size=5))
def test_windows_hold_every_step_once_and_do_not_depend_on_how_a_file_was_read(lengths, cuts):
    windows = list(PLAN.windows(pieces(lengths, cuts)))
    assert [w.lengths.tolist() for w in windows] == [w.lengths.tolist() for w in PLAN.windows([sequences(lengths)])]
    assert [length for w in windows for length in w.lengths.tolist()] == lengths
    assert [step for w in windows for step in w.flat.tolist()] == list(range(sum(lengths)))
    assert [w.first for w in windows] == [sum(map(len, windows[:k])) for k in range(len(windows))]


@given(LENGTHS)
def test_a_window_fits_and_one_row_more_would_not(lengths):
    windows = list(PLAN.windows([sequences(lengths)]))
    for window, following in zip(windows, [*windows[1:], None], strict=False):
        cost = PLAN.costs(window.lengths).sum()
        assert cost <= PLAN.window
        assert following is None or cost + PLAN.costs(following.lengths)[0] > PLAN.window


@given(LENGTHS)
def test_windows_go_on_where_others_ended(lengths):
    """What a resumed run cuts is what is left of the undisturbed one's."""
    windows = list(PLAN.windows([sequences(lengths)]))
    for k, window in enumerate(windows):
        _, rest = sequences(lengths).cut(window.first)
        again = PLAN.windows([rest])
        assert [w.lengths.tolist() for w in again] == [w.lengths.tolist() for w in windows[k:]]


@given(st.lists(st.integers(0, 90), max_size=400))
def test_batches_have_every_row_once_the_longest_first_and_few_steps(lengths):
    batches = PLAN.batches(np.array(lengths, np.int64))
    rows = [row for batch in batches for row in batch.tolist()]
    assert sorted(rows) == list(range(len(lengths)))
    assert [lengths[row] for row in rows] == sorted(lengths, reverse=True)
    for batch in batches:
        assert len(batch) <= BATCH_ROWS
        assert len(batch) == 1 or len(batch) * lengths[batch[0]] <= PLAN.batch_steps


def test_a_row_that_is_larger_than_a_window_is_named():
    with pytest.raises(Problem, match="row 1 has 100 steps"):
        list(PLAN.windows([sequences([99, 100])]))


def test_more_memory_makes_larger_windows_up_to_a_bound_and_too_little_is_refused():
    scorer = Scorer(lstm())
    sizes = [Plan.within(memory * MIB, scorer, 2).window for memory in (400, 500, 100_000, 200_000)]
    assert 0 < sizes[0] < sizes[1] < sizes[2] == sizes[3]
    with pytest.raises(Problem, match="give at least 385M"):
        Plan.within(380 * MIB, scorer, 2)
    Plan.within(385 * MIB, scorer, 2)
