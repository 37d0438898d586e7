"""Starts a command that serves, asks it something, stops it with SIGTERM: python .ci/check_serve.py COMMAND…"""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request

SECONDS_TO_START, SECONDS_TO_STOP = 240, 5  # the first start of scripts/serve installs what it needs
REQUEST = {"cell": "lstm", "num_units": 5, "inputs": [[[1, 0], [0, 1], [1, 1]]], "lengths": [2]}


def model() -> bytes:
    """A multipart body with a basic RNN of one unit in PyTorch's names: h' = tanh(x + h/2)."""
    values = {"weight_ih_l0": 1.0, "weight_hh_l0": 0.5}
    header = {
        name: {"dtype": "F32", "shape": [1, 1], "data_offsets": [4 * k, 4 * k + 4]} for k, name in enumerate(values)
    }
    text = json.dumps(header).encode()
    file = struct.pack("<Q", len(text)) + text + struct.pack("<2f", *values.values())
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="m.safetensors"\r\n\r\n'
    return head + file + b"\r\n--x--\r\n"


def ask(url: str, method: str, body: bytes, content_type: str) -> dict:
    request = urllib.request.Request(url, body, {"Content-Type": content_type}, method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def check_models(url: str) -> None:
    """Registers a model twice, asks its second version, deletes it."""
    for number in (1, 2):
        told = ask(f"{url}/models/checked", "PUT", model(), "multipart/form-data; boundary=x")
        if told["version"] != number:
            sys.exit(f"registered as version {told['version']}, expected {number}")
    body = json.dumps({"inputs": [[[0.0], [1.0]]]}).encode()
    values = ask(f"{url}/models/checked/versions/2/run", "POST", body, "application/json")["outputs"]["values"]
    if abs(values[0][1][0] - 0.7615942) > 1e-6:  # tanh(1)
        sys.exit(f"a wrong answer of a registered model: {values}")
    request = urllib.request.Request(f"{url}/models/checked", method="DELETE")
    if urllib.request.urlopen(request, timeout=30).status != 204:
        sys.exit("a model was not deleted")


def healthy(port: int) -> bool:
    """What the image's HEALTHCHECK says."""
    environment = {**os.environ, "UNROLLED_PORT": str(port), "UNROLLED_HOST": "127.0.0.1"}
    return subprocess.run([sys.executable, "-m", "app.health"], env=environment, timeout=30).returncode == 0


def main() -> None:
    folder = tempfile.mkdtemp() if "UNROLLED_MODELS" not in os.environ else os.environ["UNROLLED_MODELS"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        sys.argv[1:],
        env={**os.environ, "UNROLLED_PORT": str(port), "UNROLLED_HOST": "127.0.0.1", "UNROLLED_MODELS": folder},
    )
    try:
        began = time.monotonic()
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() - began > SECONDS_TO_START:
                    sys.exit(f"{sys.argv[1]} did not come up (exit code {process.poll()})")
                time.sleep(0.05)
        url = f"http://127.0.0.1:{port}"
        outputs = ask(f"{url}/run", "POST", json.dumps(REQUEST).encode(), "application/json")["outputs"]
        if outputs["shape"] != [1, 3, 5] or any(outputs["values"][0][2]):
            sys.exit(f"a wrong answer: {outputs}")
        check_models(url)
        print(f"answers after {time.monotonic() - began:.2f} s")
        if not healthy(port):
            sys.exit("the health check finds nothing that answers")
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        code = process.wait(SECONDS_TO_STOP)
        print(f"stopped {time.monotonic() - began:.2f} s after SIGTERM, exit code {code}")
        if code != 0:
            sys.exit(1)
    finally:
        process.kill()


if __name__ == "__main__":
    main()
