"""What PyTorch, Keras and TensorFlow's own dynamic_rnn computed, recorded once: the engine must compute the same.

To regenerate the goldens: `python -m tests.oracles.record_pytorch` (`record_keras`, `record_tensorflow`), in the
environments that these files describe. Outside this repository there may also be a trained net, which is used if so.
"""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from rnn_engine import GRUCell, Network, raw_rnn
from tests.oracles.case import load
from tests.rnn_engine import TOLERANCE, answer, assert_close, poisoned

GOLDENS = Path(__file__).parents[1] / "goldens"
RECORDED = {path.stem: load(path) for path in sorted(GOLDENS.glob("*.npz"))}

TRAINED = Path(__file__).parents[3] / "shared" / "cases" / "g2p_en_gru"
needs_trained = pytest.mark.skipif(not TRAINED.is_dir(), reason=f"{TRAINED} is not there")


@pytest.mark.parametrize("framework", ["keras", "pytorch", "tensorflow"])
def test_goldens_hold_every_cell_in_both_types_with_and_without_lengths_and_state(framework):
    kinds = {
        (case.cell, case.dtype, case.lengths is not None, case.initial_state is not None)
        for case, _ in RECORDED[framework]
    }
    for part, values in enumerate((("rnn", "gru", "lstm"), ("float32", "float64"), (False, True), (False, True))):
        assert {kind[part] for kind in kinds} == set(values)
    assert {kind[:2] for kind in kinds} == set(product(("rnn", "gru", "lstm"), ("float32", "float64")))


@pytest.mark.parametrize("time_major", [False, True], ids=["batch-major", "time-major"])
@pytest.mark.parametrize(
    ("case", "golden"),
    [pytest.param(*pair, id=f"{name}: {pair[0].name}") for name, pairs in RECORDED.items() for pair in pairs],
)
def test_equals_what_the_framework_computed(case, golden, time_major):
    assert_close(answer(case, time_major=time_major), golden, TOLERANCE[case.dtype])


@needs_trained
def test_a_trained_encoder_computes_what_its_own_package_does():
    case = np.load(TRAINED / "case.npz")
    net = Network.from_weights({"layout": "pytorch", "state_dict": load_file(TRAINED / "weights.safetensors")}, "gru")
    outputs, state = net.run(poisoned(case["x"], case["lengths"]), case["lengths"])
    assert_close((outputs, state), (case["y"], [{"h": case["h_n"][0]}]), 2e-5)


@needs_trained
def test_a_trained_decoder_predicts_what_its_own_package_does():
    case, tensors = np.load(TRAINED / "decoder_case.npz"), load_file(TRAINED / "decoder_weights.safetensors")
    recurrent = {name: array for name, array in tensors.items() if name.endswith("_l0")}
    readout = {"weight": tensors["fc.weight"], "bias": tensors["fc.bias"], "activation": "softmax"}
    net = Network.from_weights({"layout": "pytorch", "state_dict": recurrent}, "gru").with_readout(readout)
    result = net.forward(net.pack(poisoned(case["x"], case["lengths"]), case["lengths"]), [{"h": case["h0"][0]}])
    assert_close(result.outputs.padded(), case["y"], 2e-5)
    real = np.arange(case["x"].shape[1]) < case["lengths"][:, None]
    np.testing.assert_allclose(result.predictions.padded()[real], case["probs"][real], rtol=0, atol=2e-5)


@needs_trained
def test_a_trained_encoder_and_decoder_spell_words_in_phonemes():
    """One to many: the decoder's next input is the embedding of the phoneme that it has just put out."""
    known = json.loads((TRAINED / "e2e.json").read_text())
    tensors = load_file(TRAINED / "decoder_weights.safetensors")
    encoder = {"layout": "pytorch", "state_dict": load_file(TRAINED / "weights.safetensors")}
    recurrent = {"layout": "pytorch", "state_dict": {k: v for k, v in tensors.items() if k.endswith("_l0")}}
    decoder = Network.from_weights(recurrent, "gru").layers[0].first
    assert isinstance(decoder, GRUCell)
    for word, phonemes in known["phonemes_expected"].items():
        letters = [known["graphemes"].index(letter) for letter in [*word, "</s>"]]
        _, state = Network.from_weights(encoder, "gru").run(tensors["enc_emb"][letters][None])

        def spell(time, output, cell_state, _, start=state[0]["h"]):
            if output is None:
                first = tensors["dec_emb"][[known["start_id"]]]
                return np.array([False]), first, start, np.int64(0), None
            phoneme = (output @ tensors["fc.weight"].T + tensors["fc.bias"]).argmax(axis=1)
            ended = (phoneme == known["stop_id"]) | (time == known["max_steps"])
            return ended, tensors["dec_emb"][phoneme], cell_state, phoneme, None

        emitted, _, _ = raw_rnn(decoder, spell)
        assert [known["phonemes"][k] for k in emitted[:-1, 0]] == phonemes
