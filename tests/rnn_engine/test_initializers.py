"""Initialisers: TensorFlow's distributions, and a seed that means the same weights everywhere and for ever."""

from __future__ import annotations

import hashlib
import math
from statistics import NormalDist

import numpy as np
import pytest

from rnn_engine import BasicLSTMCell, BasicRNNCell, GRUCell, LSTMCell, Network
from rnn_engine.errors import OptionError
from rnn_engine.initializers import (
    INITIALIZERS,
    RandomWords,
    constant,
    draw,
    fans,
    orthogonal,
    random_normal,
    random_uniform,
    truncated_normal,
    variance_scaling,
)

# -- the stream -------------------------------------------------------------------------------------------------------


def test_uniform_numbers_are_the_known_ones_of_pcg64():
    """NumPy's documented stream: the first numbers of `np.random.default_rng(0).random()`."""
    known = [0.6369616873214543, 0.2697867137638703, 0.04097352393619469, 0.016527635528529094]
    np.testing.assert_array_equal(RandomWords(0).unit(4), known)


def test_normal_numbers_come_in_pairs_by_box_and_muller():
    u, v = RandomWords(5).unit(2)
    radius, angle = math.sqrt(-2 * math.log(1 - u)), 2 * math.pi * v
    expected = [radius * math.cos(angle), radius * math.sin(angle)]
    np.testing.assert_allclose(RandomWords(5).normal(2), expected, rtol=1e-14)


def test_a_stream_goes_on_where_it_stopped_whatever_the_sizes_asked_for():
    words = RandomWords(3)
    pieces = np.concatenate([words.unit(count) for count in (1, 70_000, 0, 9)])
    np.testing.assert_array_equal(pieces, RandomWords(3).unit(70_010))


def test_seeds_are_64_bit_integers_signed_or_not():
    np.testing.assert_array_equal(RandomWords(-1).unit(3), RandomWords(2**64 - 1).unit(3))
    assert RandomWords(1).unit(1) != RandomWords(2).unit(1)


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1, 1.0, True, "1", None])
def test_other_seeds_are_refused(seed):
    with pytest.raises(
        OptionError, match=r"seed is .*: expected a whole number from -2\*\*63 to 2\*\*64 - 1"
    ) as caught:
        RandomWords(seed)
    assert caught.value.where == ("seed",)


# -- distributions ----------------------------------------------------------------------------------------------------

SHAPE = (300, 500)
PHI = NormalDist().cdf


def uniform_below(limit):
    return lambda x: (x + limit) / (2 * limit)


def normal_below(deviation):
    return lambda x: PHI(x / deviation)


def truncated_below(variance):
    """The normal distribution cut at two of its standard deviations, of which it then has .8796 left."""
    uncut = math.sqrt(variance) / 0.87962566103423978
    return lambda x: (PHI(x / uncut) - PHI(-2)) / (PHI(2) - PHI(-2))


DISTRIBUTIONS = {  # for fan_in 300, fan_out 500: glorot takes their mean, he and lecun fan_in
    "random_uniform": (uniform_below(0.05), 0.05),
    "random_normal": (normal_below(0.05), math.inf),
    "truncated_normal": (truncated_below((0.05 * 0.87962566103423978) ** 2), 0.1),
    "glorot_uniform": (uniform_below(math.sqrt(6 / 800)), math.sqrt(6 / 800)),
    "glorot_normal": (truncated_below(2 / 800), 2.28 * math.sqrt(2 / 800)),
    "he_uniform": (uniform_below(math.sqrt(6 / 300)), math.sqrt(6 / 300)),
    "he_normal": (truncated_below(2 / 300), 2.28 * math.sqrt(2 / 300)),
    "lecun_uniform": (uniform_below(math.sqrt(3 / 300)), math.sqrt(3 / 300)),
    "lecun_normal": (truncated_below(1 / 300), 2.28 * math.sqrt(1 / 300)),
}


def test_every_random_initializer_has_its_distribution_here():
    assert set(INITIALIZERS) - set(DISTRIBUTIONS) == {"zeros", "ones", "orthogonal"}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_values_are_distributed_as_the_name_says(name):
    share_below, bound = DISTRIBUTIONS[name]
    values = np.sort(draw(name, SHAPE, RandomWords(1), "float64").ravel())
    assert np.abs(values).max() <= bound
    at = np.linspace(0, len(values) - 1, 400).astype(int)
    expected = np.array([share_below(value) for value in values[at]])
    np.testing.assert_allclose(at / len(values), expected, atol=0.006)  # Kolmogorov and Smirnov: .0042 for p = .01


