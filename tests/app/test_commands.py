"""What all commands have in common: help with examples that run, JSON alone on stdout, errors of one sentence."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import contextmanager

import click
import numpy as np
import pyarrow as pa
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner
from safetensors.numpy import save_file

from app import offline, progress
from app.cli import main
from app.console import Numbers, Size, Words
from tests.app.client import ROOT
from tests.app.scoring.made import write
from tests.app.test_models import IDS, READER, READING

SLOW_TO_IMPORT = {"numpy", "fastapi", "starlette", "uvicorn", "rnn_engine", "pyarrow", "orjson", "httpx"}
EXAMPLES = [(name, example) for name, command in main.commands.items() for example in command.examples]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with the files and the model that examples speak of."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNROLLED_MODELS", "models")
    shutil.copy(ROOT / "tests/goldens/files/keras/tf2.13/model.keras", "tagger.keras")
    save_file(READER, "encoder.safetensors")
    (tmp_path / "encoder.json").write_text(json.dumps(READING))
    ids = pa.array([[3, 1, 4], [], [6]], pa.list_(pa.int64()))
    write(tmp_path / "sequences.parquet", pa.table({"id": [1, 2, 3], "tokens": ids}))
    np.savez("batch.npz", inputs=IDS, lengths=[3, 5, 0])
    (tmp_path / "request.json").write_text(json.dumps({"inputs": IDS}))
    done("import", "encoder.safetensors", "--name", "tagger", "--config", "encoder.json")
    return tmp_path


def done(*arguments, **environment):
    result = CliRunner().invoke(main, list(arguments), env=environment)
    assert result.exit_code == 0, result.output
    return result


def refused(*arguments, **environment):
    result = CliRunner().invoke(main, list(arguments), env=environment)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert re.fullmatch(r"unrolled: [^\n]+\n", result.stderr), result.stderr
    return result.stderr


# -- help --------------------------------------------------------------------------------------------------------------


def test_help_groups_every_command_once():
    listed = [name for _, names in main.groups for name in names]
    assert sorted(listed) == sorted(main.commands)
    text = done("--help").stdout
    assert [line for line in text.splitlines() if re.match(r"\S.*:$", line)] == [
        "Options:",
        *(f"{title}:" for title, _ in main.groups),
    ]
    assert all(re.search(rf"^  {name} +\S", text, re.M) for name in listed)


@pytest.mark.parametrize("name", main.commands)
def test_every_command_shows_its_examples(name):
    text = done(name, "--help").stdout
    assert 2 <= len(main.commands[name].examples) <= 4
    for example in main.commands[name].examples:
        assert f"\n  {example}\n" in text


@pytest.mark.parametrize("words", [["--help"], *([name, "--help"] for name in main.commands), ["completion", "zsh"]])
def test_help_imports_nothing_that_computes_or_serves(words):
    code = f"import sys\nfrom app.cli import main\nmain({words!r}, standalone_mode=False)\n"
    code += "print(sorted({name.split('.')[0] for name in sys.modules}), file=sys.stderr)"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    imported = set(re.findall(r"'(\w+)'", ended.stderr))
    assert "click" in imported
    assert not SLOW_TO_IMPORT & imported
    assert ("pydantic" in imported) == (words[0] == "serve")


@pytest.mark.parametrize("example", [text for name, text in EXAMPLES if name not in ("serve", "bench")])
def test_examples_run(folder, example):
    within = re.fullmatch(r'eval "\$\((.*)\)"', example)
    words = shlex.split(re.split(r" (?:\||>>?) ", within[1] if within else example)[0])
    assert words[0] == "unrolled"
    done(*words[1:])


@pytest.mark.parametrize("example", [text for name, text in EXAMPLES if name in ("serve", "bench")])
def test_examples_that_serve_or_measure_are_understood(folder, example):
    words = [word for word in shlex.split(example) if not word.startswith("UNROLLED_")]
    main.commands[words[1]].make_context(words[1], words[2:])


def test_commands_in_the_docs_are_understood(folder):
    text = (ROOT / "docs/commands.md").read_text() + (ROOT / "README.md").read_text()
    shown = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.S))
    lines = re.findall(r"^(?:\S+/)?unrolled (\w+ .*)$", shown, re.M)
    assert len(lines) > 10
    for line in lines:
        words = shlex.split(re.split(r" (?:\||>>?) ", line)[0], comments=True)
        if words[1:] != ["--help"]:
            with main.commands[words[0]].make_context(words[0], words[1:]):
                pass


# -- JSON, and errors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        ["models"],
        ["inspect", "tagger.keras"],
        ["inspect", "--cpu"],
        ["import", "tagger.keras", "--name", "other"],
        ["run", "--model", "tagger", "--input", "batch.npz"],
        ["run", "--model", "tagger", "--input", "batch.npz", "--output", "answer.npz"],
        ["score", "--model", "tagger", "sequences.parquet", "scores.parquet"],
        ["bench", "--cell", "gru", "--units", "3", "--batch", "2", "--steps", "1", "--seconds", "0.01"],
        ["key", "tagging"],
    ],
    ids=" ".join,
)
def test_json_is_one_document_and_all_that_stands_on_stdout(folder, command):
    assert isinstance(json.loads(done(*command, "--json").stdout), dict)
    assert "--nothing" in refused(*command, "--json", "--nothing")


def test_score_tells_what_it_wrote(folder):
    told = json.loads(done("score", "--model", "tagger", "sequences.parquet", "scores.npz", "--json").stdout)
    assert told["model"] == "tagger:1"
    assert told["columns"] == {"predictions": 5}
    assert (told["rows"], told["steps"], told["resumed"]) == (3, 4, 0)
    with np.load("scores.npz") as stored:
        assert stored["lengths"].tolist() == [3, 0, 1]
        one = json.loads(done("run", "--model", "tagger", "--input", "batch.npz").stdout)["predictions"]["values"]
        np.testing.assert_allclose(stored["predictions"][:3], one[0][:3], rtol=0, atol=1e-6)
    assert "3 rows of predictions [5]" in done("score", "--model", "tagger", "batch.npz", "x.npz").stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["score", "sequences.parquet", "o.npz"], "--model"),
        (["score", "--model", "taggr", "sequences.parquet", "o.npz"], "id you mean `tagger`"),
        (["score", "--model", "tagger", "nothing.parquet", "o.npz"], "nothing.parquet"),
        (["score", "--model", "tagger", "sequences.parquet", "no/o.npz"], "no is no folder"),
        (["score", "--model", "tagger", "sequences.parquet", "o.npz", "--resume", "--overwrite"], "one of the two"),
        (["score", "--model", "tagger", "sequences.parquet", "o.npz", "--memory", "much"], "no size"),
        (["bench"], "--model or --cell"),
        (["bench", "--cell", "lstm"], "--units"),
        (["bench", "--cell", "lstn", "--units", "3"], "lstm"),
        (["bench", "--cell", "gru", "--units", "0"], "at least 1"),
        (["bench", "--cell", "gru", "--units", "3", "--url", "http://127.0.0.1:9"], "does not answer"),
        (["inspect"], "one of the two"),
        (["completion", "tcsh"], "bash"),
        (["nothing"], "nothing"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_what_is_wrong_is_said_in_one_sentence(folder, words, said):
    assert said in refused(*words)
    assert not any(name.startswith("o.npz") for name in os.listdir(folder))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_is_read_only_is_named(folder):
    (folder / "locked").mkdir(mode=0o500)
    assert "locked" in refused("score", "--model", "tagger", "sequences.parquet", "locked/o.npz")


def test_bench_asks_a_server_and_counts_what_is_answered(folder, server):
    url, few = f"http://127.0.0.1:{server.port}", ["--batch", "2", "--steps", "3", "--seconds", "0.05"]
    result = done("bench", "--cell", "gru", "--units", "3", "--url", url, "--connections", "1,2", *few, "--json")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["connections"] for line in lines] == [1, 2]
    for line in lines:
        assert line["requests"] >= line["connections"]
        assert line["errors"] == {}
        assert (line["batch"], line["steps"], line["total"]) == (2, 3, 6)
        assert 0 < line["p50_ms"] <= line["p99_ms"]
    assert "404" in refused("bench", "--model", "nothing", "--url", url, *few)
    assert "limit" in refused("bench", "--cell", "gru", "--units", "99999", "--url", url, *few)


def test_bench_prints_a_line_for_each_batch_size_and_length(folder):
    result = done("bench", "--model", "tagger", "--batch", "1,3", "--steps", "2,4", "--seconds", "0.01", "--ragged")
    head, *lines = result.stdout.splitlines()
    assert head.split()[:3] == ["batch", "steps", "ms"]
    assert [line.split()[:2] for line in lines] == [["1", "2"], ["1", "4"], ["3", "2"], ["3", "4"]]
    assert "gru, 6 units" in result.stderr


def test_a_large_import_shows_how_far_it_is(folder, monkeypatch):
    told = []

    @contextmanager
    def bar(label, total, unit):
        yield lambda more: told.append((label, total, more))

    monkeypatch.setattr(offline, "progress", bar)
    done("import", "tagger.keras", "--name", "other")
    size = os.path.getsize("tagger.keras")
    assert told == [("copying", size, size)]


def test_colours_are_for_terminals_and_never_with_no_color():
    runner = CliRunner()
    assert "\x1b[" in runner.invoke(main, ["nothing"], color=True).stderr
    assert "\x1b[" not in runner.invoke(main, ["nothing"], color=True, env={"NO_COLOR": "1"}).stderr
    assert "\x1b[" not in runner.invoke(main, ["nothing"]).stderr


def test_a_reader_that_leaves_is_no_error_of_ours(folder):
    command = f"{shlex.quote(sys.executable)} -m app.cli completion bash | true"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, shell=True, capture_output=True, text=True, env=environment)
    assert "Traceback" not in ended.stderr


# -- completion, progress, values --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "incomplete", "found"),
    [
        ([], "s", ["serve", "score"]),
        (["score", "--model"], "", ["tagger"]),
        (["score"], "--re", ["--return", "--resume"]),
        (["completion"], "z", ["zsh"]),
    ],
)
def test_commands_options_and_models_are_completed(folder, words, incomplete, found):
    completions = ShellComplete(main, {}, "unrolled", "_UNROLLED_COMPLETE").get_completions(words, incomplete)
    assert sorted(item.value for item in completions) == sorted(found)


@pytest.mark.parametrize("shell", ["zsh", "fish", "bash"])
def test_the_script_of_a_shell_asks_this_program(shell):
    assert "_UNROLLED_COMPLETE" in done("completion", shell).stdout


def test_progress_is_shown_on_a_terminal_and_nowhere_else(monkeypatch, capsys):
    with progress.progress("scoring", 100, "rows") as more:
        more(50)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress.progress("scoring", 100, "rows") as more:
        more(50)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "scoring" in shown.err
    assert "rows/s" in shown.err


@pytest.mark.parametrize(
    ("text", "bytes_"), [("512", 512), ("1K", 1024), ("768M", 768 << 20), ("2g", 2 << 30), ("1GiB", 1 << 30)]
)
def test_sizes_are_powers_of_1024(text, bytes_):
    assert Size()(text) == bytes_


@pytest.mark.parametrize("text", ["", "M", "1.5G", "-1", "12X", "٣"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(click.BadParameter):
        Size()(text)


def test_lists_are_separated_by_commas():
    assert Words()("a, b,,c") == ("a", "b", "c")
    assert Numbers()("1, 20") == (1, 20)
    with pytest.raises(click.BadParameter):
        Numbers()("1,,2")
