"""`python -m app.health`: does the service on this machine answer? For health checks, so only stdlib."""

from __future__ import annotations

import os
import sys
import urllib.request

HERE = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # addresses that mean all of them


def main() -> int:
    """0 if /healthz answers within two seconds, else 1 and why on stderr."""
    host, port = os.environ.get("UNROLLED_HOST", "127.0.0.1"), os.environ.get("UNROLLED_PORT", "8000")
    try:
        urllib.request.urlopen(f"http://{HERE.get(host, host)}:{port}/healthz", timeout=2).close()
    except OSError as error:
        sys.stderr.write(f"no answer: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
