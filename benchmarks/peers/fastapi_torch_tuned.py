"""FastAPI and PyTorch as an expert writes it: orjson both ways, no pydantic, no copies, called on the event loop.

LSTM_WEIGHTS=lstm.safetensors uvicorn benchmarks.peers.fastapi_torch_tuned:app --loop uvloop --http httptools
"""

import numpy as np
import orjson
import torch
from fastapi import FastAPI, Request, Response

from benchmarks.peers.lstm import load

lstm = load()
app = FastAPI(telemetry={"tracing": False, "metrics": False, "logs": False})


@app.post("/run")
async def run(request: Request) -> Response:
    inputs = np.asarray(orjson.loads(await request.body())["inputs"], np.float32)
    with torch.inference_mode():
        outputs, (h, c) = lstm(torch.from_numpy(inputs))
    arrays = {"outputs": outputs.contiguous().numpy(), "h": h.numpy(), "c": c.numpy()}
    return Response(orjson.dumps(arrays, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")
