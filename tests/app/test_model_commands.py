"""`unrolled inspect`, `import`, `models` and `run`: the service's own answers, without a server."""

import json
import time

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save, save_file

from app.cli import main
from tests.app.client import array
from tests.app.test_models import GRU, IDS, LENGTHS, LSTM, READER, READING, X, oracle, read_by_hand, state_dict

OUTPUTS = oracle(GRU, "gru", X, [5, 5, 5])[0]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with files in it, which is also the current one; its `store` is the model folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNROLLED_MODELS", str(tmp_path / "store"))
    save_file(GRU, "gru.safetensors")
    save_file(LSTM, "lstm.safetensors")
    save_file(READER, "reader.safetensors")
    (tmp_path / "reading.json").write_text(json.dumps(READING))
    (tmp_path / "x.json").write_text(json.dumps({"inputs": X.tolist(), "lengths": LENGTHS}))
    np.savez("x.npz", inputs=X, lengths=LENGTHS)
    return tmp_path


def done(*arguments):
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == 0, result.output
    return result


def refused(*arguments, **environment):
    """The one sentence that a command ends with which was given something wrong."""
    result = CliRunner().invoke(main, list(arguments), env=environment)
    assert result.exit_code == 2, f"{result.exit_code}: {result.output} {result.exception!r}"
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return result.stderr


def answered(result):
    return array(json.loads(result.stdout)["outputs"])


# -- inspect and import ------------------------------------------------------------------------------------------------


def test_inspect_says_what_would_be_understood_and_stores_nothing(folder):
    text = done("inspect", "reader.safetensors", "--config", "reading.json").stdout
    for words in ("pytorch", "gru", "4 → 6", "7 × 4", "6 → 5", "softmax", "enc.weight_hh_l0", "fc.weight"):
        assert words in text
    assert not (folder / "store").exists()


def test_inspect_as_json_is_the_metadata_of_an_import(folder):
    inspected = json.loads(done("inspect", "--json", "reader.safetensors", "--config", json.dumps(READING)).stdout)
    arguments = ["import", "--json", "reader.safetensors", "--name", "reader", "--config", "reading.json"]
    imported = json.loads(done(*arguments).stdout)
    assert inspected.items() <= imported.items()
    assert (imported["name"], imported["version"]) == ("reader", 1)
    assert inspected["parameters"] == sum(tensor.size for tensor in READER.values())


def test_inspect_tells_the_difference_from_golden_values(folder):
    golden = {"inputs": X.tolist(), "outputs": OUTPUTS.tolist()}
    assert "golden" in done("inspect", "gru.safetensors", "--config", json.dumps({"golden": golden})).stdout
    golden["outputs"] = (OUTPUTS + 0.5).tolist()
    assert "0.5" in refused("inspect", "gru.safetensors", "--config", json.dumps({"golden": golden}))


def test_an_imported_model_is_listed_with_its_versions(folder):
    assert done("models").stdout == ""
    assert "net, version 1" in done("import", "gru.safetensors", "--name", "net").stdout
    assert "net, version 2" in done("import", "lstm.safetensors", "--name", "net").stdout
    (line,) = done("models").stdout.splitlines()
    assert line.split()[:4] == ["net", "versions", "1,", "2"]
    assert "lstm 3" in line
    listed = json.loads(done("models", "--json").stdout)["models"]
    assert [(told["name"], told["versions"]) for told in listed] == [("net", [1, 2])]
    assert (folder / "store/net/1/original/gru.safetensors").read_bytes() == (folder / "gru.safetensors").read_bytes()
    assert list((folder / "store/.incoming").iterdir()) == []


def test_the_flag_goes_before_the_environment(folder):
    done("import", "gru.safetensors", "--name", "net", "--models", "elsewhere")
    assert done("models").stdout == ""
    assert "net" in done("models", "--models", "elsewhere").stdout