@pytest.mark.parametrize(
    ("initializer", "mean", "deviation"),
    [
        (random_uniform(1, 3), 2, 2 / math.sqrt(12)),
        (random_normal(2, 0.5), 2, 0.5),
        (truncated_normal(2, 0.5), 2, 0.5 * 0.87962566103423978),
        (variance_scaling(3.0, "fan_out", "normal"), 0, math.sqrt(3 / 500)),
        (variance_scaling(1.0, "fan_avg", "uniform"), 0, math.sqrt(1 / 400)),
    ],
)
def test_mean_and_deviation_are_those_asked_for(initializer, mean, deviation):
    values = draw(initializer, SHAPE, RandomWords(2), "float64")
    assert values.mean() == pytest.approx(mean, abs=0.01 * deviation)
    assert values.std() == pytest.approx(deviation, rel=0.01)


def test_constants():
    np.testing.assert_array_equal(draw("zeros", (2, 3), RandomWords(0)), np.zeros((2, 3), np.float32))
    np.testing.assert_array_equal(draw("ones", (2,), RandomWords(0), "float64"), np.ones(2))
    np.testing.assert_array_equal(draw(constant(-2.5), (2,), RandomWords(0)), np.full(2, -2.5, np.float32))


@pytest.mark.parametrize("shape", [(5, 5), (8, 3), (3, 8), (2, 3, 4)])
def test_orthogonal_has_orthonormal_rows_or_columns_whichever_are_fewer(shape):
    matrix = draw(orthogonal(2.0), shape, RandomWords(4), "float64").reshape(-1, shape[-1])
    short = matrix if len(matrix) < matrix.shape[1] else matrix.T
    np.testing.assert_allclose(short @ short.T, 4 * np.eye(len(short)), atol=1e-12)


def test_orthogonal_is_a_normal_matrix_made_orthonormal_column_by_column():
    """Gram and Schmidt: what QR gives where R's diagonal is positive, which makes it unique."""
    normal = RandomWords(4).normal(15).reshape(5, 3)
    r = draw("orthogonal", (5, 3), RandomWords(4), "float64").T @ normal
    np.testing.assert_allclose(np.tril(r, -1), 0, atol=1e-12)
    assert (np.diag(r) > 0).all()


@pytest.mark.parametrize(
    ("shape", "expected"), [((), (1, 1)), ((7,), (7, 7)), ((2, 3), (2, 3)), ((5, 4, 2, 3), (40, 60))]
)
def test_fans_are_counted_as_in_tensorflow(shape, expected):
    assert fans(shape) == expected


def test_an_unknown_initializer_is_refused_and_the_known_ones_named():
    with pytest.raises(OptionError, match=r"unknown initializer 'glorot'\. Known: zeros, ones, .*orthogonal"):
        draw("glorot", (1,), RandomWords(0))


# -- the weights of cells and networks --------------------------------------------------------------------------------


def glorot_limit(rows, columns):
    return math.sqrt(6 / (rows + columns))


def blocks_with_limits(cell, input_size):
    """Drawn parameters with the limit that TensorFlow's own shapes give: one kernel [D + O, columns] a product."""
    units, rows = cell.num_units, input_size + cell.output_size
    kernel = np.concatenate([cell.parameters["kernel"], cell.parameters["recurrent_kernel"]], axis=1)  # [G, D + O, U]
    split = [2, 1] if isinstance(cell, GRUCell) else [len(kernel)]
    for block, gates in zip(np.split(kernel, np.cumsum(split)[:-1]), split, strict=True):
        yield block[:, :input_size], glorot_limit(rows, gates * units)
        yield block[:, input_size:], glorot_limit(rows, gates * units)
    if "projection_kernel" in cell.parameters:
        yield cell.parameters["projection_kernel"], glorot_limit(units, cell.output_size)
    for name in ("w_i_diag", "w_f_diag", "w_o_diag"):
        if name in cell.parameters:
            yield cell.parameters[name], glorot_limit(units, units)


