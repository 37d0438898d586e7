"""Inference requests and answers of the Open Inference Protocol v2, with its binary tensor data extension.

The body is a JSON object; behind it may stand the tensors that are sent as binary data, in the order in which it names
them, little-endian and row-major. Then the header Inference-Header-Content-Length tells how long the object is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from app.answers import Content
from app.codecs import json
from app.codecs.safetensors import with_tensors
from app.problems import Problem
from app.protocols import text
from app.protocols.tensors import IDS, Tensor, by_name, inputs_of, outputs_of, returned
from app.registry.models import Version
from app.schemas import plain
from app.trees import Ragged, taken_apart
from rnn_engine.errors import shown
from rnn_engine.types import Array

HEADER = b"inference-header-content-length"

DATATYPES: dict[str, np.dtype[Any]] = {"FP32": np.dtype("<f4"), "FP64": np.dtype("<f8"), "INT64": np.dtype("<i8")}
NAMES = {np.dtype(np.float32): "FP32", np.dtype(np.float64): "FP64", np.dtype(np.int64): "INT64"}

#: What a tensor that is said to be of the first may be sent as.
TAKEN = {"FP32": ("FP32", "FP64"), "INT64": ("INT64",)}
DTYPES = {"FP32": "float32", "FP64": "float64", "INT64": "float32"}

MOST_AXES = 8
ALIGNMENT = 8
FIELDS = ("id", "parameters", "inputs", "outputs", "model_name", "model_version")
#: Parameters that would change the answer, if what they belong to were offered.
NOT_OFFERED = {
    "classification": "the classification extension",
    "shared_memory_region": "shared memory",
}
#: Parameters of a request, which say nothing of one tensor.
OF_REQUESTS = ("sequence_id", "sequence_start", "sequence_end")


@dataclass(frozen=True)
class Wanted:
    """An output that the answer shall have."""

    name: str
    binary: bool


@dataclass(frozen=True)
class Reply:
    """How a request is to be answered."""

    outputs: Sequence[Wanted]
    id: str | None = None

    def write(self, version: Version, tree: Mapping[str, Any]) -> Content:
        """The answer: an object, and behind it the outputs that are asked for as binary data."""
        arrays = taken_apart({name: part for name, part in tree.items() if name != "model"})[1]
        told, parts = [], []
        for wanted in self.outputs:
            array = np.ascontiguousarray(arrays[wanted.name])
            output: dict[str, Any] = {"name": wanted.name, "datatype": NAMES[array.dtype], "shape": list(array.shape)}
            if wanted.binary:
                output["parameters"] = {"binary_data_size": array.nbytes}
                parts += [array.reshape(-1).view(np.uint8).data] if array.size else []
            else:
                output["data"] = text.listed(array.reshape(-1))
            told.append(output)
        head: dict[str, Any] = {"model_name": version.name, "model_version": str(version.number)}
        head |= {"outputs": told} if self.id is None else {"id": self.id, "outputs": told}
        body = text.dumps(head)
        if not any(wanted.binary for wanted in self.outputs):
            return Content("application/json", [body])
        return Content("application/octet-stream", [body, *parts], ((HEADER, str(len(body)).encode()),))


def header_length(value: str | None) -> int | None:
    """The header, as a number. Raises a 400 for what is none."""
    if value is None:
        return None
    if not (value.isascii() and value.isdigit() and len(value) < 16):
        raise Problem(400, f"Inference-Header-Content-Length is {value!r:.40}: expected a whole number of bytes")
    return int(value)


def aligning(length: int | None) -> bytes:
    """Spaces in front of a body, which mean nothing there: behind its JSON, arrays then need no copy to be used."""
    return b" " * (-(length or 0) % ALIGNMENT)


@dataclass(frozen=True)
class Request:
    """A body that was read so far as it says the same of any model."""

    parameters: Mapping[str, Any]
    #: The fields of /run and how to answer, for a version. Raises a 400 where something does not fit it.
    of: Callable[[Version], tuple[dict[str, Any], Reply]]


def read(body: bytes, length: int | None) -> Request:
    """A request's body, of which `length` bytes are JSON; None: all. It has `aligning(length)` in front.

    Raises a 400 where it does not parse.
    """
    if length == 0:
        return Request({}, partial(_of_raw, body))
    if length is not None:
        before = len(aligning(length))
        if length > len(body) - before:
            said = f"past the end of the body of {len(body) - before} bytes"
            raise Problem(400, f"Inference-Header-Content-Length is {length}, which is {said}")
        length += before
    request = text.read(body if length is None else body[:length], FIELDS, '{"inputs": [{"name": …}]}')
    binary = _Binary(memoryview(body)[len(body) if length is None else length :], has_length=length is not None)
    parameters = _parameters(request, ("parameters",))
    return Request(parameters, partial(_of_tensors, request, parameters, binary))


def _of_tensors(
    request: Mapping[str, Any], parameters: Mapping[str, Any], binary: _Binary, version: Version
) -> tuple[dict[str, Any], Reply]:
    net = version.network()
    tensors: dict[str, Array] = {}
    fields: dict[str, Any] = {"model": f"{version.name}:{version.number}", "dtype": "float32"}
    specs = inputs_of(net)
    for k, given in enumerate(_list(request, "inputs")):
        where = ("inputs", k)
        spec = by_name(specs, _member(given, where).get("name"), where, "input")
        if spec.name in tensors:
            raise Problem(400, f"the input {spec.name!r} is given twice", where)
        tensors[spec.name], datatype = _tensor(given, spec, where, binary)
        if spec.name == "inputs":
            fields["dtype"] = DTYPES[datatype]
    binary.check_end()
    if "inputs" not in tensors:
        raise Problem(400, "the input `inputs` is missing", ("inputs",))
    fields |= _of_parameters(parameters)
    outputs = _outputs(request, outputs_of(net), flag(parameters, "binary_data_output", ("parameters",)) or False)
    fields["return"] = returned([wanted.name for wanted in outputs])
    return with_tensors(fields, tensors), Reply(outputs, _id(request))


def _of_raw(body: bytes, version: Version) -> tuple[dict[str, Any], Reply]:
    """A body that is one row of the input `inputs` and nothing else; all is answered as binary data."""
    net = version.network()
    spec = inputs_of(net)[0]
    kind = DATATYPES[spec.datatype]
    step = kind.itemsize * math.prod(spec.shape[2:])
    if not body or len(body) % step:
        raise Problem(400, f"the body has {len(body)} bytes, expected time steps of {step} bytes each", ("inputs",))
    array = np.frombuffer(body, kind).reshape(1, -1, *spec.shape[2:])
    outputs = [Wanted(output.name, True) for output in outputs_of(net)]
    names = returned([wanted.name for wanted in outputs])
    return {"model": f"{version.name}:{version.number}", "inputs": array, "return": names}, Reply(outputs)


class _Binary:
    """The bytes behind the object, taken tensor by tensor."""

    def __init__(self, data: memoryview, *, has_length: bool) -> None:
        self._data, self._at, self._has_length = data, 0, has_length

    def take(self, size: int, where: Sequence[str | int]) -> memoryview:
        """The next tensor's. Raises a 400 where there are too few."""
        if not self._has_length:
            raise Problem(400, "binary data needs the header Inference-Header-Content-Length", where)
        left = len(self._data) - self._at
        if size > left:
            raise Problem(400, f"binary_data_size is {size}, but {left} bytes are left in the body", where)
        self._at += size
        return self._data[self._at - size : self._at]

    def check_end(self) -> None:
        """Raises a 400 for bytes that belong to no tensor."""
        left = len(self._data) - self._at
        if left:
            raise Problem(400, f"{left} bytes of the body belong to no input: binary_data_size says how many do")


