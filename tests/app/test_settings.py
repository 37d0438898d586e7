"""Settings: each by environment, each a flag, each in the README, each refused where it makes no sense."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from pydantic import SecretStr, ValidationError

from app.cli import main
from app.settings import SECRET, Settings
from tests.app.client import ROOT

#: For every setting: its default where the contract fixes it, a text and what it means, and a text that is refused.
FIELDS = {
    "host": ("127.0.0.1", "0.0.0.0", "0.0.0.0", None),
    "port": (8000, "0", 0, "65536"),
    "models": (Path("models"), "/data/models", Path("/data/models"), None),
    "workers": (1, "3", 3, "0"),
    "threads": (None, "3", 3, "0"),
    "kernel": ("auto", "numpy", "numpy", "cuda"),
    "max_body_bytes": (64 << 20, "1000", 1000, "64MiB"),
    "max_upload_bytes": (1 << 30, "1000", 1000, "1GiB"),
    "max_batch": (None, "8", 8, "0"),
    "max_time": (None, "10", 10, "-1"),
    "max_units": (None, "16", 16, "1.5"),
    "max_layers": (None, "2", 2, "many"),
    "max_parameters": (None, "1000", 1000, "0"),
    "max_run_bytes": (None, "1000000", 1_000_000, ""),
    "timeout_ms": (None, "500", 500, "0"),
    "queue_requests": (None, "8", 8, "0"),
    "queue_rows": (None, "8", 8, "none"),
    "queue_bytes": (None, "1000", 1000, "1GiB"),
    "tick_steps": (0, "16", 16, "-1"),
    "max_sequences": (10_000, "0", 0, "-1"),
    "max_sequence_bytes": (None, "1000", 1000, "0"),
    "sequence_idle_seconds": (60, "5", 5, "0"),
    "body_seconds": (None, "3", 3, "0"),
    "max_streams": (4096, "3", 3, "0"),
    "stream_idle_seconds": (60, "3", 3, "0"),
    "grace_seconds": (None, "3", 3, "0"),
    "state_key": (None, "0123456789abcdef", SecretStr("0123456789abcdef"), "0123456789abcde"),
    "keys_file": (None, "/run/secrets/keys.toml", Path("/run/secrets/keys.toml"), None),
    "keys": (None, "ci:infer:00", SecretStr("ci:infer:00"), None),
    "allow_anonymous": (False, "true", True, "perhaps"),
    "rate_limit": (None, "100/second", "100/second", "0/second"),
    "concurrency_limit": (None, "3", 3, "0"),
    "cors_origins": (None, "https://a.example", "https://a.example", "a.example"),
    "log_level": ("info", "warning", "warning", "loud"),
    "log_format": ("auto", "json", "json", "xml"),
    "traces": (False, "0", False, "maybe"),
}
NAMES = list(Settings.model_fields)
#: Settings that are none where nothing is said.
NONE = SECRET | {"keys_file", "rate_limit", "concurrency_limit", "cors_origins"}


def test_this_table_has_every_setting():
    assert set(NAMES) == set(FIELDS)


@pytest.mark.parametrize("name", NAMES)
def test_a_setting_has_its_default_and_is_read_from_its_variable(monkeypatch, name):
    default, text, value, _ = FIELDS[name]
    found = getattr(Settings(), name)
    assert found == default if default is not None or name in NONE else found >= 1
    monkeypatch.setenv(f"UNROLLED_{name.upper()}", text)
    assert getattr(Settings(), name) == value


@pytest.mark.parametrize("name", [name for name in NAMES if FIELDS.get(name, ("",) * 4)[3] is not None])
def test_a_value_that_makes_no_sense_stops_the_start_with_one_sentence(monkeypatch, name):
    bad = FIELDS[name][3]
    flag = f"--{name.replace('_', '-')}"
    by_flag = CliRunner().invoke(main, ["serve", flag, bad])
    monkeypatch.setenv(f"UNROLLED_{name.upper()}", bad)
    by_environment = CliRunner().invoke(main, ["serve"])
    for result in (by_flag, by_environment):
        assert result.exit_code == 2
        assert len(result.stderr.strip().splitlines()) == 1
        assert f"UNROLLED_{name.upper()}" in result.stderr
        assert flag in result.stderr
        assert (repr(bad) in result.stderr) == (name not in SECRET)
        assert name not in SECRET or bad not in result.output


def test_a_flag_wins_over_the_environment(monkeypatch):
    monkeypatch.setenv("UNROLLED_PORT", "9000")
    assert Settings(port="9001").port == 9001


def test_settings_cannot_be_changed():
    with pytest.raises(ValidationError):
        Settings().port = 1


@pytest.fixture(scope="module")
def help_text():
    result = CliRunner().invoke(main, ["serve", "--help"], terminal_width=10_000)
    assert result.exit_code == 0
    return result.output


@pytest.mark.parametrize("name", NAMES)
def test_a_setting_has_a_flag_that_is_explained(help_text, name):
    line = next(line for line in help_text.splitlines() if line.strip().startswith(f"--{name.replace('_', '-')} "))
    assert Settings.model_fields[name].description in line
    assert f"UNROLLED_{name.upper()}" in line


@pytest.mark.parametrize("name", NAMES)
def test_a_setting_is_in_the_readme(name):
    assert f"UNROLLED_{name.upper()}" in (ROOT / "README.md").read_text()


# -- the key of state tokens -------------------------------------------------------------------------------------------

KEYS = "the first secret key", "the second secret key"


@pytest.mark.parametrize(
    ("given", "keys"),
    [
        (KEYS[0], [KEYS[0]]),
        (",".join(KEYS), [*KEYS]),
        (f" {KEYS[0]} , {KEYS[1]}\n", [*KEYS]),
        ("ein geheimer Schlüssel", ["ein geheimer Schlüssel"]),
        ("", []),
        (" ", []),
    ],
)
def test_keys_are_separated_by_commas_and_none_is_none(monkeypatch, given, keys):
    monkeypatch.setenv("UNROLLED_STATE_KEY", given)
    assert Settings().state_keys == [key.encode() for key in keys]


@pytest.mark.parametrize("given", ["too short a key", f"{KEYS[0]},short", f"{KEYS[0]},", f",{KEYS[0]}", ",", "x" * 15])
def test_a_key_that_is_too_short_is_refused_and_not_shown(monkeypatch, given):
    monkeypatch.setenv("UNROLLED_STATE_KEY", given)
    with pytest.raises(ValidationError, match="at least 16 characters") as caught:
        Settings()
    for shown in (str(caught.value), repr(caught.value), CliRunner().invoke(main, ["serve"]).output):
        assert "state" in shown.lower()
        assert all(part not in shown for part in given.split(",") if part)


def test_a_key_is_shown_neither_by_the_settings_nor_by_help(monkeypatch):
    monkeypatch.setenv("UNROLLED_STATE_KEY", KEYS[0])
    helped = CliRunner().invoke(main, ["serve", "--help"])
    for shown in (repr(Settings()), str(Settings()), Settings().model_dump_json(), helped.output):
        assert KEYS[0] not in shown
