"""How a token is chosen: against distributions worked out by hand, and against many draws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rnn_engine import EngineError, Network
from rnn_engine.initializers import RandomWords
from rnn_engine.sampling import LOGARITHMS, Sampling, distribution_of, units_of

P = np.array([0.1, 0.4, 0.05, 0.25, 0.2])


def shares(sampling: Sampling, count: int = 4000) -> np.ndarray:
    """How often each token is chosen, by numbers that lie evenly in [0, 1)."""
    units = (np.arange(count) + 0.5) / count
    chosen = sampling.choose(np.tile(np.log(P), (count, 1)), units)
    return np.bincount(chosen, minlength=5) / count


def test_a_temperature_of_0_takes_the_likeliest():
    assert shares(Sampling())[1] == 1


def test_of_equally_likely_tokens_the_one_of_the_least_id_is_taken():
    assert Sampling().choose(np.log([[0.2, 0.4, 0.4]]), np.zeros(1)).tolist() == [1]


def test_a_temperature_of_1_draws_by_the_probabilities():
    np.testing.assert_allclose(shares(Sampling(1.0)), P, atol=5e-4)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_a_temperature_draws_by_their_powers(temperature):
    expected = P ** (1 / temperature)
    np.testing.assert_allclose(shares(Sampling(temperature)), expected / expected.sum(), atol=5e-4)


def test_a_small_temperature_is_the_greedy_choice_and_does_not_overflow():
    assert shares(Sampling(1e-300))[1] == 1
    assert shares(Sampling(5e-324))[1] == 1


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(1.0, top_k=2), [1, 3]),
        (Sampling(1.0, top_k=9), [0, 1, 2, 3, 4]),
        (Sampling(1.0, top_p=0.4), [1]),
        (Sampling(1.0, top_p=0.41), [1, 3]),
        (Sampling(1.0, top_p=0.86), [1, 3, 4, 0]),
        (Sampling(1.0, top_k=3, top_p=0.6), [1, 3]),  # of 0.85 that top_k leaves: 0.4 / 0.85 < 0.6
        (Sampling(2.0, top_k=1), [1]),
    ],
)
def test_top_k_and_top_p_draw_from_the_likeliest_alone(sampling, kept):
    expected = np.zeros(5)
    expected[kept] = P[kept] ** (1 / sampling.temperature)
    np.testing.assert_allclose(shares(sampling), expected / expected.sum(), atol=5e-4)


def test_of_equals_top_k_keeps_those_of_the_least_ids():
    logs = np.log(np.full((200, 4), 0.25))
    chosen = Sampling(1.0, top_k=2).choose(logs, (np.arange(200) + 0.5) / 200)
    assert set(chosen.tolist()) == {0, 1}


@given(
    st.lists(st.floats(0, 1), min_size=2, max_size=6).filter(lambda p: sum(p) > 0),
    st.floats(0, 1, exclude_max=True),
    st.sampled_from([Sampling(1.0), Sampling(0.3), Sampling(1.0, top_k=2), Sampling(1.0, top_p=0.7)]),
)
def test_what_has_no_probability_is_never_drawn(weights, unit, sampling):
    probabilities = np.array(weights) / sum(weights)
    with np.errstate(divide="ignore"):
        chosen = int(sampling.choose(np.log(probabilities)[None], np.array([unit]))[0])
    assert probabilities[chosen] > 0


def test_the_largest_number_below_1_draws_the_last_token_that_has_any_probability():
    with np.errstate(divide="ignore"):
        logs = np.log([[0.3, 0.7, 0.0]])
    assert Sampling(1.0).choose(logs, np.array([1 - 2.0**-53])).tolist() == [1]


def test_rows_are_chosen_each_by_its_own_number():
    logs = np.tile(np.log(P), (3, 1))
    assert Sampling(1.0).choose(logs, np.array([0.05, 0.3, 0.99])).tolist() == [0, 1, 4]


def test_logits_and_log_probabilities_are_what_probabilities_are():
    logits = np.array([[1.0, -2.0, 0.5]])
    p = np.exp(logits) / np.exp(logits).sum()
    for name, given_ in (("linear", logits), ("softmax", p), ("log_softmax", np.log(p))):
        np.testing.assert_allclose(LOGARITHMS[name](given_.copy()), np.log(p), atol=1e-15)


def test_logits_that_are_taken_for_probabilities_are_told():
    with pytest.raises(EngineError, match="`linear`"):
        LOGARITHMS["softmax"](np.array([[1.0, -2.0]]))


@pytest.mark.parametrize(
    ("activation", "expected"),
    [("softmax", "softmax"), (None, "linear"), ("log_softmax", "log_softmax"), ("sigmoid", None), ("tanh", None)],
)
def test_which_readouts_tell_a_distribution(activation, expected):
    readout = {"kernel": np.ones((2, 3)), "activation": activation}
    net = Network.from_seed("gru", 2, 2).with_readout({k: v for k, v in readout.items() if v is not None})
    assert distribution_of(net.readout[-1].act) == expected


def test_a_rows_numbers_follow_from_its_seed_and_its_sample_alone():
    many = units_of([7, 9], 3, 20)
    assert many.shape == (6, 20)
    np.testing.assert_array_equal(many[3:], units_of([9], 3, 20))
    np.testing.assert_array_equal(many[0], RandomWords(7).unit(20))
    np.testing.assert_array_equal(many[:, :5], units_of([7, 9], 3, 5))
    assert len(np.unique(many)) == many.size


def test_numbers_of_samples_are_the_same_on_every_machine():
    # by NumPy's PCG64 of [5, 1], its words shifted by 11 bits and divided by 2**53
    np.testing.assert_array_equal(units_of([5], 2, 2)[1], [0.7742041803738812, 0.47072268318809307])
