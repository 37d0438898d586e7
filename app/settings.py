"""Settings: one frozen object, from the environment (`UNROLLED_…`) or from flags of `unrolled serve`."""

from __future__ import annotations

import socket
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

if TYPE_CHECKING:
    from limits import RateLimitItem

MIB = 1 << 20

#: Settings that are printed nowhere.
SECRET = frozenset({"state_key", "keys"})

#: Characters that a key has at least.
LEAST_KEY = 16

#: The rate limit of a key that has none, whatever the others have.
NO_LIMIT = "none"

# the engine and limits are imported where they are needed, so that --help is quick


#: What the extra `otel` installs.
TRACING = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # a package above it
        return False


def _share_of_cores(others: dict[str, Any]) -> int:
    from rnn_engine.threads import cores

    return max(1, cores() // max(1, others.get("workers", 1)))


class Settings(BaseSettings):
    """Every field is read from `UNROLLED_<FIELD>` and is the flag `--<field>` of `unrolled serve`."""

    model_config = SettingsConfigDict(env_prefix="UNROLLED_", frozen=True, extra="ignore", hide_input_in_errors=True)

    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 for all, as in the container image")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 for any free one")
    models: Path = Field(Path("models"), description="folder of the registered models")
    workers: int = Field(1, ge=1, le=256, description="processes that serve, on one port")
    threads: int = Field(
        default_factory=_share_of_cores,
        ge=1,
        le=1024,
        description="threads that compute, of each process; default: the cores there are, shared among the processes",
    )
    kernel: Literal["auto", "fused", "numpy"] = Field(
        "auto",
        description="what computes: auto takes a compiled kernel wherever there is one, numpy the plain loop; fused is "
        "auto, but does not start where there are no kernels",
    )
    max_body_bytes: int = Field(64 * MIB, ge=1, description="largest request body, and what one may unpack to")
    max_upload_bytes: int = Field(1024 * MIB, ge=1, description="largest upload of a model's files")
    max_batch: int = Field(4096, ge=1, description="most rows of a batch")
    max_time: int = Field(65_536, ge=1, description="longest sequence, in time steps")
    max_units: int = Field(8192, ge=1, description="most units of a layer, and features of a time step")
    max_layers: int = Field(64, ge=1, description="most stacked layers")
    max_parameters: int = Field(48_000_000, ge=1, description="most weights of a network drawn from a seed")
    max_run_bytes: int = Field(1024 * MIB, ge=1, description="most memory that one request may take")
    timeout_ms: int = Field(
        60_000, ge=1, description="longest that a run may take, and what it may take where the request does not say"
    )
    queue_requests: int = Field(128, ge=1, description="most runs under way, waiting ones included; 429 for more")
    queue_rows: int = Field(16_384, ge=1, description="most rows of runs under way; 429 for more")
    queue_bytes: int = Field(
        2048 * MIB, ge=1, description="most memory of runs under way, and of bodies that come in; 429 for more"
    )
    tick_steps: int = Field(
        0, ge=0, description="time steps after which runs may join a batch or leave it; 0 adapts to the work"
    )
    max_sequences: int = Field(
        10_000,
        ge=0,
        description="most sequences of the Open Inference Protocol whose states are kept between requests; 429 for "
        "more, and 0 for none",
    )
    max_sequence_bytes: int = Field(
        1024 * MIB, ge=1, description="most memory of the states that are kept; 429 for more"
    )
    sequence_idle_seconds: int = Field(
        60, ge=1, description="time without a request after which such a sequence is over"
    )
    body_seconds: int = Field(
        30, ge=1, description="longest that a body may take to arrive, or a client to read nothing of its answer"
    )
    max_streams: int = Field(4096, ge=1, description="most open streams; 429 for more")
    stream_idle_seconds: int = Field(
        60, ge=1, description="longest that a stream may send nothing, after which it gets its state and is closed"
    )
    grace_seconds: int = Field(10, ge=1, description="after SIGTERM, time for the requests under way to end")
    state_key: SecretStr | None = Field(
        None,
        description="key that state tokens are signed with, the same on all replicas; or several, separated by commas, "
        "of which the first signs and all are taken. Default: a random one, so that tokens hold until the next start",
    )
    keys_file: Path | None = Field(
        None, description="file of API keys, in TOML (docs/operations.md); read anew when it changes. Default: no keys"
    )
    keys: SecretStr | None = Field(
        None, description="API keys, as NAME:SCOPES:SHA256,…; beside those of the file. `unrolled key` makes one"
    )
    allow_anonymous: bool = Field(
        False, description="start without keys on an address that others can reach, which is refused otherwise"
    )
    rate_limit: str | None = Field(
        None, description='most requests of a key: "100/second", "5000/hour;100/second"; 429 for more. Default: any'
    )
    concurrency_limit: int | None = Field(
        None, ge=1, description="most requests of a key at once; 429 for more. Default: any"
    )
    cors_origins: str | None = Field(
        None,
        description="origins of the pages elsewhere whose scripts may call this service, separated by commas, or *. "
        "Default: none",
    )
    log_level: Literal["critical", "error", "warning", "info", "debug"] = Field(
        "info", description="least level to log"
    )
    log_format: Literal["auto", "json", "text"] = Field(
        "auto", description="what the log is written as: auto is text on a terminal, and lines of JSON elsewhere"
    )
    traces: bool = Field(
        False, description="whether traces are sent by OpenTelemetry (the extra otel), as its OTEL_… settings say"
    )

    @field_validator("workers")
    @classmethod
    def _can_share(cls, workers: int) -> int:
        if workers > 1 and not hasattr(socket, "AF_UNIX"):
            raise ValueError("several processes cannot share a port on this system: start several services")
        return workers

    @field_validator("kernel")
    @classmethod
    def _is_there(cls, kernel: str) -> str:
        if kernel != "fused":
            return kernel
        from rnn_engine import kernels

        if kernels.here() is None:
            raise ValueError(f"there is no fused kernel here: {kernels.why_not()}; use auto or numpy")
        return kernel

    @field_validator("traces")
    @classmethod
    def _can_be_sent(cls, traces: bool) -> bool:
        if traces and not all(map(_is_installed, TRACING)):
            raise ValueError("traces need the extra otel: pip install '.[otel]' in a checkout")
        return traces

    @field_validator("state_key")
    @classmethod
    def _is_long(cls, key: SecretStr | None) -> SecretStr | None:
        if key is None or not key.get_secret_value().strip():
            return None
        if min(map(len, _keys(key))) < LEAST_KEY:
            raise ValueError(f"a key has at least {LEAST_KEY} characters, and a comma stands between two of them")
        return key

    @field_validator("keys")
    @classmethod
    def _is_something(cls, keys: SecretStr | None) -> SecretStr | None:
        return keys if keys is not None and keys.get_secret_value().strip() else None

    @field_validator("rate_limit")
    @classmethod
    def _is_a_rate(cls, rate: str | None) -> str | None:
        if rate is not None:
            rates_of(rate)
        return rate

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, origins: str | None) -> str | None:
        if origins is not None and origins.strip() != "*" and not all(map(_is_origin, _listed(origins))):
            raise ValueError("expected https://host or http://host:port, no path, separated by commas; or * alone")
        return origins

    @property
    def has_keys(self) -> bool:
        """Whether whoever calls needs a key."""
        return self.keys is not None or self.keys_file is not None

    @property
    def origins(self) -> list[str]:
        """The origins whose pages may call this service."""
        return _listed(self.cors_origins or "")

    @property
    def state_keys(self) -> list[bytes]:
        """The keys of state tokens, the one that signs first; none where a random one is to be made."""
        return [] if self.state_key is None else [key.encode() for key in _keys(self.state_key)]


