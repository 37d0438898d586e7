"""Starts a command that serves, asks it something, stops it with SIGTERM: python .ci/check_serve.py COMMAND…"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

SECONDS_TO_START, SECONDS_TO_STOP = 240, 5  # the first start of scripts/serve installs what it needs
REQUEST = {"cell": "lstm", "num_units": 5, "inputs": [[[1, 0], [0, 1], [1, 1]]], "lengths": [2]}


def main() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        sys.argv[1:], env={**os.environ, "UNROLLED_PORT": str(port), "UNROLLED_HOST": "127.0.0.1"}
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
        body = json.dumps(REQUEST).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{port}/run", body, headers)
        with urllib.request.urlopen(request, timeout=5) as answer:
            outputs = json.load(answer)["outputs"]
        if outputs["shape"] != [1, 3, 5] or any(outputs["values"][0][2]):
            sys.exit(f"a wrong answer: {outputs}")
        print(f"answers after {time.monotonic() - began:.2f} s")
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
