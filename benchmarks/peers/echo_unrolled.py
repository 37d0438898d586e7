"""This service with no model: all of it but the net, whose place a job takes that gives back what came in.

UNROLLED_MODELS=folder python -m benchmarks.peers.echo_unrolled serve --port 8000
"""

from typing import Any

import numpy as np

from app.cli import main
from app.jobs import PER_NUMBER, Jobs
from app.work import Answer, Job, Work


def echo(self: Jobs, fields: dict[str, Any]) -> Job:
    """inputs [B, T, D], or [N, D] and lengths -> outputs, the same in float32."""
    inputs = np.ascontiguousarray(fields["inputs"], np.float32)
    lengths = fields.get("lengths")
    lengths = np.full(len(inputs), inputs.shape[1]) if lengths is None else lengths

    def answer() -> Answer:
        return {"model": {}, "lengths": lengths, "outputs": inputs}

    work = Work(None, 0, lambda _: answer(), answer)
    return Job(len(lengths), inputs.nbytes, 0.0, 0.0, inputs.size * PER_NUMBER[4], None, lambda: work)


if __name__ == "__main__":
    Jobs.unroll = echo  # type: ignore[method-assign]
    main()
