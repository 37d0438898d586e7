"""Initialisers with the distributions of TensorFlow's, from a stream of random words that never changes.

NumPy promises the raw words of a BitGenerator for ever, but not what `Generator.uniform` makes of them; so the
floats are made here. Uniform values take only exact operations (a shift, a product, a square root), hence the same
seed gives the same bits on any machine; normal values pass through log and cos and agree to rounding.
Values are drawn in float64 and rounded to the dtype that is asked for.
Source: `tensorflow/python/ops/init_ops.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from rnn_engine.errors import OptionError, shown
from rnn_engine.types import Array, float_dtype

Shape: TypeAlias = "tuple[int, ...]"

#: Seeds are taken as 64-bit integers, signed or not: -1 is the seed 2**64 - 1.
MIN_SEED, MAX_SEED = -(2**63), 2**64 - 1

_BLOCK = 1 << 16


class RandomWords:
    """An endless stream of random numbers from a seed: `PCG64(seed)`, read as raw 64-bit words.

    A seed has other streams too, one for every `stream` but 0: `PCG64([seed, stream])`.
    """

    def __init__(self, seed: int, stream: int = 0) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int) or not MIN_SEED <= seed <= MAX_SEED:
            raise OptionError(f"seed is {shown(seed)}: expected a whole number from -2**63 to 2**64 - 1", "seed")
        self._bits = np.random.PCG64([seed % 2**64, stream] if stream else seed % 2**64)

    def unit(self, count: int) -> Array:
        """[count] float64 in [0, 1), multiples of 2**-53: the upper 53 bits of each word."""
        values = np.empty(count)
        for start in range(0, count, _BLOCK):  # so that the words of a large variable never stand beside it
            block = values[start : start + _BLOCK]
            words = np.asarray(self._bits.random_raw(block.size), dtype=np.uint64)
            np.multiply(words >> np.uint64(11), 2.0**-53, out=block)
        return values

    def normal(self, count: int) -> Array:
        """[count] float64, standard normal, by Box and Muller: two words make two values."""
        radius, angle = self.unit(2 * ((count + 1) // 2)).reshape(2, -1)
        radius = np.sqrt(-2 * np.log1p(-radius))
        return np.concatenate([radius * np.cos(2 * math.pi * angle), radius * np.sin(2 * math.pi * angle)])[:count]


Initializer: TypeAlias = Callable[[Shape, RandomWords], Array]


def fans(shape: Shape) -> tuple[int, int]:
    """(fan_in, fan_out) of a variable, as TensorFlow's `_compute_fans` counts them: a vector's are both its size."""
    if len(shape) < 2:
        return (shape[0], shape[0]) if shape else (1, 1)
    field = math.prod(shape[:-2])
    return shape[-2] * field, shape[-1] * field


def constant(value: float = 0.0) -> Initializer:
    """Every element `value`."""
    return lambda shape, words: np.full(shape, value, dtype=np.float64)


def random_uniform(minval: float = -0.05, maxval: float = 0.05) -> Initializer:
    """Uniform in [minval, maxval)."""

    def draw(shape: Shape, words: RandomWords) -> Array:
        values = words.unit(math.prod(shape)).reshape(shape)
        values *= maxval - minval
        values += minval
        return values

    return draw


def random_normal(mean: float = 0.0, stddev: float = 0.05) -> Initializer:
    """Normal."""
    return lambda shape, words: mean + stddev * words.normal(math.prod(shape)).reshape(shape)


def truncated_normal(mean: float = 0.0, stddev: float = 0.05) -> Initializer:
    """Normal, with values further than two standard deviations from the mean drawn again."""

    def draw(shape: Shape, words: RandomWords) -> Array:
        count = math.prod(shape)
        kept = np.empty(0)
        while kept.size < count:
            more = words.normal(count - kept.size)
            kept = np.concatenate([kept, more[np.abs(more) <= 2]])
        return mean + stddev * kept.reshape(shape)

    return draw


def variance_scaling(scale: float = 1.0, mode: str = "fan_in", distribution: str = "truncated_normal") -> Initializer:
    """Variance scale / n, n by `mode`: "fan_in", "fan_out" or "fan_avg"; "uniform", "normal" or "truncated_normal"."""

    def draw(shape: Shape, words: RandomWords) -> Array:
        fan_in, fan_out = fans(shape)
        n = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[mode]
        variance = scale / max(1.0, n)
        if distribution == "uniform":
            limit = math.sqrt(3 * variance)
            return random_uniform(-limit, limit)(shape, words)
        if distribution == "normal":
            return random_normal(0, math.sqrt(variance))(shape, words)
        # .8796… is the standard deviation of a unit normal that is truncated at 2
        return truncated_normal(0, math.sqrt(variance) / 0.87962566103423978)(shape, words)

    return draw


def orthogonal(gain: float = 1.0) -> Initializer:
    """A random orthogonal matrix (by QR of a normal one), rows or columns orthonormal, whichever are fewer."""

    def draw(shape: Shape, words: RandomWords) -> Array:
        rows, columns = math.prod(shape[:-1]), shape[-1]
        q, r = np.linalg.qr(words.normal(rows * columns).reshape(max(rows, columns), min(rows, columns)))
        q *= np.sign(np.diag(r))  # makes the distribution uniform, and the decomposition unique
        return gain * (q.T if rows < columns else q).reshape(shape)

    return draw


#: Keras' and TensorFlow's names. glorot_uniform is what `tf.get_variable`, hence every cell's kernel, defaults to.
INITIALIZERS: dict[str, Initializer] = {
    "zeros": constant(0.0),
    "ones": constant(1.0),
    "random_uniform": random_uniform(),
    "random_normal": random_normal(),
    "truncated_normal": truncated_normal(),
    "glorot_uniform": variance_scaling(1.0, "fan_avg", "uniform"),
    "glorot_normal": variance_scaling(1.0, "fan_avg"),
    "he_uniform": variance_scaling(2.0, "fan_in", "uniform"),
    "he_normal": variance_scaling(2.0, "fan_in"),
    "lecun_uniform": variance_scaling(1.0, "fan_in", "uniform"),
    "lecun_normal": variance_scaling(1.0, "fan_in"),
    "orthogonal": orthogonal(),
}


def draw(initializer: str | Initializer, shape: Shape, words: RandomWords, dtype: Any = "float32") -> Array:
    """A new array of `shape` and `dtype`, drawn by an initialiser or by the name of one."""
    if isinstance(initializer, str):
        if initializer not in INITIALIZERS:
            raise OptionError(f"unknown initializer {initializer!r}. Known: {', '.join(INITIALIZERS)}")
        initializer = INITIALIZERS[initializer]
    return initializer(shape, words).astype(float_dtype(dtype))
