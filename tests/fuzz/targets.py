"""What is fuzzed: for each decoder, inputs that are right, how they are made wrong, and what reads them.

Requests go to an application in this process, through all that a request goes through; files to their readers.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import h5py  # noqa: F401 - for the copies of this process
import numpy as np
from safetensors.numpy import save

from rnn_engine import Network
from rnn_engine.errors import EngineError
from rnn_engine.formats import hdf5, hdf5_child
from rnn_engine.formats.files import read
from rnn_engine.formats.tensorflow import checkpoint
from tests.app.client import SAFETENSORS, Client, service
from tests.app.test_generate import CONFIG, TENSORS
from tests.app.test_models import GRU, IDS, READER, READING, X, registered
from tests.fuzz import mutate
from tests.fuzz.cases import Finding, Request, answered, body, in_tensors, posted
from tests.fuzz.frames import change_lines, framed, keyed, of_frames, of_keys, of_lines, streamed
from tests.fuzz.mutate import Bytes

try:
    from compression import zstd
except ImportError:
    from backports import zstd

RECORDED = Path(__file__).parents[1] / "goldens" / "files"
MIB = 1 << 20
#: Small limits, so that a claim of a size is refused rather than computed.
SETTINGS = {
    "threads": 2,
    "timeout_ms": 5000,
    "max_body_bytes": MIB,
    "max_upload_bytes": 4 * MIB,
    "max_run_bytes": 64 * MIB,
    "max_parameters": 1_000_000,
    "max_time": 4096,
    "max_sequences": 100,
    "log_level": "critical",
}


@dataclass(frozen=True)
class Target:
    """One decoder. `change` makes a case of a seed; `ask` has it read, and says whether it was taken."""

    seeds: Callable[[Client], Sequence[Any]]
    change: Callable[[Any, random.Random], Any]
    ask: Callable[[Client, Any], bool]

    @property
    def needs_service(self) -> bool:
        return self.ask not in (understood, keyed)


NET = {"cell": "lstm", "num_units": 3, "inputs": X.tolist()}
ARRAY = {"shape": [3, 5, 4], "dtype": "float32", "values": X.ravel().tolist()}
TINY = {"layers": [{"kernel": [[0.5] * 2] * 3, "bias": [0.1, -0.1]}]}


def of_json(_: Client) -> list[Request]:
    run = (
        NET,
        NET | {"inputs": ARRAY, "lengths": [5, 0, 2], "return": ["outputs", "gates", "weights", "last_output"]},
        {"model": "net", "inputs": [[[1, 2, 3, 4]] * 2, [[1, 2, 3, 4]]], "initial_state": [{"h": [[0.1] * 6] * 2}]},
        {"cell": "rnn", "weights": TINY, "inputs": [[[1]]], "readout": {"kernel": [[1], [2]], "activation": "softmax"}},
        {"cell": "gru", "num_units": [2, 3], "bidirectional": True, "time_major": True, "inputs": [[[1.5]], [[2]]]},
        {"model": "reader", "inputs": IDS, "state_format": "token"},
        NET | {"cell_options": {"use_peepholes": True, "cell_clip": 3.0, "num_proj": 2}, "dtype": "float64", "seed": 4},
        {"cell": "gru", "num_units": 2, "packed": True, "inputs": [[1], [2], [3]], "lengths": [2, 1]},
    )
    step = ({"cell": "gru", "num_units": 2, "inputs": [[1.5, 2]], "state": [{"h": [[0, 0.5]]}]},)
    learn = (NET | {"lengths": [5, 1, 2], "loss": "mean_squared_error", "targets": [[[0.1] * 3] * 5] * 3},)
    return posted("/run", *run) + posted("/step", *step) + posted("/gradients", *learn)


def of_safetensors(_: Client) -> list[Request]:
    net, lengths = {"cell": "gru", "num_units": 2}, np.array([5, 1, 2])
    kind = (("content-type", SAFETENSORS),)
    states = {"initial_state.0.h": np.ones((3, 2), np.float32)}
    packed = in_tensors(net | {"packed": True}, inputs=X.reshape(15, 4), lengths=np.array([5, 5, 5]))
    bodies = (
        in_tensors(net, inputs=X),
        in_tensors(net, inputs=X.astype(np.float64), lengths=lengths, **states),
        packed,
        in_tensors({"model": "reader"}, inputs=np.array(IDS)),
        in_tensors(
            {"cell": "gru", "weights": {"layout": "pytorch"}},
            inputs=X,
            **{f"weights.state_dict.{name}": array for name, array in GRU.items()},
        ),
    )
    return [Request("/run", one, (*kind, ("accept", SAFETENSORS))) for one in bodies]


#: Bytes of a compressed body that is a whole request, and not only much of nothing.
SMALL = 1500
LENGTH = "inference-header-content-length"


def _v2(head: dict[str, Any], *blobs: np.ndarray) -> Request:
    text = json.dumps(head).encode()
    content = text + b"".join(blob.tobytes() for blob in blobs)
    return Request("/v2/models/net/infer", content, ((LENGTH, str(len(text))),))


def of_v2(_: Client) -> list[Request]:
    tensor = {"name": "inputs", "datatype": "FP32", "shape": [3, 5, 4]}
    lengths = {"name": "lengths", "datatype": "INT64", "shape": [3], "parameters": {"binary_data_size": 24}}
    sent = tensor | {"parameters": {"binary_data_size": X.nbytes}}
    wanted = {"outputs": [{"name": "outputs", "parameters": {"binary_data": True}}]}
    whole = {"inputs": [tensor | {"data": X.tolist()}], "id": "7", "parameters": {"timeout": 900_000}}
    one = tensor | {"shape": [1, 2, 4], "data": [1.0] * 8}
    sequence = {"inputs": [one], "parameters": {"sequence_id": 5, "sequence_start": True, "sequence_end": True}}
    return [
        _v2({"inputs": [sent, lengths]} | wanted, X, np.array([5, 0, 2])),
        _v2({"inputs": [sent], "parameters": {"binary_data_output": True}}, X),
        *posted("/v2/models/net/infer", whole | wanted, whole, sequence),
        Request("/v2/models/net/infer", X.tobytes(), ((LENGTH, "0"),)),
    ]


def change_v2(request: Request, draw: random.Random) -> Request:
    """The JSON, the bytes behind it, or the length that the header tells."""
    told = dict(request.headers).get(LENGTH)
    if told is None:
        return body(mutate.as_json)(request, draw)
    head, rest = request.content[: int(told)], request.content[int(told) :]
    if head and draw.random() < 0.6:
        head = mutate.as_json(head, draw)
    else:
        rest = mutate.raw(rest, draw)
    odd = draw.choice(("", "-1", "1e3", "99999", "9" * 40, str(len(head) + draw.randint(-9, 9))))
    length = odd if draw.random() < 0.2 else str(len(head))
    return replace(request, content=head + rest, headers=((LENGTH, length),))


def of_v1(_: Client) -> list[Request]:
    rows = [row[:length].tolist() for row, length in zip(X, (5, 1, 2), strict=True)]
    net = ({"instances": rows}, {"instances": [{"inputs": row.tolist(), "lengths": 1} for row in X]})
    column = ({"inputs": X.tolist()}, {"inputs": {"inputs": X.tolist(), "lengths": [5, 0, 1]}, "signature_name": ""})
    reader = ({"instances": IDS}, {"inputs": {"inputs": IDS}})
    return posted("/v1/models/net:predict", *net, *column) + posted("/v1/models/reader:predict", *reader)


def of_tokens(client: Client) -> list[Request]:
    first = client.answer("/models/net/run", inputs=X.tolist(), state_format="token")
    second = client.answer("/run", **(NET | {"cell": "gru", "state_format": "token", "dtype": "float64"}))
    step = {"inputs": X[:, 0].tolist()}
    return [
        *posted("/models/net/step", step | {"state": first["state"]}),
        *posted("/models/net/run", {"inputs": X.tolist(), "initial_state": first["state"]}),
        *posted("/step", step | {"cell": "gru", "num_units": 3, "dtype": "float64", "state": second["state"]}),
    ]


def change_token(request: Request, draw: random.Random) -> Request:
    """The characters of the token, or what its base64 stands for."""
    fields = json.loads(request.content)
    name = "state" if "state" in fields else "initial_state"
    token: str = fields[name]
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for _ in range(draw.choice((1, 1, 2, 5))):
        at = draw.randrange(len(token) + 1)
        put_in = draw.choice(("", draw.choice(letters), draw.choice("=.+/ \n\0é\ud800"), token[at : at + 16], "ut2."))
        token = token[:at] + put_in + token[at + draw.choice((0, 1, 1, 1, 4, 999)) :]
    return replace(request, content=json.dumps(fields | {name: token}).encode())


def of_generate(_: Client) -> list[Request]:
    ids = {"inputs": [[3, 1, 4], [1], [5, 9]], "max_steps": 6}
    chosen = ids | {"temperature": 0.8, "top_k": 3, "top_p": 0.9, "seed": [1, 2, 3], "num_samples": 2, "stop": [4]}
    values = {"cell": "gru", "num_units": 2, "inputs": [[[1, 2]], [[3, 4]]], "horizon": 3}
    returned = ids | {"return": ["tokens", "log_probabilities", "state"], "temperature": 1.0}
    bodies = (ids, chosen, returned)
    events = {"accept": "text/event-stream"}
    return [
        *posted("/models/writer/generate", *bodies),
        *posted("/models/writer/generate", *bodies, **events),
        *posted("/generate", values),
        *posted("/generate", values, **events),
    ]


def _part(disposition: str, content: bytes) -> bytes:
    return f"--cut\r\nContent-Disposition: form-data; {disposition}\r\n\r\n".encode() + content + b"\r\n"


def of_multipart(client: Client) -> list[Request]:
    kind = (("content-type", "multipart/form-data; boundary=cut"),)
    files = 'name="files"; filename="m.safetensors"'
    outputs = client.answer("/models/net/run", inputs=X.tolist())["outputs"]
    golden = {"golden": {"inputs": X.tolist(), "outputs": outputs, "tolerance": 1e-3}}
    parts = (
        [_part(files, save(GRU))],
        [_part(files, save(READER)), _part('name="config"', json.dumps(READING).encode())],
        [_part('name="config"', json.dumps(golden).encode()), _part(files, save(GRU))],
    )
    return [Request("/models/sent", b"".join(some) + b"--cut--\r\n", kind, "PUT") for some in parts]


def change_multipart(request: Request, draw: random.Random) -> Request:
    if draw.random() < 0.1:
        odd = (
            "",
            "multipart/form-data",
            'multipart/form-data; boundary="',
            "multipart/form-data; boundary=" + "x" * 300,
        )
        return replace(request, headers=(("content-type", draw.choice(odd)),))
    return body(mutate.text if draw.random() < 0.4 else mutate.raw)(request, draw)


def of_compressed(_: Client) -> list[Request]:
    plain = json.dumps(NET).encode()
    packed = {"gzip": gzip.compress(plain), "deflate": zlib.compress(plain), "zstd": zstd.compress(plain)}
    packed["gzip "] = gzip.compress(plain) + gzip.compress(b" " * (1 << 17))
    packed["deflate "] = zlib.compress(plain + b" " * (MIB // 2))
    headers = {name: (("content-encoding", name.strip()),) for name in packed}
    return [Request("/run", data, headers[name]) for name, data in packed.items()]


def change_compressed(request: Request, draw: random.Random) -> Request:
    if request.headers[0][1] == "zstd":
        return body(mutate.raw)(request, draw)
    inside = mutate.as_json if len(request.content) < SMALL else mutate.raw
    return body(mutate.inside_zlib(inside))(request, draw)


# -- files -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Files:
    """Those of a model, and what their owner said of them."""

    contents: dict[str, bytes]
    config: dict[str, Any]
    checksums: bool = True  # whether those inside of a checkpoint must fit


def recorded(kind: str, *ends: str) -> Callable[[Client], list[Files]]:
    """Files that a framework wrote, small ones."""

    def seeds(_: Client) -> list[Files]:
        found = []
        for case in sorted((RECORDED / kind).glob("*/case.json")):
            told = json.loads(case.read_text())
            contents = {name: (case.parent / name).read_bytes() for name in told["files"]}
            if all(name.endswith(ends) or ".data-" in name for name in contents):
                found.append(Files(contents, told.get("config") or {}))
        return found

    return seeds


def in_files(change: Bytes) -> Callable[[Files, random.Random], Files]:
    """One of the files changed; now and then, the config."""

    def changed(files: Files, draw: random.Random) -> Files:
        if files.config and draw.random() < 0.1:
            config = mutate.tree(files.config, draw)
            return replace(files, config=config if isinstance(config, dict) else {})
        name = draw.choice(sorted(files.contents))
        return replace(files, contents=files.contents | {name: change(files.contents[name], draw)})

    return changed


def without_checksums(
    change: Callable[[Files, random.Random], Files],
) -> Callable[[Files, random.Random], Files]:
    """The same, with checksums that always fit in most cases: who writes a bad checkpoint can make them fit."""
    return lambda files, draw: replace(change(files, draw), checksums=draw.random() < 0.2)


class Fits(int):
    """A checksum that is equal to any other."""

    __hash__ = int.__hash__

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False


#: In which the HDF5 library must have read a file; a service gives it more.
HDF5_SECONDS = 5.0


class Forked:
    """In place of `subprocess` in hdf5.py: its process begins as a copy of this one, which has loaded h5py already.

    All else is as there: limits, exit codes, and that nothing but that process crashes.
    """

    DEVNULL, TimeoutExpired = subprocess.DEVNULL, subprocess.TimeoutExpired

    @staticmethod
    def run(command: list[str], *, timeout: float, **_: Any) -> subprocess.CompletedProcess[bytes]:
        read_end, write_end = os.pipe()
        if (pid := os.fork()) == 0:
            os.dup2(write_end, 1)
            sys.stdout = open(1, "w")  # noqa: SIM115 - until the process ends
            code = 1
            try:
                hdf5_child.main(json.loads(command[-1]))
                code = 0
            finally:
                os._exit(code)
        os.close(write_end)
        with open(read_end, "rb") as told:
            if not select.select([told], [], [], timeout)[0]:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise subprocess.TimeoutExpired(command, timeout)
            said = told.read()
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return subprocess.CompletedProcess(command, status, said, b"")


def understood(_: Client, files: Files) -> bool:
    """Whether files are read, as an upload is read. Raises a Finding for what a reader did not foresee."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / name for name in files.contents}
        for name, path in paths.items():
            path.write_bytes(files.contents[name])
        try:
            with ExitStack() as stack:
                stack.enter_context(mock.patch.object(hdf5, "subprocess", Forked))
                stack.enter_context(mock.patch.object(hdf5, "_TIMEOUT", HDF5_SECONDS))
                if not files.checksums:
                    stack.enter_context(mock.patch.object(checkpoint, "masked", Fits))
                Network.from_blueprint(read(paths, files.config))
        except EngineError as error:
            # what a reader did not expect is told as its file's fault; here it counts
            if isinstance(error.__cause__, Exception) and "cannot be read as" in str(error):
                raise Finding(f"{error}") from error.__cause__
            return False
    return True


