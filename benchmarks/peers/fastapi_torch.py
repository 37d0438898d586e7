"""FastAPI and PyTorch as most people write it.

LSTM_WEIGHTS=lstm.safetensors uvicorn benchmarks.peers.fastapi_torch:app
"""

import torch
from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.peers.lstm import load

lstm = load()
app = FastAPI()


class Sequences(BaseModel):
    inputs: list[list[list[float]]]


@app.post("/run")
def run(sequences: Sequences):  # noqa: ANN201
    with torch.no_grad():
        outputs, (h, c) = lstm(torch.tensor(sequences.inputs))
    return {"outputs": outputs.tolist(), "h": h.tolist(), "c": c.tolist()}
