"""The examples do what they say. They need what they show: without the package g2p_en this is skipped.

pip install --no-deps g2p_en==2.1.0
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
WORDS = ["recurrent", "kubernetes", "blorptastic", "a", "phonemizer", "don't"]

G2P = importlib.util.find_spec("g2p_en")
pytestmark = pytest.mark.skipif(G2P is None, reason="g2p_en is not installed")


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def gru_step(v: dict[str, np.ndarray], side: str, token: int, h: np.ndarray) -> np.ndarray:
    """PyTorch's GRU written out, in float64: gates r, z, n; the reset gate acts after the product."""
    x = v[f"{side}_emb"][token]
    i_r, i_z, i_n = np.split(v[f"{side}_w_ih"] @ x + v[f"{side}_b_ih"], 3)
    h_r, h_z, h_n = np.split(v[f"{side}_w_hh"] @ h + v[f"{side}_b_hh"], 3)
    n = np.tanh(i_n + sigmoid(i_r + h_r) * h_n)
    z = sigmoid(i_z + h_z)
    return (1 - z) * n + z * h


def phonemes(v: dict[str, np.ndarray], word: str) -> list[int]:
    """What the published weights make of a word: greedy decoding, as g2p_en's `predict` does it."""
    h = np.zeros(v["enc_w_hh"].shape[1])
    for letter in word:
        h = gru_step(v, "enc", "abcdefghijklmnopqrstuvwxyz".find(letter) + 3 if letter.isalpha() else 1, h)
    h = gru_step(v, "enc", 2, h)
    said, last = [], 2
    for _ in range(20):
        h = gru_step(v, "dec", last, h)
        last = int(np.argmax(v["fc_w"] @ h + v["fc_b"]))
        if last == 3:
            break
        said.append(last)
    return said


@pytest.fixture(scope="module")
def spelled() -> dict[str, list[str]]:
    command = [sys.executable, "examples/spell.py", *WORDS]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("UNROLLED_")}
    done = subprocess.run(
        command, cwd=ROOT, env={**environment, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    return {word: said for word, *said in lines}


def test_words_are_spelled_as_the_published_weights_spell_them(spelled):
    source = (ROOT / "examples" / "spell.py").read_text()
    names = source.partition('PHONEMES = """')[2].partition('"""')[0].lstrip(chr(92)).split()
    with np.load(Path(G2P.origin).with_name("checkpoint20.npz")) as stored:
        arrays = {name: stored[name].astype(np.float64) for name in stored.files}
    assert spelled == {word: [names[k] for k in phonemes(arrays, word)] for word in WORDS}


def test_a_word_sounds_right(spelled):
    assert spelled["recurrent"] == ["R", "IH0", "K", "ER1", "AH0", "N", "T"]
