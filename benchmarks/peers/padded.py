"""LitServe, which runs requests that come close together as one padded batch, over whatever computes it."""

import sys
from collections.abc import Callable
from typing import Any

import litserve
import numpy as np
import orjson
from fastapi import Response

#: Rows [T, D] of any lengths as one batch. Of each row: outputs [T, H], h and c [layers, H].
Run = Callable[[list[np.ndarray]], list[tuple[np.ndarray, np.ndarray, np.ndarray]]]


class Api(litserve.LitAPI):
    """A request is a list of sequences [T, D], a batch a list of requests."""

    def __init__(self, load: Callable[[], Run]) -> None:
        super().__init__(max_batch_size=32, batch_timeout=0.002, api_path="/run")
        self._load = load

    def setup(self, device: str) -> None:
        self.run = self._load()

    def decode_request(self, request: dict[str, Any]) -> list[np.ndarray]:
        return [np.asarray(row, np.float32) for row in request["inputs"]]

    def batch(self, inputs: list[list[np.ndarray]]) -> list[list[np.ndarray]]:
        return inputs

    def predict(self, batch: list[list[np.ndarray]]) -> list[dict[str, np.ndarray]]:
        answers = iter(self.run([row for request in batch for row in request]))
        together = []
        for request in batch:
            outputs, h, c = zip(*(next(answers) for _ in request), strict=True)
            longest = max(map(len, outputs))
            padded = [np.pad(each, [(0, longest - len(each)), (0, 0)]) for each in outputs]
            together.append({"outputs": np.stack(padded), "h": np.stack(h, 1), "c": np.stack(c, 1)})
        return together

    def unbatch(self, output: list[dict[str, np.ndarray]]) -> list[dict[str, np.ndarray]]:
        return output

    def encode_response(self, output: dict[str, np.ndarray]) -> Response:
        # its own way with lists of floats takes several times as long
        return Response(orjson.dumps(output, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


def serve(load: Callable[[], Run]) -> None:
    """On the port that the command line names."""
    server = litserve.LitServer(Api(load), accelerator="cpu", devices=1, workers_per_device=1, fast_queue=True)
    server.run(port=int(sys.argv[1]), log_level="warning", generate_client_file=False, access_log=False)
