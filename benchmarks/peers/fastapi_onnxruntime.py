"""FastAPI and ONNX Runtime as an expert writes it: orjson both ways, and the session called on the event loop.

    LSTM_ONNX=lstm.onnx uvicorn benchmarks.peers.fastapi_onnxruntime:app --loop uvloop --http httptools

Calling it there costs no change of threads, which makes it the quickest for short runs; nothing else is answered
meanwhile.
"""

import os

import numpy as np
import onnxruntime
import orjson
from fastapi import FastAPI, Request, Response

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(os.environ["LSTM_ONNX"], options, providers=["CPUExecutionProvider"])

app = FastAPI(telemetry={"tracing": False, "metrics": False, "logs": False})


def answer(body: bytes) -> Response:
    inputs = np.asarray(orjson.loads(body)["inputs"], np.float32)
    outputs, h, c = session.run(["outputs", "h", "c"], {"inputs": inputs})
    content = orjson.dumps({"outputs": outputs, "h": h, "c": c}, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(content, media_type="application/json")


@app.post("/run")
async def run(request: Request) -> Response:
    return answer(await request.body())