def _tensor(given: Mapping[str, Any], spec: Tensor, where: tuple[str | int, ...], binary: _Binary) -> tuple[Array, str]:
    datatype = given.get("datatype")
    if not isinstance(datatype, str) or datatype not in TAKEN[spec.datatype]:
        expected = " or ".join(TAKEN[spec.datatype])
        raise Problem(
            400, f"the datatype of {spec.name!r} is {shown(datatype)}, expected {expected}", (*where, "datatype")
        )
    shape = _shape(given.get("shape"), (*where, "shape"))
    size = _binary_size(_parameters(given, (*where, "parameters")), (*where, "parameters"))
    if (size is None) == ("data" not in given):
        both = "both" if size is not None else "neither"
        raise Problem(
            400, f"the input {spec.name!r} has {both} of `data` and binary_data_size: give one of them", where
        )
    if size is None:
        array = _of_data(given["data"], shape, datatype, (*where, "data"))
    else:
        kind = DATATYPES[datatype]
        expected_size = math.prod(shape) * kind.itemsize
        if size != expected_size:
            said = f"binary_data_size is {size}, but shape {shown(shape)} of {datatype} takes {expected_size} bytes"
            raise Problem(400, said, (*where, "parameters"))
        array = np.frombuffer(binary.take(size, where), kind).reshape(shape)
    if spec.name == "lengths" and array.ndim == 2 and array.shape[1] == 1:
        array = array.reshape(-1)  # as clients send it that put a batch axis before every shape of the configuration
    return array, datatype


