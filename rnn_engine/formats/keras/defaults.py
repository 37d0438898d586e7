"""What Keras' recurrent layers do where a file does not say it, by the version that wrote the file.

Up to Keras 2.2 (and in TensorFlow 1's tf.keras) gates had hard_sigmoid and GRU reset before the product; Keras 2.3 has
sigmoid, TensorFlow 2 has sigmoid and resets after. TensorFlow 1.13 to 2.1 all call their Keras "2.2.4-tf".
Sources: `keras/layers/recurrent.py` of Keras 2.2.4 and 2.3.1, `keras/layers/rnn/{lstm,lstm_v1,gru,gru_v1}.py` of 2.12.
"""

from __future__ import annotations

import re

_UNCERTAIN = (2, 2)  # of a version that ends in "-tf"
_LAST_HARD = (2, 2)
_FIRST_RESET_AFTER = (2, 4)  # the first that was TensorFlow's alone


def numbers(version: str | None) -> tuple[int, int] | None:
    """The first two numbers of a version; None where there are none."""
    match = re.match(r"(\d{1,4})\.(\d{1,4})", version or "")
    return (int(match[1]), int(match[2])) if match else None


def is_keras3(version: str | None, otherwise: bool) -> bool:
    """Whether a file is Keras 3's, which means another function by "hard_sigmoid"."""
    found = numbers(version)
    return otherwise if found is None else found[0] >= 3


def recurrent_activation(version: str | None) -> tuple[str, str]:
    """The gates' activation, and why."""
    found = numbers(version)
    if found is None:
        return "sigmoid", "the default of Keras since 2.3; the file names no version"
    if version and version.endswith("-tf") and found == _UNCERTAIN:
        return "sigmoid", f"the default of TensorFlow 2; TensorFlow 1.13 to 1.15 wrote {version} too, with hard_sigmoid"
    if found <= _LAST_HARD:
        return "hard_sigmoid", f"the default of Keras {version}"
    return "sigmoid", f"the default of Keras {version}"


def reset_after(version: str | None) -> tuple[bool, str]:
    """Where a GRU without a bias resets, and why."""
    found = numbers(version)
    if found is None:
        return True, "the default of Keras since TensorFlow 2; the file names no version"
    after = found >= _FIRST_RESET_AFTER or bool(version and version.endswith("-tf") and found >= _UNCERTAIN)
    return after, f"the default of Keras {version}"
