"""LitServe and PyTorch, which runs requests that come close together as one padded batch.

LSTM_WEIGHTS=lstm.safetensors python -m benchmarks.peers.litserve_torch 8000
"""

import sys
from typing import Any

import litserve
import numpy as np
import orjson
import torch
from fastapi import Response

from benchmarks.peers.lstm import load, run_padded


class Api(litserve.LitAPI):
    """A request is a list of sequences [T, D], a batch a list of requests."""

    def setup(self, device: str) -> None:
        self.lstm = load()

    def decode_request(self, request: dict[str, Any]) -> list[torch.Tensor]:
        return [torch.from_numpy(np.asarray(row, np.float32)) for row in request["inputs"]]

    def batch(self, inputs: list[list[torch.Tensor]]) -> list[list[torch.Tensor]]:
        return inputs

    def predict(self, batch: list[list[torch.Tensor]]) -> list[dict[str, np.ndarray]]:
        answers = iter(run_padded(self.lstm, [row for request in batch for row in request]))
        together = []
        for request in batch:
            outputs, h, c = zip(*(next(answers) for _ in request), strict=True)
            padded = torch.nn.utils.rnn.pad_sequence(outputs, batch_first=True)
            tensors = {"outputs": padded, "h": torch.stack(h, 1), "c": torch.stack(c, 1)}
            together.append({name: tensor.numpy() for name, tensor in tensors.items()})
        return together

    def unbatch(self, output: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
        return output

    def encode_response(self, output: dict[str, np.ndarray]) -> Response:
        # its own way with lists of floats takes several times as long
        return Response(orjson.dumps(output, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


if __name__ == "__main__":
    api = Api(max_batch_size=32, batch_timeout=0.002, api_path="/run")
    server = litserve.LitServer(api, accelerator="cpu", devices=1, workers_per_device=1, fast_queue=True)
    server.run(port=int(sys.argv[1]), log_level="warning", generate_client_file=False, access_log=False)
