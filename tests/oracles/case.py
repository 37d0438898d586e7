"""One recurrent net, one batch, and what a framework answered: the form that all oracles and goldens share.

Everything is in the vocabulary of the HTTP contract, so that a case can be handed to the engine as it stands.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Case:
    """A net with its weights, and the batch it is run on. Letters: B batch, T time, D input size, U units."""

    name: str
    cell: str  # "rnn", "lstm" or "gru"
    weights: dict[str, Any]  # {"layout": "pytorch", "state_dict": {...}} or {"layout": ..., "layers": [...]}, of arrays
    inputs: Array  # [B, T, D], whatever time_major says
    lengths: Array | None = None  # [B] int64; None: every row is T long
    initial_state: list[dict[str, Any]] | None = None  # a dict per layer, as `state` in a response, of arrays
    cell_options: dict[str, Any] = field(default_factory=dict)  # JSON values only

    @property
    def dtype(self) -> str:
        return str(self.inputs.dtype)


@dataclass(frozen=True)
class Answer:
    """What the framework computed. Rows past their length are exactly 0 in `outputs`."""

    outputs: Array  # [B, T, U], or [B, T, 2U] with forward and backward concatenated
    state: list[
        dict[str, Any]
    ]  # a dict per layer: {"h": [B, U]}, {"c": ..., "h": ...} or {"forward": ..., "backward": ...}


def save(path: Path, recorded: Iterable[tuple[Any, Any]], *, source: str) -> None:
    """Writes cases with their answers to one .npz; `source` names the framework and its version.

    Either may be any object whose attributes are arrays, JSON values, or dicts and lists of them.
    """
    arrays: dict[str, Array] = {}
    manifest = []
    for number, (case, answer) in enumerate(recorded):

        def put(tree: Any, where: str, number: int = number) -> Any:
            if isinstance(tree, np.ndarray):
                arrays[f"{number}{where}"] = tree
                return {"$array": f"{number}{where}"}
            if isinstance(tree, dict):
                return {key: put(value, f"{where}/{key}") for key, value in tree.items()}
            if isinstance(tree, (list, tuple)):
                return [put(value, f"{where}/{i}") for i, value in enumerate(tree)]
            return tree

        manifest.append({"case": put(vars(case), "/case"), "answer": put(vars(answer), "/answer")})
    arrays["manifest"] = np.array(json.dumps({"source": source, "cases": manifest}))
    np.savez_compressed(path, **arrays)


def load(path: Path) -> list[tuple[Case, Answer]]:
    """Reads what `save` wrote."""
    return [(Case(**case), Answer(**answer)) for case, answer in load_attributes(path)]


def load_attributes(path: Path) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Reads what `save` wrote of any objects, as their attributes by name."""
    with np.load(path, allow_pickle=False) as stored:
        arrays = {key: stored[key] for key in stored.files}

    def take(tree: Any) -> Any:
        if isinstance(tree, dict):
            return arrays[tree["$array"]] if "$array" in tree else {key: take(value) for key, value in tree.items()}
        return [take(value) for value in tree] if isinstance(tree, list) else tree

    manifest = json.loads(str(arrays["manifest"]))
    return [(take(item["case"]), take(item["answer"])) for item in manifest["cases"]]