@pytest.mark.parametrize(
    "cell",
    [BasicRNNCell(60), GRUCell(60), BasicLSTMCell(60), LSTMCell(300, use_peepholes=True, num_proj=40)],
    ids=["rnn", "gru", "basic lstm", "lstm with peepholes and projection"],
)
def test_a_cell_draws_its_kernels_with_the_fans_of_tensorflows_combined_kernel(cell):
    cell.initialize(30, RandomWords(0), "float64")
    for values, limit in blocks_with_limits(cell, 30):
        assert limit * 0.97 < np.abs(values).max() < limit
        assert values.std() == pytest.approx(limit / math.sqrt(3), rel=0.1)


@pytest.mark.parametrize(
    ("cell", "by_gate"), [(BasicRNNCell(3), [0]), (GRUCell(3), [1, 1, 0]), (BasicLSTMCell(3), [0, 0, 0, 0])]
)
def test_biases_begin_as_tensorflows(cell, by_gate):
    """A fresh GRU neither resets nor updates; an LSTM's forget_bias is not in its bias."""
    cell.initialize(2, RandomWords(0))
    np.testing.assert_array_equal(cell.parameters["bias"], np.repeat(np.float32(by_gate), 3).reshape(-1, 3))


def digest(net):
    """A hash of all weights, layer by layer, in the order of their names."""
    sha = hashlib.sha256()
    for layer in net.layers:
        for cell in layer.cells.values():
            for name in sorted(cell.parameters):
                sha.update(cell.parameters[name].astype(cell.dtype.newbyteorder("<")).tobytes())
    return sha.hexdigest()[:16]


PINNED = {  # cell, units, seed, dtype, bidirectional -> digest, for 4 inputs
    ("rnn", (5,), 0, "float32", False): "a669123b12066f31",
    ("lstm", (5, 5), 0, "float32", False): "5698c4b0dad29de0",
    ("lstm", (5, 5), 0, "float64", False): "6ff09432bcda8abc",
    ("gru", (5, 3), 0, "float32", False): "ff25ca776f31c352",
    ("gru", (4,), -1, "float64", True): "1d808fd127a1fd91",
    ("lstm", (128, 128), 12345678901234567890, "float32", True): "85ea31dd9d457e09",
}


@pytest.mark.parametrize(("arguments", "expected"), PINNED.items(), ids=str)
def test_a_seed_means_the_same_weights_everywhere(arguments, expected):
    """To make anew (which changes what every seed means): print what `digest` gives."""
    cell, units, seed, dtype, bidirectional = arguments
    assert digest(Network.from_seed(cell, list(units), 4, seed, dtype, bidirectional=bidirectional)) == expected


def test_weights_are_the_known_numbers_of_the_stream_scaled_to_the_limit():
    kernel = Network.from_seed("rnn", 4, 1, 0, "float64").layers[0].first.parameters["kernel"].ravel()
    known = np.array([0.6369616873214543, 0.2697867137638703, 0.04097352393619469, 0.016527635528529094])
    np.testing.assert_allclose(kernel, glorot_limit(1 + 4, 4) * (2 * known - 1), rtol=1e-14)


def test_the_layers_above_do_not_change_what_a_layer_draws():
    one, three = (Network.from_seed("gru", [4] * count, 3, seed=9, bidirectional=True) for count in (1, 3))
    for side, cell in one.layers[0].cells.items():
        for name, array in cell.parameters.items():
            np.testing.assert_array_equal(three.layers[0].cells[side].parameters[name], array)


def test_layers_and_directions_draw_different_weights_and_so_do_seeds():
    nets = [Network.from_seed("rnn", [2, 2], 4, seed, bidirectional=True) for seed in (0, 1)]
    cells = [cell for net in nets for layer in net.layers for cell in layer.cells.values()]
    assert len({cell.parameters["kernel"].tobytes() for cell in cells}) == len(cells) == 8


def test_float32_weights_are_the_float64_ones_rounded():
    wide, narrow = (Network.from_seed("lstm", 3, 2, 5, dtype).layers[0].first for dtype in ("float64", "float32"))
    for name, array in wide.parameters.items():
        np.testing.assert_array_equal(narrow.parameters[name], array.astype(np.float32))
