"""What the README shows is what happens."""

import os
import re
import shlex
import subprocess
import sys

import numpy as np
import orjson
import pytest
from safetensors.numpy import save

from app import codecs
from app.cli import main
from app.gradients import GradientJobs
from app.jobs import Jobs
from app.registry import Registry
from app.settings import Settings
from tests import documents
from tests.app.client import Server, problem, service
from tests.documents import ROOT, assert_same, text_of

README = text_of(documents.README)
BLOCKS = [(block.kind, block.body) for block in documents.blocks(documents.README)]
CALLS = [
    (body, BLOCKS[k + 1][1])
    for k, (kind, body) in enumerate(BLOCKS[:-1])
    if kind == "sh" and body.startswith("curl ") and BLOCKS[k + 1][0] == "json"
]
(CONFIG,) = re.findall(r"-F config='(\{.*?\})'", README, re.S)


def test_there_are_examples_of_every_cell():
    assert len(CALLS) == 3


@pytest.mark.parametrize(("call", "shown"), CALLS, ids=["lstm", "gru", "gradients"])
def test_curl_calls_give_the_answers_that_are_shown(call, shown):
    words = shlex.split(call)
    assert words[0] == "curl"
    body = words[words.index("-d") + 1].encode()
    settings = Settings()
    registry = Registry(settings)
    understand = {"run": Jobs(settings, registry).unroll, "gradients": GradientJobs(settings, registry).differentiate}
    job = understand[words[1].removeprefix("http://127.0.0.1:8000/")](codecs.DEFAULT.decode(body))
    answer = codecs.DEFAULT.encode(job.run())
    assert_same(orjson.loads(answer), orjson.loads(shown))


def test_the_config_of_a_model_is_understood_and_its_golden_values_are_checked():
    normal = np.random.default_rng(0).standard_normal
    shapes = {
        "decoder.gru.weight_ih_l0": (9, 4),
        "decoder.gru.weight_hh_l0": (9, 3),
        "decoder.emb.weight": (8, 4),
        "encoder.gru.weight_ih_l0": (9, 4),
        "encoder.gru.weight_hh_l0": (9, 3),
        "fc.weight": (2, 3),
        "fc.bias": (2,),
    }
    file = save({name: normal(shape).astype(np.float32) for name, shape in shapes.items()})
    config = orjson.loads(CONFIG)
    golden = config.pop("golden")
    with service() as client:

        def put():
            files = {"files": ("model.safetensors", file)}
            return client.request("PUT", "/models/speller", files=files, data={"config": orjson.dumps(config)})

        told = put()
        assert told.status_code == 201, told.text
        assert told.json()["embedding"] == {"vocabulary_size": 8, "embedding_size": 4}
        assert told.json()["readout"][0]["activation"] == "softmax"
        config["golden"] = golden
        assert "differ from the golden ones" in problem(put(), 422)["detail"]
        inputs = golden["inputs"]
        right = client.answer("/models/speller/run", inputs=inputs)["predictions"]
        config["golden"] = {**golden, "outputs": right}
        assert put().json()["version"] == 2


def test_the_example_of_a_state_token_goes_on_with_it():
    (calls,) = [body for kind, body in BLOCKS if kind == "sh" and '"state_format": "token"' in body]
    (first, second) = re.findall(r"curl http://127\.0\.0\.1:8000(/\w+) .*?-d '(.*?)'", calls, re.S)
    (shown,) = set(re.findall(r'"state": "(ut1\.\w+)…"', calls))
    with service() as client:
        token = client.answer(first[0], **orjson.loads(first[1]))["state"]
        assert token.startswith(shown)
        answer = client.answer(second[0], **orjson.loads(second[1].replace(f"{shown}…", token)))
        assert answer["state"].startswith(shown)
        inputs = [[*orjson.loads(first[1])["inputs"][0], *orjson.loads(second[1])["inputs"]]]
        whole = client.run(cell="gru", num_units=5, inputs=inputs)
    assert answer["output"]["values"][0] == whole["outputs"]["values"][0][2]


