"""MLServer and PyTorch with its adaptive batching, over the Open Inference Protocol.

    pip install mlserver torch safetensors        # in an environment of its own: it needs an older FastAPI
    LSTM_WEIGHTS=lstm.safetensors python -m benchmarks.peers.mlserver_torch 8000

Requests that it puts together are to have one shape: rows padded to the longest there may be, and their lengths.
"""

import asyncio
import sys

import numpy as np
import torch
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.settings import ModelParameters
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.peers.lstm import load, run_padded


class Lstm(MLModel):
    """inputs [B, T, D] and lengths [B, 1] -> outputs [B, T, H], h and c [B, layers, H]."""

    async def load(self) -> bool:
        self.lstm = load()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        inputs, lengths = (NumpyCodec.decode_input(each) for each in payload.inputs)
        rows = [torch.from_numpy(row[: int(n)]) for row, n in zip(inputs, lengths[:, 0], strict=True)]
        outputs, h, c = zip(*run_padded(self.lstm, rows), strict=True)
        padded = np.zeros((*inputs.shape[:2], outputs[0].shape[1]), np.float32)
        for row, output in zip(padded, outputs, strict=True):
            row[: len(output)] = output
        arrays = {"outputs": padded, "h": torch.stack(h).numpy(), "c": torch.stack(c).numpy()}
        told = [NumpyCodec.encode_output(name, array) for name, array in arrays.items()]
        return InferenceResponse(model_name=self.name, outputs=told)


async def serve(port: int) -> None:
    settings = Settings(
        host="127.0.0.1", http_port=port, grpc_port=port + 1, metrics_port=port + 2, parallel_workers=0, debug=False
    )
    model = ModelSettings(
        name="lstm", implementation=Lstm, max_batch_size=32, max_batch_time=0.005, parameters=ModelParameters()
    )
    await MLServer(settings).start([model])


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