TARGETS: dict[str, Target] = {
    "json": Target(of_json, body(mutate.as_json), answered),
    "safetensors-body": Target(of_safetensors, body(mutate.as_safetensors), answered),
    "v2": Target(of_v2, change_v2, answered),
    "v1": Target(of_v1, body(mutate.as_json), answered),
    "tokens": Target(of_tokens, change_token, answered),
    "generate": Target(of_generate, body(mutate.as_json), answered),
    "multipart": Target(of_multipart, change_multipart, answered),
    "compressed": Target(of_compressed, change_compressed, answered),
    "lines": Target(of_lines, change_lines, streamed),
    "frames": Target(of_frames, body(mutate.as_safetensors), framed),
    "keys": Target(of_keys, mutate.text, keyed),
    "safetensors": Target(recorded("pytorch", ".safetensors"), in_files(mutate.as_safetensors), understood),
    "keras": Target(recorded("keras", ".keras"), in_files(mutate.as_zip), understood),
    "hdf5": Target(recorded("keras", ".h5"), in_files(mutate.raw), understood),
    "tensorflow": Target(recorded("tensorflow", ".index"), without_checksums(in_files(mutate.raw)), understood),
    "onnx": Target(recorded("onnx", ".onnx"), in_files(mutate.raw), understood),
}


@contextmanager
def stocked() -> Iterator[Client]:
    """A service with the models that requests name."""
    with ExitStack() as stack:
        client = stack.enter_context(service(**SETTINGS))
        registered(client, "net", GRU)
        registered(client, "reader", READER, READING)
        registered(client, "writer", TENSORS, CONFIG)
        yield client
