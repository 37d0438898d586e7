"""What the outputs of a traced graph are: a layer's outputs, final states, or what one readout makes of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from rnn_engine.errors import listed, shown
from rnn_engine.formats.base import Gives, Stage, UnsupportedError
from rnn_engine.formats.onnx.dense import positions
from rnn_engine.formats.onnx.trace import Trace
from rnn_engine.formats.onnx.values import Memory, Opaque, Source, Steps, Traced, Value
from rnn_engine.types import BACKWARD, Array


@dataclass
class Understood:
    """What stands behind the layers."""

    readout: list[Stage]
    gives: Gives
    notes: list[str] = field(default_factory=list)


def understand(trace: Trace) -> Understood:
    """Raises UnsupportedError, naming the output, for one that is none of the layers' and none of one readout."""
    readouts: dict[str, tuple[Array, Source, Steps]] = {}
    plain: list[tuple[Array, Source, Steps]] = []  # of layers' outputs, where nothing stands behind
    notes: list[str] = []
    for name, value in trace.outputs.items():
        ids, sources = _elements(trace, name, value)
        if any(isinstance(source.origin, Steps) and source.origin.stages for source in sources):
            if len(sources) > 1:
                raise UnsupportedError(f"the output {shown(name)} mixes a readout with something else", "files")
            readouts[name] = (ids, sources[0], _steps(sources[0]))
            continue
        if len(sources) == 1 and isinstance(sources[0].origin, Steps):
            steps = sources[0].origin
            plain.append((ids, sources[0], steps))
            is_state = ids.min() - sources[0].start >= trace.time * trace.batch * steps.width
            if steps.layer != len(trace.layers) - 1 and not is_state:
                notes.append(
                    f"the output {name} is the sequence of the layer {_layer(trace, steps)}, not of the top one"
                )
    if not trace.layers:
        raise UnsupportedError("the graph's outputs depend on no RNN, GRU or LSTM node", "files")
    if readouts:
        return _of_readouts(trace, readouts, notes)
    return Understood([], _of_layers(trace, plain), notes)


def _elements(trace: Trace, name: str, value: Value) -> tuple[Array, list[Source]]:
    if isinstance(value, Opaque):
        raise value.error
    if isinstance(value, Traced) and value.ids.size:
        sources = trace.ledger.all_of(value.ids)
        if all(isinstance(source.origin, (Steps, Memory)) for source in sources):
            return value.ids, sources
    raise UnsupportedError(
        f"the output {shown(name)} does not come from a recurrent layer: expected outputs, final states, or a readout",
        "files",
    )


def _steps(source: Source) -> Steps:
    if not isinstance(source.origin, Steps):
        raise UnsupportedError("a readout reads cell states", "files")
    return source.origin


def _layer(trace: Trace, steps: Steps) -> str:
    return shown(trace.layers[steps.layer].node.name)


def _of_readouts(trace: Trace, readouts: dict[str, tuple[Array, Source, Steps]], notes: list[str]) -> Understood:
    if len({source.start for _, source, _ in readouts.values()}) > 1:
        raise UnsupportedError(
            f"the outputs {listed(shown(name) for name in readouts)} are different readouts, or different stages of "
            "one: keep one of them",
            "files",
        )
    found: set[Gives] = set()
    for name, (ids, source, steps) in readouts.items():
        if steps.layer != len(trace.layers) - 1:
            raise UnsupportedError(
                f"the output {shown(name)} reads the layer {_layer(trace, steps)}, which is not the top one", "files"
            )
        found.add(_gives(trace, name, ids - source.start, steps, notes))
    if len(found) > 1:
        raise UnsupportedError(
            f"the outputs {listed(shown(name) for name in readouts)} are for every step and for the last one: keep one",
            "files",
        )
    return Understood(list(next(iter(readouts.values()))[2].stages), found.pop(), notes)


def _gives(trace: Trace, name: str, elements: Array, steps: Steps, notes: list[str]) -> Gives:
    """Which steps an output holds: every one, or each row's last."""
    vectors, features = np.divmod(np.sort(elements, axis=None), steps.width)
    at = vectors[:: steps.width]
    complete = vectors.size % steps.width == 0 and np.array_equal(vectors, np.repeat(at, steps.width))
    gives = _by_position(trace, at) if complete else None
    if gives is None or not np.array_equal(features, np.tile(np.arange(steps.width), len(at))):
        raise UnsupportedError(
            f"the output {shown(name)} holds a part of the readout: expected all features of every step, or of each "
            "row's last one",
            "files",
        )
    if trace.padded and gives != "sequence" and at[0] // trace.batch == trace.time - 1:
        notes.append(f"the output {name} reads the last step of the padded batch; here each row's own last step counts")
    return gives


def _by_position(trace: Trace, at: Array) -> Gives | None:
    """Positions t·B + b in order -> what they are; t = T is a row's last output."""
    time, batch, sides = trace.time, trace.batch, trace.layers[-1].node.sides
    if np.array_equal(at, np.arange(time * batch)):
        return "sequence"
    steps = [step for step in range(time + 1) if np.array_equal(at, np.arange(step * batch, (step + 1) * batch))]
    if steps == [time] or (steps == [0] and sides == (BACKWARD,)):
        return "last_output"
    if steps == [time - 1]:
        return "last_step" if BACKWARD in sides else "last_output"
    return None


def _of_layers(trace: Trace, plain: list[tuple[Array, Source, Steps]]) -> Gives:
    """Without a readout: a graph whose only output of the top layer is vectors [B, O] gives each row's last one."""
    found: set[Gives | None] = set()
    for ids, source, steps in plain:
        if steps.layer != len(trace.layers) - 1:
            continue
        if ids.shape != (trace.batch, steps.width):
            return "sequence"
        try:
            at = positions("an output", ids, source, steps, len(trace.layers[-1].node.sides), trace.padded)
        except UnsupportedError:
            return "sequence"
        found.add(_by_position(trace, np.sort(at)))
    return (found.pop() if len(found) == 1 else None) or "sequence"
