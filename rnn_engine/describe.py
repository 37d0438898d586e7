"""A network in words and numbers: what its layers are, and what stands in front of them and behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rnn_engine.front import Front
from rnn_engine.layer import Layer
from rnn_engine.readout import Dense


def told_once(values: Sequence[Any]) -> Any:
    """What all layers have in common, or the list of what each has."""
    return values[0] if all(value == values[0] for value in values) else list(values)


def summary(
    layers: Sequence[Layer],
    *,
    num_units: list[int],
    input_size: int,
    bidirectional: bool | list[bool],
    parameters: int,
    kernel: str,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """The network that answered, in few words."""
    residual = [layer.residual for layer in layers]
    return {
        "cell": told_once([layer.kind.name for layer in layers]),
        "num_layers": len(layers),
        "num_units": num_units,
        "input_size": input_size,
        "bidirectional": bidirectional,
        "parameters": parameters,
        "state_size": [layer.state_size() for layer in layers],
        "output_size": layers[-1].output_size,
        "kernel": kernel,
        **({"cell_options": dict(options)} if options else {}),
        **({"residual": residual} if any(residual) else {}),
    }


def metadata(layers: Sequence[Layer], front: Front, readout: Sequence[Dense], gives: str) -> dict[str, Any]:
    """The parts of a trained network, for whoever asks what was understood."""
    embedding = None
    if front.embedding is not None:
        vocabulary, size = front.embedding.table.shape
        embedding = {"vocabulary_size": vocabulary, "embedding_size": size}
    mask = {"token": front.mask_token, "value": front.mask_value}
    return {
        "embedding": embedding,
        "layers": [_layer(layer) for layer in layers],
        "readout": [dense.describe() for dense in readout] or None,
        "input_size": front.input_size,
        "output_size": layers[-1].output_size,
        "return_sequences": gives == "sequence",
        **({"mask": {name: value for name, value in mask.items() if value is not None}} if front.masks else {}),
        **({"readout_of": gives} if gives == "last_step" else {}),
        **({"lengths": front.lengths.tolist()} if front.lengths is not None else {}),
    }


def _layer(layer: Layer) -> dict[str, Any]:
    return {
        "name": layer.name,
        "cell": layer.kind.name,
        "options": layer.options,
        "units": layer.first.num_units,
        "input_size": layer.first.input_size,
        "output_size": layer.output_size,
        "bidirectional": layer.bidirectional,
        "parameters": sum(cell.count(cell.input_size) for cell in layer.cells.values()),
        **({"merge_mode": layer.merge} if layer.bidirectional else {}),
        **({"go_backwards": True} if layer.go_backwards else {}),
        **({"initial_state": "of its own"} if layer.initial_state is not None else {}),
    }
