"""FastAPI and pydantic as most people write it, with no model: what came in goes out.

uvicorn benchmarks.peers.echo_fastapi:app
"""

import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()


class Sequences(BaseModel):
    inputs: list[list[list[float]]]


class Answer(BaseModel):
    outputs: list[list[list[float]]]


@app.post("/run")
def run(sequences: Sequences) -> Answer:
    outputs = np.array(sequences.inputs, np.float32)
    return Answer(outputs=outputs.tolist())
