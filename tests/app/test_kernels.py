"""Which code computes, told in answers, in the log and by the command line; and the bits that it promises over HTTP."""

import json
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from app.cli import main
from rnn_engine import kernels
from tests.app.client import ROOT, array, arrays, service

pytestmark = pytest.mark.skipif(kernels.here() is None, reason=kernels.why_not())

RANDOM = np.random.default_rng(8)
X = RANDOM.normal(size=(7, 9, 6)).astype(np.float32)
LENGTHS = [9, 3, 0, 7, 9, 1, 5]
NET = {"cell": "lstm", "num_units": [21, 10], "seed": 3}
READOUT = {"kernel": RANDOM.normal(size=(10, 33)).tolist(), "bias": [0.1] * 33, "activation": "softmax"}
WITHOUT = "import sys; sys.modules['llvmlite'] = None; from app.cli import main; main()"


@pytest.mark.parametrize(
    ("fields", "kernel"),
    [
        ({}, "fused"),
        ({"dtype": "float64"}, "numpy"),
        ({"bidirectional": True}, "fused"),
        ({"cell_options": {"activation": "softsign"}}, "numpy"),
        ({"cell_options": {"activation": "relu", "use_peepholes": True, "num_proj": 3, "proj_clip": 1.0}}, "fused"),
        ({"cell": "gru", "cell_options": {"recurrent_activation": "hard_sigmoid"}}, "fused"),
        ({"cell": "rnn", "cell_options": {"activation": {"name": "leaky_relu", "alpha": 0.2}}}, "numpy"),
    ],
)
def test_an_answer_says_what_computed_it(client, fields, kernel):
    assert client.run(**NET | fields, inputs=X.tolist())["model"]["kernel"] == kernel


def bits(answer, *names):
    return [array(answer[name]).view(np.uint32) for name in names]


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_a_row_has_the_same_bits_alone_and_in_any_batch_predictions_too(client, cell):
    request = NET | {"cell": cell, "readout": READOUT}
    whole = client.run(**request, inputs=X.tolist(), lengths=LENGTHS)
    outputs, predictions = bits(whole, "outputs", "predictions")
    for rows in ([1], [6, 0], [5, 4, 3, 1, 0]):
        some = client.run(**request, inputs=X[rows].tolist(), lengths=[LENGTHS[row] for row in rows])
        for got, expected in zip(bits(some, "outputs", "predictions"), (outputs, predictions), strict=True):
            assert np.array_equal(got, expected[rows])
    state = None
    for t in range(9):
        step = client.step(**request, inputs=X[:1, t].tolist(), state=state)
        state = step["state"]
        assert np.array_equal(bits(step, "output", "predictions")[0], outputs[:1, t])
        assert np.array_equal(bits(step, "output", "predictions")[1], predictions[:1, t])
    for got, expected in zip(arrays(state), arrays(whole["state"]), strict=True):
        assert all(np.array_equal(got[name][0], expected[name][0]) for name in expected)


def test_threads_change_no_bit():
    wide = {"cell": "gru", "num_units": 200, "inputs": RANDOM.normal(size=(9, 40, 30)).tolist()}
    answers = []
    for threads in (1, 3):
        with service(threads=threads) as client:
            answers.append(client.run(**wide))
    assert answers[0] == answers[1]


def test_the_plain_loop_can_be_asked_for():
    with service(kernel="numpy") as client:
        answer = client.run(**NET, inputs=X.tolist())
    assert answer["model"]["kernel"] == "numpy"
    with service() as client:
        fused = client.run(**NET, inputs=X.tolist())
    assert fused["model"]["kernel"] == "fused"
    assert np.allclose(array(answer["outputs"]), array(fused["outputs"]), rtol=0, atol=1e-6)


def test_a_model_says_what_computes_it():
    files = {"files": ("m.safetensors", small_model(), "application/octet-stream")}
    with service() as client:
        told = client.request("PUT", "/models/told", files=files).json()
        assert told["kernel"] == "fused"
        assert client.run(model="told", inputs=[[[0.5]]])["model"]["kernel"] == "fused"


def small_model():
    """A basic RNN of one unit, in PyTorch's names."""
    header = {
        name: {"dtype": "F32", "shape": [1, 1], "data_offsets": [4 * k, 4 * k + 4]}
        for k, name in enumerate(("weight_ih_l0", "weight_hh_l0"))
    }
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + np.array([1, 0.5], np.float32).tobytes()


# -- the command line --------------------------------------------------------------------------------------------------


def test_the_command_line_tells_what_computes_here():
    told = json.loads(CliRunner().invoke(main, ["inspect", "--cpu", "--json"]).stdout)
    assert told["kernel"] == "fused"
    assert {"cpu", "instructions", "tile", "compiled", "cached", "cache"} <= set(told)
    assert any("core" in name for name in [*told["compiled"], *told["cached"]])
    lines = CliRunner().invoke(main, ["inspect", "--cpu"]).stdout
    assert told["instructions"] in lines
    assert told["tile"] in lines


@pytest.mark.parametrize("arguments", [[], ["--cpu", str(ROOT / "README.md")]])
def test_files_or_the_cpu_are_inspected_and_not_both(arguments):
    result = CliRunner().invoke(main, ["inspect", *arguments])
    assert result.exit_code == 2
    assert "give the files of a model, or --cpu" in result.stderr


def test_without_llvm_the_command_line_says_what_computes_and_why():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, "inspect", "--cpu"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    assert "numpy" in done.stdout
    assert "llvmlite" in done.stdout


def test_a_kernel_that_must_be_there_and_is_not_stops_the_start_with_one_sentence():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, "serve", "--kernel", "fused"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "UNROLLED_KERNEL" in done.stderr
    assert "llvmlite" in done.stderr