def _shape(given: Any, where: Sequence[str | int]) -> list[int]:
    sizes = plain(given)
    fine = isinstance(sizes, list) and len(sizes) <= MOST_AXES and all(type(n) is int and n >= 0 for n in sizes)
    if not fine or math.prod(n for n in sizes if n) > json.MAX_SIZE:
        raise Problem(400, f"shape is {shown(sizes)}: expected a list of whole numbers from 0 on", where)
    return sizes


def _of_data(given: Any, shape: list[int], datatype: str, where: Sequence[str | int]) -> Array:
    """Numbers of JSON, nested as the shape says or flat."""
    if isinstance(given, Ragged) or not isinstance(given, np.ndarray):
        raise Problem(400, "`data` must be numbers, nested to match `shape` or flat in row-major order", where)
    if given.size and datatype == IDS and given.dtype.kind != "i":
        raise Problem(400, f"`data` has numbers that are not whole, or too large, which {IDS} cannot hold", where)
    if given.size != math.prod(shape) or not (given.ndim == 1 or list(given.shape) == shape or not given.size):
        raise Problem(400, f"`data` has shape {list(given.shape)}, but shape is {shown(shape)}", where)
    array = given.reshape(shape)
    return array.astype(DATATYPES[datatype]) if not array.size else array


def _binary_size(parameters: Mapping[str, Any], where: Sequence[str | int]) -> int | None:
    size = parameters.get("binary_data_size")
    if size is not None and (type(size) is not int or size < 0):
        raise Problem(400, f"binary_data_size is {shown(size)}: expected a whole number of bytes from 0 on", where)
    return size


def _parameters(of: Mapping[str, Any], where: Sequence[str | int]) -> dict[str, Any]:
    """Parameters of a request or a tensor. Those that nobody knows here say nothing; a 501 for what is not offered."""
    given = plain(of.get("parameters"))
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise Problem(400, f"parameters are {shown(given)}: expected an object", where)
    for name, extension in NOT_OFFERED.items():
        if given.get(name):
            raise Problem(501, f"{name}: {extension} is not offered", (*where, name))
    for name in OF_REQUESTS if len(where) > 1 else ():
        if given.get(name):
            raise Problem(400, f"{name} belongs to the request's `parameters`, not to a tensor's", (*where, name))
    return given


def flag(parameters: Mapping[str, Any], name: str, where: Sequence[str | int]) -> bool | None:
    """A parameter that is true or false; None where it is not there. Raises a 400 for what is neither."""
    value = parameters.get(name)
    if value is not None and not isinstance(value, bool):
        raise Problem(400, f"{name} is {shown(value)}: expected true or false", (*where, name))
    return value


def _of_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of /run that a request's parameters stand for: `dtype`, and `timeout` in microseconds."""
    fields: dict[str, Any] = {}
    timeout = parameters.get("timeout")
    if timeout is not None and (type(timeout) is not int or timeout < 0):
        raise Problem(400, f"timeout is {shown(timeout)}: expected a whole number of µs", ("parameters", "timeout"))
    if timeout:
        fields["timeout_ms"] = -(-timeout // 1000)
    if "dtype" in parameters:
        fields["dtype"] = parameters["dtype"]
    return fields


def _outputs(request: Mapping[str, Any], specs: Sequence[Tensor], binary: bool) -> list[Wanted]:
    """The outputs that are named; all if none are."""
    if request.get("outputs") is None or len(_list(request, "outputs")) == 0:
        return [Wanted(spec.name, binary) for spec in specs]
    found: dict[str, Wanted] = {}
    for k, given in enumerate(_list(request, "outputs")):
        where = ("outputs", k)
        name = by_name(specs, _member(given, where).get("name"), where, "output").name
        if name in found:
            raise Problem(400, f"the output {name!r} is asked for twice", where)
        chosen = flag(_parameters(given, (*where, "parameters")), "binary_data", (*where, "parameters"))
        found[name] = Wanted(name, binary if chosen is None else chosen)
    return list(found.values())


def _list(request: Mapping[str, Any], name: str) -> Sequence[Any]:
    given = request.get(name)
    if isinstance(given, np.ndarray) and given.shape == (0,):
        given = []
    if not isinstance(given, list):
        raise Problem(400, f'`{name}` must be a list of tensors: {{"name": …}}', (name,))
    return given


def _member(given: Any, where: Sequence[str | int]) -> Mapping[str, Any]:
    if not isinstance(given, dict):
        raise Problem(400, "expected a tensor: an object with its `name`", where)
    return given


def _id(request: Mapping[str, Any]) -> str | None:
    given = request.get("id")
    if given is not None and not isinstance(given, str):
        raise Problem(400, f"id is {shown(plain(given))}: expected a string", ("id",))
    return given
