"""What stops a start: settings that contradict each other, variables that are no settings, keys that cannot be read."""

import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from app.cli import main
from app.settings import Settings
from app.startup import contradictions, is_loopback, unknown
from tests.app.client import ROOT

KEYS = f"ci:infer:{'0' * 64}"
OURS = {"host": "0.0.0.0"}


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost", "LOCALHOST", "0:0:0:0:0:0:0:1"])
def test_only_this_machine_reaches_a_loopback_address(host):
    assert is_loopback(host)
    assert contradictions(Settings(host=host)) == []


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "fe80::1%eth0", "128.0.0.1", "example.org", ""])
def test_others_reach_every_other_address(host):
    assert not is_loopback(host)
    (said,) = contradictions(Settings(host=host))
    for name in ("UNROLLED_HOST", "UNROLLED_KEYS_FILE", "UNROLLED_KEYS", "UNROLLED_ALLOW_ANONYMOUS"):
        assert name in said


@pytest.mark.parametrize("given", [{"keys": KEYS}, {"keys_file": "keys.toml"}, {"allow_anonymous": True}])
def test_keys_or_a_word_open_an_address_to_others(given):
    assert contradictions(Settings(host="0.0.0.0", **given)) == []


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"keys": KEYS, "allow_anonymous": True}, ["UNROLLED_ALLOW_ANONYMOUS", "UNROLLED_KEYS"]),
        ({"keys_file": "k", "allow_anonymous": True}, ["UNROLLED_ALLOW_ANONYMOUS", "UNROLLED_KEYS_FILE"]),
        ({"rate_limit": "1/second"}, ["UNROLLED_RATE_LIMIT", "UNROLLED_KEYS"]),
        ({"concurrency_limit": 1}, ["UNROLLED_CONCURRENCY_LIMIT", "UNROLLED_KEYS"]),
    ],
)
def test_settings_that_contradict_each_other_are_named_in_one_sentence(given, names):
    (said,) = contradictions(Settings(**given))
    assert all(name in said for name in names)
    assert "\n" not in said


def test_every_setting_is_known_in_either_case_and_what_is_not_ours_is_left_alone():
    every = [f"UNROLLED_{name.upper()}" for name in Settings.model_fields]
    assert unknown([*every, "unrolled_port", "PATH", "UNROLLEDX", "NOT_UNROLLED_PORT"]) == []


def test_a_slip_in_a_name_is_told_with_the_setting_that_was_meant():
    (said,) = unknown({"UNROLLED_ALOW_ANONYMOUS": "true"})
    assert said == "UNROLLED_ALOW_ANONYMOUS is not a setting: did you mean UNROLLED_ALLOW_ANONYMOUS?"
    (said,) = unknown({"unrolled_xyzzy": ""})
    assert said == "unrolled_xyzzy is not a setting: `unrolled serve --help` lists them"


def test_what_kubernetes_adds_beside_a_service_of_our_name_is_no_slip():
    added = ["UNROLLED_SERVICE_HOST", "UNROLLED_SERVICE_PORT", "UNROLLED_SERVICE_PORT_HTTP"]
    added += [f"UNROLLED_PORT_8000_TCP{end}" for end in ("", "_ADDR", "_PORT", "_PROTO")]
    assert unknown(added) == []
    assert len(unknown(["UNROLLED_PORT_8000", "UNROLLED_SERVICE"])) == 2


def serve(*flags, **environment):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("UNROLLED_")}
    command = [sys.executable, "-m", "app.cli", "serve", *flags]
    done = subprocess.run(command, cwd=ROOT, env=clean | environment, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr.splitlines()


def test_the_process_ends_with_a_sentence_for_each_fault():
    code, lines = serve("--host", "0.0.0.0", UNROLLED_QUEUE_ROW="3")
    assert code == 2
    assert len(lines) == 2
    assert all(line.startswith("unrolled: ") for line in lines)
    assert "did you mean UNROLLED_QUEUE_ROWS?" in lines[0]
    assert "UNROLLED_ALLOW_ANONYMOUS=true" in lines[1]


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
def test_an_address_that_is_not_here_is_told_in_one_sentence(host):
    code, (line,) = serve("--port", "0", "--host", host, UNROLLED_ALLOW_ANONYMOUS="true")
    assert code == 2
    assert line.startswith(f"unrolled: cannot listen on {host}, port 0: ")
    assert "unknown error" not in line


@pytest.mark.parametrize("content", [None, "[ci", "[ci]\n"])
def test_a_file_of_keys_that_is_missing_or_broken_stops_the_start(tmp_path, content):
    file = tmp_path / "keys.toml"
    if content is not None:
        file.write_text(content)
    result = CliRunner().invoke(main, ["serve", "--keys-file", str(file)])
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert str(file) in line
    assert "UNROLLED_KEYS_FILE" in line


def test_keys_that_are_none_stop_the_start_unseen():
    result = CliRunner().invoke(main, ["serve", "--keys", "unrolled_secret"])
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert "UNROLLED_KEYS" in line
    assert "unrolled_secret" not in line


def test_the_container_wants_keys_or_a_word_and_compose_gives_the_word():
    assert "UNROLLED_ALLOW_ANONYMOUS" not in (ROOT / "Dockerfile").read_text()
    compose = (ROOT / "docker-compose.yml").read_text()
    assert 'UNROLLED_ALLOW_ANONYMOUS: "true"' in compose
    assert '- "127.0.0.1:8000:8000"' in compose, "which is why it may"