def _keys(given: SecretStr) -> list[str]:
    return [key.strip() for key in given.get_secret_value().split(",")]


def _listed(given: str) -> list[str]:
    return [part.strip() for part in given.split(",")] if given.strip() else []


def _is_origin(text: str) -> bool:
    """Whether a browser may say that it is the origin of a page: lower case, without a path, or the scheme's port."""
    parts = urlsplit(text)
    return parts.scheme in ("http", "https") and bool(parts.hostname) and text == f"{parts.scheme}://{parts.netloc}"


def rates_of(text: str) -> tuple[RateLimitItem, ...]:
    """The limits that "100/second;5000/hour" means. Raises a ValueError for what means none."""
    from limits import parse_many

    try:
        rates = tuple(parse_many(text))
    except ValueError:
        rates = ()
    if not rates or any(rate.amount < 1 for rate in rates):
        raise ValueError('expected a number of requests in a time, as "100/second", or several, "5000/hour;100/second"')
    return rates


def settings_of(flags: dict[str, Any]) -> Settings:
    """Settings of a command: its flags, over the environment. Ends the process with a sentence for each bad one."""
    try:
        return Settings(**flags)
    except ValidationError as error:
        for fault in error.errors():
            if fault["type"] == "default_factory_not_called":  # a default that waits for those at fault
                continue
            name = str(fault["loc"][0])
            flag = f"--{name.replace('_', '-')} (UNROLLED_{name.upper()})"
            said = "not shown here" if name in SECRET else repr(fault["input"])
            sys.stderr.write(f"unrolled: {flag} is {said}: {fault['msg'].lower()}\n")
        sys.exit(2)
