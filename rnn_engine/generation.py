"""One to many: rows whose next input is made of their last output.

`raw_rnn` defines it. `generate` does the same over a network: rows go through their prompts, and then step by step
through what a feed makes of their predictions. Where a network's layers run as one compiled call, the rows are
`FedStrand`s, which share their steps with whatever else runs through the same weights; where not, the loop takes them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeAlias

import numpy as np

from rnn_engine import unrolling
from rnn_engine.errors import NonFiniteError
from rnn_engine.feeds import Feed
from rnn_engine.network import Network
from rnn_engine.packed import PackedBatch
from rnn_engine.types import Array, NamedState
from rnn_engine.unrolling import Saved, Strand, Unrolling

#: Told of every step: its number, and the rows [r] of it.
Told: TypeAlias = Callable[[int, Array], None]


class Generation:
    """Rows that are under way, of one network and one feed; `samples` rows begin with each prompt."""

    def __init__(
        self, net: Network, feed: Feed, prompts: Unrolling, samples: int = 1, told: Told | None = None
    ) -> None:
        self.net, self.feed, self.samples, self.told = net, feed, samples, told
        self.prompts, self.stack = prompts, prompts.stack
        self.rows = prompts.batch_size * samples
        empty = np.empty((self.rows, 0), np.int64)
        self._ends = Unrolling(prompts.stack, net.layers, empty, None, None, sizes=(self.rows, 0))

    def strands(self, most: int) -> list[FedStrand]:
        """All rows, in strands of about `most` each, those of one prompt together."""
        return [FedStrand(self, prompt) for prompt in self.prompts.strands(max(1, most // self.samples))]

    def step_of(self, inputs: Array, states: Unrolling, chosen: Array) -> Unrolling:
        """A step that reads inputs [r, D], or token ids [r], and begins with the states of r `chosen` rows."""
        dtype = np.int64 if states.stack.embeds else np.float32
        x = np.ascontiguousarray(inputs[:, np.newaxis], dtype)
        step = Unrolling(states.stack, self.net.layers, x, None, None, sizes=(len(x), 1))
        _copy_states(states, chosen, step, slice(None))
        return step

    def keep(self, states: Unrolling, chosen: Array, rows: Array) -> None:
        """Takes the final states of some rows out of where they were computed."""
        _copy_states(states, chosen, self._ends, rows)

    @property
    def state(self) -> NamedState:
        """After the last step that each row computed, [R, size]: what it put out last has not been read yet."""
        return self._ends.state


def _copy_states(source: Unrolling, chosen: Any, to: Unrolling, places: Any) -> None:
    for sides in source.stack.parts:
        for parts in sides:
            for part in parts:
                to.state_part(part)[places] = source.state_part(part)[chosen]


class FedStrand:
    """Rows of a generation that have come equally far: first through their prompts, and then by what they are fed."""

    def __init__(self, of: Generation, prompt: Strand) -> None:
        self.of = of
        self.strand = prompt  # the steps that can be computed now
        self.step = -1  # that was fed last; before the first, the prompts are gone through
        self.live = np.arange(prompt.first * of.samples, (prompt.first + prompt.rows) * of.samples)

    @property
    def unrolling(self) -> Unrolling:
        """Where its steps are computed now."""
        return self.strand.unrolling

    @property
    def rows(self) -> int:
        """How many take a step together, at most."""
        return max(self.strand.rows, len(self.live))

    @property
    def span(self) -> int:
        """Steps that can be computed before it must be fed again."""
        return self.strand.left

    @property
    def left(self) -> int:
        """Steps that are still to be computed, at most."""
        return self.strand.left + max(0, self.of.feed.steps - 2 - self.step) if len(self.live) else 0

    def total(self, steps: int) -> int:
        """How many steps of rows the next `steps` are, at most."""
        return self.rows * min(steps, self.left)

    def outputs(self) -> Array:
        """[r, O]: of the last step, or of the last one of each prompt, for each of its samples."""
        of, strand = self.unrolling, self.strand
        if self.step >= 0:
            return of.outputs[:, 0]
        return np.repeat(of.last_outputs(strand.first, strand.first + strand.rows), self.of.samples, axis=0)

    def go_on(self, predictions: Array) -> None:
        """Goes on to the next step with what the last one predicts, [r, n]."""
        of, before = self.of, self.step
        self.step, rows = before + 1, self.live
        inputs, ended = of.feed.take(self.step, rows, predictions)
        if of.told is not None:
            of.told(self.step, rows)
        if self.step == of.feed.steps - 1:
            ended = np.ones(len(rows), bool)
        if ended is None and before >= 0:
            self.unrolling.inputs[:, 0] = inputs
            self.strand.done = 0
            return
        at = np.arange(len(rows))  # in the states
        if before < 0:
            at = np.repeat(np.arange(self.strand.first, self.strand.first + self.strand.rows), of.samples)
        if ended is not None:
            of.keep(self.unrolling, at[ended], rows[ended])
            self.live, at, inputs = rows[~ended], at[~ended], inputs[~ended]
        if len(self.live):
            self.strand = of.step_of(inputs, self.unrolling, at).strands()[0]

    def saved(self) -> Saved:
        """How far the rows have come, for `restore` to take back what comes next."""
        inputs = self.unrolling.inputs.copy() if self.step >= 0 else None
        return self.step, self.live, self.strand, inputs, self.strand.saved()

    def restore(self, saved: Saved) -> None:
        """As if no step had been computed since then."""
        self.step, self.live, self.strand, inputs, before = saved
        if inputs is not None:
            self.unrolling.inputs[...] = inputs
        self.strand.restore(before)


def advance(strands: Sequence[Strand | FedStrand], steps: int, work: int = 0) -> bool:
    """`unrolling.advance` for strands of which some may be fed.

    Those are fed as often as they need it; all others go on beside them, step by step in the same calls.
    """
    if not any(type(strand) is FedStrand for strand in strands):
        return unrolling.advance(strands, steps, work)  # type: ignore[arg-type]
    left = min(steps, max([strand.left for strand in strands]))
    while left > 0:
        alive = [strand for strand in strands if strand.left]
        fed = [strand for strand in alive if type(strand) is FedStrand]
        span = min([left, *[strand.span for strand in fed]])
        now = [strand.strand if type(strand) is FedStrand else strand for strand in alive]
        if not unrolling.advance(now, span, work):  # type: ignore[arg-type]
            return False
        if not _feed([strand for strand in fed if not strand.span]):
            return False
        left = min(left - span, max([strand.left for strand in strands]))
    return True


def _feed(strands: Sequence[FedStrand]) -> bool:
    """Feeds strands that have come to where they need it; those of one network together, for its readout's sake."""
    for _, some in groupby(strands, key=lambda strand: id(strand.of.net)):
        together = list(some)
        outputs = [strand.outputs() for strand in together]
        try:
            predictions = together[0].of.net.read_out(outputs[0] if len(outputs) == 1 else np.concatenate(outputs))
        except NonFiniteError:
            return False
        first = 0
        for strand, rows in zip(together, outputs, strict=True):
            strand.go_on(predictions[first : first + len(rows)])
            first += len(rows)
    return True


