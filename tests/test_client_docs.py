"""Every block of Python in docs/client.md runs, in its order, and gives what stands beside it."""

import os
import re
from contextlib import chdir, redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from app.client import Client
from app.client.errors import BY_STATUS
from app.client.exchange import FIRST_PAUSE, GRACE
from tests.app.client import Server

PAGE = (Path(__file__).parents[1] / "docs" / "client.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.S)
EMBEDS = {"embedding": "emb", "readout": {"weight": "fc", "activation": "softmax"}}


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """What the page's program has named after each block, run in a folder of its own; `printed` is what it printed."""
    folder = tmp_path_factory.mktemp("client")
    normal = np.random.default_rng(0).standard_normal
    shapes = {"weight_ih_l0": (9, 4), "weight_hh_l0": (9, 3), "emb": (50, 4), "fc": (20, 3)}
    file = {"model.safetensors": save({name: normal(shape).astype(np.float32) for name, shape in shapes.items()})}
    server = Server(dict(os.environ), models=folder / "models")
    found, names = [], {}
    try:
        with chdir(folder), Client(f"http://127.0.0.1:{server.port}") as client:
            for name in ("tagger", "writer"):
                client.models.put(name, file, EMBEDS)
            for k, block in enumerate(BLOCKS):
                code = block.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}")
                with redirect_stdout(StringIO()) as printed:
                    exec(compile(code, f"docs/client.md, block {k}", "exec"), names)
                found.append(names | {"printed": printed.getvalue()})
    finally:
        for there in found:
            there["client"].close()
        server.stop()
    return found


def after(names, text):
    """What was named after the block in which this stands."""
    (k,) = [k for k, block in enumerate(BLOCKS) if text in block]
    return names[k]


def test_arrays_have_the_shapes_that_are_told(names):
    first = after(names, 'answer.model["kernel"]')["answer"]
    assert first.outputs.shape == (3, 6, 5)
    assert not first.outputs[1, 4:].any()
    assert first.state[0]["c"].shape == (3, 5)
    assert after(names, "step.output")["step"].output.shape == (3, 5)
    assert after(names, "step.output")["state"].startswith("ut1.")
    gradients = after(names, 'answer.loss["total"]')["answer"].gradients
    assert gradients["weights"]["layers"][0]["kernel"].shape == (9, 5)
    assert gradients["inputs"][2].shape == (1, 4)


def test_lists_have_the_lengths_that_are_told(names):
    there = after(names, "answer.predictions[1]")
    assert [len(row) for row in there["rows"]] == [6, 4, 1]
    assert [row.shape for row in there["answer"].predictions] == [(3, 20), (2, 20)]
    there = after(names, "unpad(answer.outputs")
    assert there["array"].shape == (3, 6, 4)
    assert there["lengths"].tolist() == [6, 4, 1]


def test_generation_and_streams_come_to_their_ends(names):
    there = after(names, "steps.answer.lengths")
    assert len(there["answer"].tokens) == len(there["steps"].answer.tokens) == 2
    last = after(names, "last.state, last.steps")["last"]
    assert last.steps.tolist() == [3]
    assert last.state[0]["h"].shape == (1, 3)
    assert [answer.outputs.shape for answer in after(names, "asyncio.gather")["answers"]] == [(1, 6, 5)] * 3


def test_models_are_told_of(names):
    told = after(names, 'told["version"]')["told"]
    assert (told["version"], told["layers"][0]["cell"]) == (1, "gru")


def test_the_error_is_the_one_that_is_shown(names):
    there = after(names, "error.pointers")
    (shown,) = re.findall(r"print\(error.pointers\)  # (.*)", BLOCKS[-1])
    detail, pointers = there["printed"].splitlines()
    assert eval(pointers) == eval(shown)
    assert "7" in detail


def test_the_table_of_errors_has_every_status():
    rows = dict(re.findall(r"^\| ([\w, ]+?) \| (.*?) \|$", PAGE, re.M))
    for status, kind in BY_STATUS.items():
        (said,) = [said for names, said in rows.items() if kind.__name__ in names.split(", ")]
        assert str(status) in said
    assert {"UnreachableError", "TimedOutError", "ServiceError"} <= rows.keys()


def test_the_times_are_those_of_the_code():
    assert f"after {GRACE:.0f} s more" in PAGE
    assert f"{FIRST_PAUSE} s, {2 * FIRST_PAUSE} s, {4 * FIRST_PAUSE} s" in PAGE