def test_a_version_that_does_not_load_is_told_and_the_others_are_listed(folder):
    for _ in range(2):
        done("import", "gru.safetensors", "--name", "net")
    (folder / "store/net/1/model.safetensors").write_bytes(b"")
    result = done("models")
    assert result.stdout.startswith("net ")
    assert "version 1 does not load" in result.stderr


# -- run ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["x.json", "x.npz"])
def test_a_run_prints_what_the_equations_say(folder, source):
    done("import", "lstm.safetensors", "--name", "net")
    done("import", "gru.safetensors", "--name", "net")
    for model, weights, cell in (("net", GRU, "gru"), ("net:1", LSTM, "lstm")):
        outputs = answered(done("run", "--model", model, "--input", source))
        assert np.allclose(outputs, oracle(weights, cell, X, LENGTHS)[0], rtol=0, atol=2e-5)


def test_a_run_can_write_npz_and_json_and_go_on_from_its_state(folder):
    done("import", "lstm.safetensors", "--name", "net")
    outputs = oracle(LSTM, "lstm", X, [5, 5, 5])[0]
    np.savez("first.npz", inputs=X[:, :2])
    assert done("run", "--model", "net", "--input", "first.npz", "--output", "state.npz").stdout == ""
    with np.load("state.npz") as state:
        assert np.allclose(state["outputs"], outputs[:, :2], rtol=0, atol=2e-5)
        initial = {f"initial_{name}": state[name] for name in state.files if name.startswith("state.")}
    assert len(initial) == 4
    np.savez("rest.npz", inputs=X[:, 2:], **initial)
    assert done("run", "--model", "net", "--input", "rest.npz", "--output", "rest.json").stdout == ""
    rest = array(json.loads((folder / "rest.json").read_bytes())["outputs"])
    assert np.allclose(rest, outputs[:, 2:], rtol=0, atol=2e-5)


def test_a_run_of_token_ids_predicts(folder):
    done("import", "reader.safetensors", "--name", "reader", "--config", "reading.json")
    np.savez("ids.npz", inputs=np.array(IDS))
    answer = json.loads(done("run", "--model", "reader", "--input", "ids.npz").stdout)
    expected = read_by_hand(np.array(IDS), [5, 5, 5])[1]
    assert np.allclose(array(answer["predictions"]), expected, rtol=0, atol=2e-5)


# -- what is wrong -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["inspect"], ["import", "--name", "net"]])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["x.json"], "x.json"),
        (["missing.safetensors"], "missing.safetensors"),
        (["empty.safetensors"], "empty.safetensors"),
        (["a.folder"], "a.folder"),
        (["a.folder/gru.safetensors", "gru.safetensors"], "gru.safetensors"),
        (["model.pt"], "safetensors"),
        (["gru.safetensors", "--config", "{"], "config"),
        (["gru.safetensors", "--config", "[]"], "config"),
        (["gru.safetensors", "--config", "missing.json"], "missing.json"),
        (["gru.safetensors", "--config", "a.folder"], "a.folder"),
        (["gru.safetensors", "--config", '{"modul": "x"}'], "module"),
        (["reader.safetensors", "--config", '{"embedding": "emb"}'], "emb.weight"),
    ],
)
def test_a_file_or_config_that_is_none_ends_in_one_sentence(folder, command, arguments, words):
    (folder / "empty.safetensors").touch()
    (folder / "model.pt").write_bytes(b"\x80\x02}q\x00.")
    (folder / "a.folder").mkdir()
    (folder / "a.folder" / "gru.safetensors").write_bytes(save(state_dict("gru", [4, 6], seed=8)))
    assert words in refused(*command, *arguments)
    left = {path.name for path in (folder / "store").rglob("*")} if (folder / "store").exists() else set()
    assert left <= {".incoming"}


@pytest.mark.parametrize("name", ["a/b", "", ".net", "a" * 129, "é"])
def test_an_import_under_a_name_that_no_model_can_have_is_refused(folder, name):
    assert "letter or digit" in refused("import", "gru.safetensors", "--name", name)


