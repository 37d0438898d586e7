"""Keras files made by hand, for what no installed Keras writes any more, or never wrote."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from rnn_engine.formats import hdf5_child

BLOCKS = {"SimpleRNN": 1, "GRU": 3, "LSTM": 4, "CuDNNLSTM": 4, "CuDNNGRU": 3}
VARIABLES = ("kernel", "recurrent_kernel", "bias")
RNG = np.random.default_rng(7)


def run_here(path: Path, out: Path, limit: int, skip: tuple[str, ...], timeout: float) -> None:
    """In place of `hdf5._run`: the same without a process, for files that are known to do no harm."""
    with h5py.File(path, "r") as file:
        walk = hdf5_child.Walk(h5py, limit, set(skip))
        walk.group(file, "", 0)
        hdf5_child._write(str(out), walk)


def numbers(*shape: int) -> Any:
    """Random weights."""
    return RNG.normal(scale=0.5, size=shape).astype("float32")


def cell(kind: str, size: int, units: int, bias_rank: int = 1) -> list[Any]:
    """A cell's kernel, recurrent kernel and bias."""
    columns = BLOCKS[kind] * units
    bias = [[], [numbers(columns)], [numbers(2, columns)]][bias_rank]
    return [numbers(size, columns), numbers(units, columns), *bias]


def layer(kind: str, name: str, **config: Any) -> dict[str, Any]:
    """One entry of a config's list of layers."""
    return {"class_name": kind, "config": {"name": name, **config}}


def rnn(kind: str, name: str, **config: Any) -> dict[str, Any]:
    """A recurrent layer's entry, with Keras 3's defaults for what a config always says."""
    said = {"return_sequences": True, "activation": "tanh", "use_bias": True}
    said |= {} if kind == "SimpleRNN" else {"recurrent_activation": "sigmoid"}
    said |= {"reset_after": True} if kind == "GRU" else {}
    return layer(kind, name, **(said | config))


def sequential(*layers: dict[str, Any]) -> dict[str, Any]:
    """A Sequential model's config."""
    return {"class_name": "Sequential", "config": {"name": "sequential", "layers": list(layers)}}


def functional(nodes: dict[str, Any], layers: list[dict[str, Any]], outputs: list[str]) -> dict[str, Any]:
    """A functional model's config as Keras 2 writes it: `nodes` are each layer's calls, lists of layers' names."""
    entries = [
        entry
        | {
            "name": entry["config"]["name"],
            "inbound_nodes": [[[name, 0, 0, {}] for name in call] for call in nodes.get(entry["config"]["name"], [])],
        }
        for entry in layers
    ]
    config = {"name": "model", "layers": entries, "input_layers": [], "output_layers": [[n, 0, 0] for n in outputs]}
    return {"class_name": "Functional", "config": config}


def keras3_node(name: str, **keywords: str) -> list[dict[str, Any]]:
    """Keras 3's inbound_nodes of a layer called once, on the output of another; masks and states by keyword."""
    tensor = {"class_name": "__keras_tensor__", "config": {"keras_history": [name, 0, 0]}}
    kwargs = {
        key: {"class_name": "__keras_tensor__", "config": {"keras_history": [of, 0, 0]}} for key, of in keywords.items()
    }
    return [{"args": [tensor], "kwargs": kwargs}]


def paths(**layers: list[Any]) -> dict[str, Any]:
    """Datasets of a Keras 3 file: layers/<name>/vars/<k>, the parts of a name parted by two underscores."""
    return {
        f"layers/{name.replace('__', '/')}/vars/{k}": array
        for name, arrays in layers.items()
        for k, array in enumerate(arrays)
    }


def weights_file(path: Path, arrays: dict[str, Any]) -> Path:
    """A `.weights.h5`, its datasets written in the order given."""
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return path


def archive(path: Path, model: Any, arrays: dict[str, Any], version: str = "3.15.1") -> Path:
    """A `.keras` archive."""
    inner = weights_file(path.with_suffix(".inner"), arrays)
    with zipfile.ZipFile(path, "w") as zipped:
        zipped.writestr("metadata.json", json.dumps({"keras_version": version}))
        zipped.writestr("config.json", model if isinstance(model, str) else json.dumps(model))
        zipped.writestr("model.weights.h5", inner.read_bytes())
    inner.unlink()
    return path


def legacy(
    path: Path,
    groups: dict[str, dict[str, Any]],
    model: Any = None,
    version: str | None = "2.2.4",
    pieces: int = 1,
    text: Any = np.bytes_,
) -> Path:
    """A whole model (or without a config, its weights) in a legacy `.h5`; lists of names are cut into `pieces`."""

    def put(attributes: Any, name: str, values: list[str]) -> None:
        array = np.array(values, dtype="S") if text is np.bytes_ and values else values
        if pieces == 1:
            attributes[name] = array
        else:
            for k, piece in enumerate(np.array_split(np.array(array, dtype=object), pieces)):
                attributes[f"{name}{k}"] = [text(item) for item in piece]

    with h5py.File(path, "w") as file:
        root = file if model is None else file.create_group("model_weights")
        if model is not None:
            file.attrs["model_config"] = text(json.dumps(model).encode()) if text is np.bytes_ else json.dumps(model)
        if version is not None:
            root.attrs["keras_version"] = text(version)
        put(root.attrs, "layer_names", list(groups))
        for name in sorted(groups):
            group = root.create_group(name)
            put(group.attrs, "weight_names", list(groups[name]))
            for weight, array in groups[name].items():
                group[weight] = array
    return path