@dataclass(frozen=True)
class Prompts:
    """What rows begin with, in the order of the batch, and how many samples are made of each."""

    batch: PackedBatch
    state: Any = None  # as a network takes it
    samples: int = 1


def by_loop(net: Network, prompts: Prompts, feed: Feed, told: Told | None = None) -> NamedState:
    """Generates step by step, each a whole pass; the final state, as `Generation.state`.

    The way of what has no `Unrolling`; and it says what is wrong where something is not finite.
    """
    samples, packing = prompts.samples, prompts.batch.packing
    outputs, state, _ = net.passes.run(prompts.batch, prompts.state, name="initial_state")
    last = np.empty((packing.batch_size, net.output_size), net.dtype)
    last[packing.order if packing.order is not None else slice(None)] = outputs.data[packing.last]
    chosen: Any = np.repeat(np.arange(packing.batch_size), samples)
    state, predictions = _of_rows(state, chosen), net.read_out(last)[chosen]
    rows = np.arange(len(chosen))
    final = _of_rows(state, rows)
    for step in range(feed.steps):
        inputs, ended = feed.take(step, rows, predictions)
        if told is not None:
            told(step, rows)
        if step == feed.steps - 1:
            ended = np.ones(len(rows), bool)
        if ended is not None:
            _assign(final, rows[ended], _of_rows(state, ended))
            rows, state, inputs = rows[~ended], _of_rows(state, ~ended), inputs[~ended]
        if not len(rows):
            break
        try:
            outputs, state, _ = net.passes.run(PackedBatch.single_step(inputs), state, name="state")
            predictions = net.read_out(outputs.data)
        except NonFiniteError as error:
            raise NonFiniteError(f"generated step {step + 1}: {error.detail}", *error.where) from None
    return final


def _of_rows(state: NamedState, chosen: Any) -> NamedState:
    return [{name: part[chosen] for name, part in layer.items()} for layer in state]


def _assign(state: NamedState, rows: Array, given: NamedState) -> None:
    for layer, new in zip(state, given, strict=True):
        for name, part in layer.items():
            part[rows] = new[name]


def generate(
    net: Network, inputs: Any, feed: Feed, lengths: Any = None, initial_state: Any = None, *, samples: int = 1
) -> NamedState:
    """Goes through prompts [B, T, D], or token ids [B, T], of at least one step each, and on by what `feed` makes of
    each prediction: `samples` rows for each prompt, next to each other, R in all. What they put out is in the feed.

    Returns the state [R, size] after the last step that each row computed: what it put out last has not been read.
    Equal to `raw_rnn` with a loop_fn that does the same. Raises OptionError where a layer reads backward.
    """
    array, real = net.front.sequences(inputs, lengths)
    begun = net.passes.begin(array, real, initial_state)
    if begun is not None:
        generation = Generation(net, feed, begun, samples)
        strands = generation.strands(max(1, generation.rows))
        if advance(strands, max(strand.left for strand in strands), net.passes.work):
            return generation.state
    return by_loop(net, Prompts(PackedBatch.pack(array, real), initial_state, samples), feed)