def test_an_import_into_what_is_no_folder_is_refused(folder):
    assert "nothing was changed" in refused("import", "gru.safetensors", "--name", "net", "--models", "x.json")


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("nett", "net"),
        ("net:2", "version 2"),
        ("net:0", "version 0"),
        ("net:x", "net:x"),
        ("net:", "net:"),
        ("net:²", "net:²"),
        ("net:" + "9" * 5000, "net:999"),
        ("", "model"),
        ("../store/net", "net"),
    ],
)
def test_a_run_of_a_model_that_is_not_there_says_what_is(folder, model, words):
    done("import", "gru.safetensors", "--name", "net")
    said = refused("run", "--model", model, "--input", "x.json")
    assert words in said
    assert "None is" not in said
    assert "no model 'net'" not in said


BROKEN = {
    "empty.npz": b"",
    "text.npz": b"inputs",
    "cut.npz": b"PK\x03\x04" + bytes(40),
    "array.npz": b"\x93NUMPY\x01\x00",
    "empty.json": b"",
    "list.json": b"[1, 2]",
    "cut.json": b'{"inputs": [[[1',
    "binary.json": b"\xff\xfe",
    "unknown.json": b'{"input": [[[1]]]}',
}


@pytest.mark.parametrize("name", [*BROKEN, "one.npz", "pickled.npz", "words.npz", "none.npz", "damaged.npz", "store"])
def test_an_input_that_is_none_ends_in_one_sentence(folder, name):
    done("import", "gru.safetensors", "--name", "net")
    (folder / name).write_bytes(BROKEN[name]) if name in BROKEN else None
    np.save(folder / "one", X)
    (folder / "one.npy").rename(folder / "one.npz")
    np.savez("pickled.npz", inputs=np.array([{"a": 1}], object))
    np.savez("words.npz", inputs=np.array([["a"]]))
    np.savez("none.npz", lengths=[1])
    np.savez_compressed("damaged.npz", inputs=X)
    content = (folder / "damaged.npz").read_bytes()
    (folder / "damaged.npz").write_bytes(content[:80] + bytes(40) + content[120:])
    assert len(refused("run", "--model", "net", "--input", name)) < 1000


@pytest.mark.parametrize("output", ["missing/x.json", "missing/x.npz", "store"])
def test_an_output_that_cannot_be_written_ends_in_one_sentence(folder, output):
    done("import", "gru.safetensors", "--name", "net")
    assert output.partition("/")[0] in refused("run", "--model", "net", "--input", "x.json", "--output", output)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model.json", b"{"),
        ("model.json", b"{}"),
        ("model.json", b"[]"),
        ("model.safetensors", b""),
        ("model.json", None),
    ],
)
def test_a_run_of_a_damaged_version_ends_in_one_sentence(folder, file, content):
    done("import", "gru.safetensors", "--name", "net")
    path = folder / "store/net/1" / file
    path.unlink() if content is None else path.write_bytes(content)
    refused("run", "--model", "net", "--input", "x.json")


@pytest.mark.parametrize("command", [["models"], ["import", "gru.safetensors", "--name", "net"]])
def test_a_setting_that_is_none_ends_in_one_sentence(folder, command):
    assert "UNROLLED_THREADS" in refused(*command, UNROLLED_THREADS="many")


# -- beside a server ---------------------------------------------------------------------------------------------------


def test_a_server_that_runs_serves_what_is_imported_and_forgets_what_is_removed(folder, start):
    server = start(models=folder / "store")
    assert server.http.get("/models").json() == {"models": []}
    done("import", "gru.safetensors", "--name", "net")
    until = time.monotonic() + 60
    while server.http.get("/models/net").status_code != 200 and time.monotonic() < until:
        time.sleep(0.1)
    response = server.http.post("/models/net/run", json={"inputs": X.tolist()})
    assert np.allclose(array(response.json()["outputs"]), OUTPUTS, rtol=0, atol=2e-5)
    assert server.http.delete("/models/net").status_code == 204
    assert done("models").stdout == ""
    assert "net, version 2" in done("import", "gru.safetensors", "--name", "net").stdout