def test_the_examples_of_generation_run():
    (body,) = re.findall(r"/models/writer/generate .*?-d '(.*?)'", README, re.S)
    normal = np.random.default_rng(0).standard_normal
    shapes = {"weight_ih_l0": (9, 4), "weight_hh_l0": (9, 3), "emb": (50, 4), "fc": (20, 3)}
    file = save({name: normal(shape).astype(np.float32) for name, shape in shapes.items()})
    config = {"embedding": "emb", "readout": {"weight": "fc", "activation": "softmax"}}
    with service() as client:
        files = {"files": ("model.safetensors", file)}
        client.request("PUT", "/models/writer", files=files, data={"config": orjson.dumps(config)})
        answer = client.answer("/models/writer/generate", **orjson.loads(body))
        assert len(answer["tokens"]) == 4


def test_the_example_of_another_client_runs(tmp_path):
    (code,) = [body for kind, body in BLOCKS if kind == "python" and "triton" in body]
    (body,) = re.findall(r"curl -d '(.*?)' http://127.0.0.1:8000/v1/models/tagger:predict", README)
    normal = np.random.default_rng(0).standard_normal
    shapes = {"weight_ih_l0": (9, 4), "weight_hh_l0": (9, 3), "emb": (50, 4), "fc": (2, 3)}
    file = save({name: normal(shape).astype(np.float32) for name, shape in shapes.items()})
    config = {"embedding": "emb", "readout": {"weight": "fc"}}
    server = Server(dict(os.environ), models=tmp_path)
    try:
        files = {"files": ("model.safetensors", file)}
        told = server.http.put("/models/tagger", files=files, data={"config": orjson.dumps(config)})
        assert told.status_code == 201, told.text
        names = {"np": np}
        exec(compile(code.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}"), "README.md", "exec"), names)
        got = names["client"].infer("tagger", [names["ids"]]).as_numpy("predictions")
        names["client"].close()
        run = server.http.post("/models/tagger/run", json={"inputs": [[4, 8, 15], [16, 23, 42]]}).json()
        assert got.tolist() == np.array(run["predictions"]["values"], np.float32).tolist()
        rows = server.http.post("/v1/models/tagger:predict", content=body).json()["predictions"]
        assert list(map(len, rows)) == [3, 2]
    finally:
        server.stop()


#: Appended to the program that the README shows: what of the picture a test can compare.
LOOKED_AT = """
import json, sys
lines = [line.get_ydata().tolist() for line in plt.gca().lines]
print(json.dumps([lines, plt.gca().get_xlabel(), plt.gca().get_ylabel()]))
"""


def test_the_program_that_plots_a_state_runs_and_has_no_more_than_ten_lines(tmp_path):
    (code,) = [body for kind, body in BLOCKS if kind == "python" and "app.client" in body]
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    server = Server(dict(os.environ))
    try:
        program = code.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}") + LOOKED_AT
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        environment = os.environ | {"MPLBACKEND": "Agg", "MPLCONFIGDIR": str(tmp_path), "PYTHONPATH": path}
        command = [sys.executable, "-W", "error", "-c", program]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        inputs = np.sin(np.linspace(0, 12, 60)).reshape(1, 60, 1).tolist()
        fields = {"cell": "gru", "num_units": 5, "inputs": inputs}
        outputs = server.http.post("/run", json=fields).json()["outputs"]["values"][0]
    finally:
        server.stop()
    lines, across, up = orjson.loads(done.stdout)
    assert np.float32(lines).T.tolist() == np.float32(outputs).tolist()
    assert (across, up) == ("time step t", "state h(t)")
    assert (tmp_path / "states.png").read_bytes()[1:4] == b"PNG"


def test_the_commands_that_are_named_are_there():
    named = set(re.findall(r"(?:`|scripts/)unrolled (\w+)", README))
    assert named == set(main.commands)


def test_the_python_example_runs():
    (code,) = [body for kind, body in BLOCKS if kind == "python" and "rnn_engine" in body]
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["output"].shape == (3, 5)
    assert names["outputs"].shape == (3, 6, 5)
    assert not names["outputs"][1, 4:].any()


def test_the_settings_are_all_there_with_their_defaults():
    rows = dict(re.findall(r"\| `UNROLLED_(\w+)` \| (.*?) \|", README))
    assert set(rows) == {name.upper() for name in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        if field.default_factory is None and field.default is not None:
            assert rows[name.upper()] == str(field.default).lower()
