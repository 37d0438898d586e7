"""Models to register, and the multipart body that registers them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from safetensors.numpy import save

CONTENT_TYPE = {"Content-Type": "multipart/form-data; boundary=cut"}


def gru(units: int = 8, size: int = 4, *, ballast: int = 0, seed: int = 0) -> bytes:
    """A file with a GRU, and so many bytes that belong to nothing."""
    normal = np.random.default_rng(seed).normal
    tensors = {"weight_ih_l0": normal(size=(3 * units, size)), "weight_hh_l0": normal(size=(3 * units, units))}
    tensors |= {"left.over": normal(size=ballast // 8)} if ballast else {}
    return save({name: tensor / 2 for name, tensor in tensors.items()})


def writer(words: int = 12, units: int = 16, size: int = 5) -> tuple[bytes, dict[str, Any]]:
    """A file with a GRU that reads and writes tokens, and its config."""
    normal = np.random.default_rng(6).normal
    tensors = {
        "weight_ih_l0": normal(size=(3 * units, size)),
        "weight_hh_l0": 0.3 * normal(size=(3 * units, units)),
        "emb": normal(size=(words, size)),
        "fc": normal(size=(words, units)),
    }
    return save(tensors), {"embedding": "emb", "readout": {"weight": "fc", "activation": "softmax"}}


def upload(file: bytes, config: dict[str, Any] | None = None) -> bytes:
    """The body of PUT /models/{name}."""
    parts = [('name="files"; filename="m.safetensors"', file)]
    parts += [] if config is None else [('name="config"', json.dumps(config).encode())]
    heads = [f"--cut\r\nContent-Disposition: form-data; {what}\r\n\r\n".encode() + data for what, data in parts]
    return b"".join(head + b"\r\n" for head in heads) + b"--cut--\r\n"
