"""Requests and answers of TensorFlow Serving's REST predict call, by row (`instances`) and by column (`inputs`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from app.answers import Content
from app.codecs.safetensors import with_tensors
from app.problems import Problem
from app.protocols import text
from app.protocols.tensors import IDS, Tensor, by_name, inputs_of, outputs_of
from app.registry.models import Version
from app.trees import Ragged, taken_apart
from rnn_engine import Network
from rnn_engine.errors import shown
from rnn_engine.types import Array

SIGNATURE = "serving_default"
FIELDS = ("signature_name", "instances", "inputs")
DTYPES = {"FP32": "DT_FLOAT", "INT64": "DT_INT64"}


def by_row(tree: Mapping[str, Any]) -> Content:
    """{"predictions": a list with what each row gives}."""
    arrays = taken_apart(tree)[1]
    lengths = arrays.pop("lengths")
    rows = [_row(arrays, k, int(length), tree) for k, length in enumerate(lengths)]
    return Content("application/json", [text.dumps({"predictions": rows})])


def by_column(tree: Mapping[str, Any]) -> Content:
    """{"outputs": what all rows give together}."""
    arrays = taken_apart(tree)[1]
    del arrays["lengths"]
    whole = {name: text.listed(array) for name, array in arrays.items()}
    return Content("application/json", [text.dumps({"outputs": _alone(whole)})])


def _row(arrays: Mapping[str, Array], k: int, length: int, tree: Mapping[str, Any]) -> Any:
    over_time = {name for name in ("outputs", "predictions") if name in tree and np.ndim(tree[name]) == 3}
    row = {name: text.listed(array[k, :length] if name in over_time else array[k]) for name, array in arrays.items()}
    return _alone(row)


def _alone(tensors: dict[str, Any]) -> Any:
    """One tensor without its name, as the protocol has it."""
    return next(iter(tensors.values())) if len(tensors) == 1 else tensors


def read(body: bytes, version: Version) -> tuple[dict[str, Any], Callable[[Mapping[str, Any]], Content]]:
    """The fields of /run, and what writes the answer, of a body. Raises a 400 where something does not fit."""
    request = text.read(body, FIELDS, '{"instances": […]}')
    signature = request.get("signature_name", SIGNATURE)
    if not isinstance(signature, str) or signature not in ("", SIGNATURE):
        raise Problem(400, f"signature_name is {shown(signature)}: there is {SIGNATURE!r}", ("signature_name",))
    given = [name for name in ("instances", "inputs") if name in request]
    if len(given) != 1:
        what = "both" if given else "neither"
        raise Problem(400, f"{what} of `instances` (by row) and `inputs` (by column) are there: give one of them", ())
    net = version.network()
    rows = given == ["instances"]
    tensors = _rows(request["instances"], net) if rows else _columns(request["inputs"], net)
    if "inputs" not in tensors:
        raise Problem(400, "the input `inputs` is missing", (given[0],))
    arrays = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, np.ndarray)}
    fields = with_tensors({name: tensors[name] for name in tensors.keys() - arrays.keys()}, arrays)
    fields |= {"model": f"{version.name}:{version.number}", "return": returned(net)}
    return fields, by_row if rows else by_column


def returned(net: Network) -> list[str]:
    """Predictions alone where there is a readout, else outputs and the state."""
    return ["predictions"] if net.predicts else ["outputs", "state"]


def _columns(given: Any, net: Network) -> dict[str, Any]:
    """Named tensors, or the input `inputs` alone."""
    if not isinstance(given, dict):
        return {"inputs": given}
    specs = inputs_of(net)
    return {by_name(specs, name, ("inputs",), "input").name: value for name, value in given.items()}


def _rows(given: Any, net: Network) -> dict[str, Any]:
    """A list of sequences, or of objects with what belongs to one row each."""
    if not isinstance(given, list):
        if not isinstance(given, (np.ndarray, Ragged)):
            raise Problem(400, "`instances` must be a list with one entry a row", ("instances",))
        return {"inputs": given}
    if not all(isinstance(one, dict) for one in given):
        k = next(k for k, one in enumerate(given) if not isinstance(one, dict))
        said = "expected a sequence of numbers, or an object of named inputs; all rows alike"
        raise Problem(400, f"/instances/{k}: {said}", ("instances", k))
    specs, names = inputs_of(net), given[0].keys()
    for k, one in enumerate(given):
        if one.keys() != names:
            raise Problem(400, f"/instances/{k} has other inputs than /instances/0", ("instances", k))
    return {
        name: _column(by_name(specs, name, ("instances", 0), "input"), [one[name] for one in given]) for name in names
    }


def _column(spec: Tensor, rows: Sequence[Any]) -> Array | Ragged:
    """What all rows have of an input, together."""
    if len(spec.shape) == 1:
        if not all(type(row) is int and abs(row) < 1 << 63 for row in rows):
            raise Problem(400, f"`{spec.name}` of a row must be a whole number", ("instances",))
        return np.array(rows, np.int64)
    arrays = []
    for k, row in enumerate(rows):
        array = row
        if isinstance(row, np.ndarray) and row.shape == (0,) and len(spec.shape) == 3:
            array = np.zeros((0, spec.shape[2]))  # [] names no features
        if not isinstance(array, np.ndarray) or array.ndim != len(spec.shape) - 1:
            expected = "a list of lists of numbers" if len(spec.shape) == 3 else "a list of numbers"
            raise Problem(400, f"/instances/{k}/{spec.name}: expected {expected}", ("instances", k, spec.name))
        arrays.append(array)
    shapes = {array.shape for array in arrays}
    if len(shapes) == 1:
        return np.stack(arrays)
    if spec.name != "inputs" or len({shape[1:] for shape in shapes}) != 1:
        raise Problem(400, f"`{spec.name}` has other sizes in some rows than in others", ("instances",))
    if spec.datatype == IDS:
        arrays = [array if array.size else array.astype(np.int64) for array in arrays]
    return Ragged(np.concatenate(arrays), np.array([len(array) for array in arrays], np.int64))


def status(index: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """The state of versions, the newest first, of what the registry's index tells of them."""
    return {"model_version_status": [_state(one) for one in sorted(index, key=lambda one: -int(one["version"]))]}


def _state(one: Mapping[str, str]) -> dict[str, Any]:
    fine = one["state"] == "READY"
    error = {"error_code": "OK" if fine else "UNAVAILABLE", "error_message": one["reason"]}
    return {"version": one["version"], "state": "AVAILABLE" if fine else "END", "status": error}


def metadata(version: Version) -> dict[str, Any]:
    """A version's signature, as TensorFlow Serving writes one."""
    net = version.network()
    given = [spec for spec in outputs_of(net) if spec.name.partition(".")[0] in returned(net)]
    signature = {
        "inputs": _signature(inputs_of(net), lambda name: f"{SIGNATURE}_{name}:0"),
        "outputs": _signature(given, lambda name: f"StatefulPartitionedCall_{name}:0"),
        "method_name": "tensorflow/serving/predict",
        "defaults": {},
    }
    return {
        "model_spec": {"name": version.name, "signature_name": "", "version": str(version.number)},
        "metadata": {"signature_def": {"signature_def": {SIGNATURE: signature}}},
    }


def _signature(specs: Sequence[Tensor], named: Callable[[str], str]) -> dict[str, Any]:
    return {
        spec.name: {
            "dtype": DTYPES[spec.datatype],
            "tensor_shape": {"dim": [{"size": str(n), "name": ""} for n in spec.shape], "unknown_rank": False},
            "name": named(spec.name),
        }
        for spec in specs
    }
