"""PyTorch, Keras and TensorFlow's own dynamic_rnn, asked live where they are installed.

    pip install torch==2.13.0 keras==3.15.1                             for the first two
    pip install tensorflow-cpu==2.21.0 tf_keras==2.21.0                 for the third

Elsewhere these tests are skipped, and the same comparison is made with what was recorded (test_goldens.py).
"""

from __future__ import annotations

import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracles.strategies import keras_cases, pytorch_cases, tensorflow_cases
from tests.rnn_engine import TOLERANCE, answer, assert_close


def quietly(function, *arguments):
    """Calls what belongs to a framework, whose own warnings are not ours to turn into errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arguments)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("framework", "cases", "examples"),
    [("pytorch", pytorch_cases, 150), ("keras", keras_cases, 60), ("tensorflow", tensorflow_cases, 15)],
)
def test_equals_the_framework(framework, cases, examples, dtype):
    oracle = quietly(pytest.importorskip, f"tests.oracles.{framework}")  # sets the environment, imports the framework

    @settings(max_examples=examples)
    @given(case=cases(dtype), time_major=st.booleans())
    def check(case, time_major):
        assert_close(answer(case, time_major=time_major), quietly(oracle.run, case), TOLERANCE[dtype])

    check()
