"""A batch of sequences through a network. Knows nothing of files, and keeps nothing: any process can do it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, TypeAlias

import numpy as np

from app.problems import Problem
from app.scoring.sequences import Sequences, Wanted
from app.trees import taken_apart
from rnn_engine import EngineError, Forward, Network, PackedBatch
from rnn_engine.errors import listed, nearest
from rnn_engine.packed import Packing
from rnn_engine.types import Array, NamedState
from rnn_engine.unrolling import advance

#: What an answer can have, by the names of /run.
RETURNED = ("predictions", "last_output", "state", "outputs")

#: Does tasks, perhaps side by side.
Run: TypeAlias = Callable[[list[Callable[[], None]]], Any]

#: Why these, which /run returns too, are not among them.
ELSEWHERE = {
    "gates": "`gates` are many times the size of what they explain: ask /run for those of a few rows",
    "states": "`states` are those of every step, for looking into a few rows: ask /run for them, or for `state` here",
    "weights": "`weights` are no answer to a row: GET /models tells of them",
}


class Scorer:
    """What a network answers to sequences: for each name an array with a row for each sequence, or for each step."""

    def __init__(self, net: Network, returned: Sequence[str] | None = None) -> None:
        """`returned`: some of RETURNED; None for predictions, or the last output where the net has none.

        Raises a 422 for what is none of them.
        """
        self.net = net.prepare()
        self.wanted = Wanted(net.input_size, net.embeds, net.dtype)
        self.returned = _checked(net, returned)
        over_time = {"outputs"} | ({"predictions"} if net.gives == "sequence" else set())
        nothing = self.wanted.empty
        arrays = self.score(nothing.flat, nothing.lengths)
        self.sizes = {name: array.shape[1] for name, array in arrays.items()}  # columns of each
        self.over_time = [name for name in arrays if name in over_time]  # those with a row for each step

    @property
    def bytes_of(self) -> tuple[int, int]:
        """Bytes of the answer to a sequence: for each of its steps, and beside them."""
        steps = sum(self.sizes[name] for name in self.over_time)
        return steps * self.net.dtype.itemsize, (sum(self.sizes.values()) - steps) * self.net.dtype.itemsize

    def real(self, some: Sequences) -> Sequences:
        """Sequences without the steps at their ends that a net which masks takes for none."""
        if not self.net.front.masks:
            return some
        try:
            flat, lengths = self.net.front.without_masked_ends(some.flat, some.lengths)
        except EngineError as error:
            raise self._blamed(some, error) from None
        return Sequences(flat, lengths, some.first)

    def score(self, flat: Array, lengths: Array, starts: Array | None = None) -> dict[str, Array]:
        """[N, D] (or [N] token ids), lengths [B] -> what is returned, [B, size] or [N, size], in the order of the rows.

        `starts` [B] tell where each row begins, if they do not follow each other. Rows are spread over the
        engine's threads, unless it is called in one of these. Raises EngineError.
        """
        longest = int(lengths.max(initial=0))
        starts = np.cumsum(lengths) - lengths if starts is None else starts
        begun = self.net.passes.begin(flat, lengths, None, starts=starts, sizes=(len(lengths), longest), pads=False)
        if begun is not None and all(advance([strand], longest, self.net.passes.work) for strand in begun.strands()):
            return self._named(begun.outputs, begun.state, cache(lambda: self.net.finished(begun)))
        packing = Packing(lengths, longest)
        result = self.net.forward(PackedBatch(flat[starts[packing.rows] + packing.times], packing))
        return self._named(packing.concatenate(result.outputs.data), result.state, lambda: result)

    def window(self, some: Sequences, batches: Sequence[Array], run: Run) -> dict[str, Array]:
        """The answer to a window, in its own order. Each batch is the numbers of some rows; `run` does all of them, as
        `Workers.run` does. Raises a Problem that names the row of the file which is at fault.
        """
        of_rows, of_steps = len(some), len(some.flat)
        answer = {
            name: np.empty((of_steps if name in self.over_time else of_rows, size), self.net.dtype)
            for name, size in self.sizes.items()
        }
        starts = some.starts

        def task(rows: Array) -> None:
            lengths = some.lengths[rows]
            try:
                scores = self.score(some.flat, lengths, starts[rows])
            except EngineError as error:
                raise self._blamed(some, error, rows) from None
            steps = None
            for name, array in scores.items():
                if name in self.over_time and steps is None:
                    before = np.cumsum(lengths) - lengths
                    steps = np.repeat(starts[rows] - before, lengths) + np.arange(len(array))
                answer[name][steps if name in self.over_time else rows] = array

        run([partial(task, rows) for rows in batches])
        return answer

    def _named(self, outputs: Array, state: NamedState, result: Callable[[], Forward]) -> dict[str, Array]:
        """`outputs` [N, O], one sequence after the other; `result()` is the same as the engine has it."""
        tree: dict[str, Any] = {}
        for name in self.returned:
            if name == "predictions" and self.net.gives == "sequence":
                tree[name] = self.net.read_out(outputs)
            elif name == "predictions":
                tree[name] = result().predictions
            elif name == "last_output":
                tree[name] = self.net.last_output(result())
            else:
                tree[name] = outputs if name == "outputs" else state
        return taken_apart(tree)[1]

    def _blamed(self, some: Sequences, error: EngineError, rows: Array | None = None) -> Problem:
        """The same error, of the row of the file that it is about."""
        starts = some.starts
        for row in range(len(some)) if rows is None else rows.tolist():
            steps = some.flat[starts[row] : some.ends[row]]
            try:
                if rows is None:
                    self.net.front.without_masked_ends(steps, some.lengths[row : row + 1])
                else:
                    self.score(steps, some.lengths[row : row + 1])
            except EngineError as its:
                return Problem(422, f"row {some.first + row}: {its.detail.replace(' of row 0', '')}")
        return Problem(422, error.detail)


def _checked(net: Network, returned: Sequence[str] | None) -> list[str]:
    if returned is None:
        return ["predictions" if net.predicts else "last_output"]
    for name in returned:
        if name in ELSEWHERE:
            raise Problem(422, f"{ELSEWHERE[name]}; expected some of {listed(RETURNED)}")
        if name not in RETURNED:
            raise Problem(422, f"`{name}` is nothing that can be returned: {nearest(name, RETURNED)}")
    if not returned:
        raise Problem(422, f"nothing is to be returned: expected some of {listed(RETURNED)}")
    if "predictions" in returned and not net.predicts:
        raise Problem(422, "predictions need a readout, and the model has none: return its last_output or its outputs")
    return [name for name in RETURNED if name in returned]
