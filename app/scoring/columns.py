"""Arrow columns to sequences, and arrays to Arrow columns. Imported only where pyarrow is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from app.problems import Problem
from app.scoring.sequences import Sequences, Wanted
from rnn_engine.errors import listed, nearest
from rnn_engine.types import Array

#: What a column of sequences is called where nothing else is said.
INPUTS = "inputs"


def found(schema: pa.Schema, name: str | None, path: Any) -> str:
    """The column of sequences: as named, else `inputs`, else the only one that holds lists. Raises a 422."""
    if name is not None or INPUTS in schema.names:
        return known(schema, name or INPUTS, path)
    lists = [field.name for field in schema if is_list(field.type)]
    if len(lists) != 1:
        several = f"several columns of lists ({listed(lists)})" if lists else f"no column of lists: {schema.names}"
        raise Problem(422, f"{path} has {several}: name the one with the sequences (--inputs)")
    return lists[0]


def known(schema: pa.Schema, name: str, path: Any) -> str:
    """The name of a column that is there, once. Raises a 422."""
    if schema.names.count(name) != 1:
        there = f"{schema.names.count(name)} columns {name!r}" if name in schema.names else f"no column {name!r}"
        raise Problem(422, f"{path} has {there}: {nearest(name, schema.names)}")
    return name


def is_list(kind: pa.DataType) -> bool:
    """Whether values of this type are lists of any kind."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def check_type(name: str, kind: pa.DataType, wanted: Wanted) -> None:
    """Raises a 422 for a column whose values are no sequences that the model reads."""
    step = kind.value_type if is_list(kind) else None
    value = step
    if step is not None and not wanted.embeds and is_list(step):
        value = step.value_type
        if pa.types.is_fixed_size_list(step) and step.list_size != wanted.input_size:
            raise Problem(
                422,
                f"{name!r} has {step.list_size} features a time step, the model takes {wanted.input_size}",
            )
    elif step is not None and not wanted.embeds and wanted.input_size != 1:
        value = None
    if value is None or not (_is_number(value) and wanted.is_read(np.dtype(value.to_pandas_dtype()))):
        expected = "list<int64>" if wanted.embeds else "list<list<float>>"
        raise Problem(
            422, f"the column {name!r} is {kind}, expected {expected}: for each row its time steps, each {wanted.step}"
        )


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def sequences(column: pa.Array, wanted: Wanted, first: int, name: str) -> Sequences:
    """Some rows of a column that was checked by its type. Raises a 422 for nulls, and steps of a wrong width."""
    _refuse_nulls(column, f"{name!r}", lambda at: f"row {first + at}", "a list of time steps, empty if there are none")
    lengths = _lengths(column)
    steps = column.flatten()
    ends = np.cumsum(lengths)

    def where(step: int) -> str:
        row = int(np.searchsorted(ends, step, side="right"))
        return f"step {step - int(ends[row] - lengths[row])} of row {first + row}"

    _refuse_nulls(steps, f"{name!r}", where, wanted.step)
    if not wanted.embeds and is_list(steps.type):
        widths = _lengths(steps)
        if len(wrong := np.flatnonzero(widths != wanted.input_size)):
            at = int(wrong[0])
            raise Problem(
                422, f"{name!r} has {widths[at]} features at {where(at)}, the model takes {wanted.input_size}"
            )
        steps = steps.flatten()
        _refuse_nulls(steps, f"{name!r}", lambda at: where(at // wanted.input_size), "a number")
    return Sequences(wanted.flat(steps.to_numpy(zero_copy_only=False)), lengths, first)


def whole_numbers(column: pa.Array, first: int, name: str) -> Array:
    """[B] int64: a column of lengths. Raises a 422 for nulls, and for what are no whole numbers."""
    if not pa.types.is_integer(column.type):
        raise Problem(422, f"the column {name!r} is {column.type}, expected a whole number for each row")
    _refuse_nulls(column, f"{name!r}", lambda at: f"row {first + at}", "a whole number")
    return np.asarray(column.to_numpy(zero_copy_only=False), np.int64)


def _lengths(lists: pa.Array) -> Array:
    return np.asarray(pc.list_value_length(lists).to_numpy(zero_copy_only=False), np.int64)


def _refuse_nulls(values: pa.Array, name: str, where: Any, expected: str) -> None:
    if values.null_count:
        at = int(np.argmax(values.is_null().to_numpy(zero_copy_only=False)))
        raise Problem(422, f"{name} is null at {where(at)}, expected {expected}")


def schema(sizes: Mapping[str, int], over_time: Sequence[str], dtype: np.dtype[Any]) -> list[pa.Field]:
    """The columns of an answer: a list of numbers for each row, or for each of its steps."""
    value = pa.from_numpy_dtype(dtype)
    fields = []
    for name, size in sizes.items():
        kind = pa.list_(value, size)
        fields.append(pa.field(name, pa.list_(kind) if name in over_time else kind))
    return fields


def column(array: Array, lengths: Array | None) -> pa.Array:
    """[B, size] as a column; or [N, size], with the lengths [B] of the rows."""
    values = pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), array.shape[1])
    if lengths is None:
        return values
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values)
