"""MLServer with no model: what came in goes out, over the Open Inference Protocol.

pip install mlserver        # in an environment of its own: it needs an older FastAPI
python -m benchmarks.peers.echo_mlserver 8000
"""

import asyncio
import socket
import sys
from contextlib import ExitStack

import numpy as np
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.settings import ModelParameters
from mlserver.types import InferenceRequest, InferenceResponse


class Echo(MLModel):
    """inputs [B, T, D] -> outputs, the same."""

    async def load(self) -> bool:
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        inputs = np.ascontiguousarray(NumpyCodec.decode_input(payload.inputs[0]), np.float32)
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("outputs", inputs)])


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        free = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in free:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in free]


async def serve(port: int) -> None:
    grpc, metrics = _free_ports(2)
    settings = Settings(
        host="127.0.0.1", http_port=port, grpc_port=grpc, metrics_port=metrics, parallel_workers=0, debug=False
    )
    await MLServer(settings).start([ModelSettings(name="echo", implementation=Echo, parameters=ModelParameters())])


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
