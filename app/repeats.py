"""Requests that differ from an earlier one in their numbers alone: what was understood of that one is used again.

Most clients post the same words around other numbers, again and again. To read the words, to check them, to find the
net and to count what it will take costs more than to compute a small net.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from app.codecs import json, quick_json
from app.trees import Ragged
from app.work import Job

#: Requests that are remembered, and bytes that their words may have: there are never many kinds of small ones.
MOST, MOST_BYTES = 256, 2048

_Key = tuple[Any, ...]


class Repeats:
    """Remembers requests to one endpoint. `understand` makes a job out of a request's fields."""

    def __init__(self, understand: Callable[[dict[str, Any]], Job]) -> None:
        self._understand = understand
        self._known: OrderedDict[_Key, tuple[Job, Any]] = OrderedDict()

    def job(self, body: bytes, with_model: Callable[[dict[str, Any]], dict[str, Any]], model: str | None) -> Job:
        """The job of a JSON body; `with_model(fields)` are its fields with the model that the path names."""
        split = quick_json.split(body)
        if split is None:
            return self._understand(with_model(json.read(body)))
        rest, arrays = split
        key = (model, rest, *map(_kind, arrays))
        known = self._known.get(key)
        if known is not None:
            job, places = known
            again = None if job.again is None else job.again(*(_placed(place, arrays) for place in places))
            if again is not None:
                return again
            self._known.pop(key, None)
        try:
            fields = quick_json.joined(rest, arrays, json.described)
        except quick_json.Unusual:
            return self._understand(with_model(json.read(body)))
        job = self._understand(with_model(fields))
        if job.again is not None and not job.to_begin and len(rest) <= MOST_BYTES:
            self._remember(key, job, fields, arrays)
        return job

    def _remember(self, key: _Key, job: Job, fields: dict[str, Any], arrays: Sequence[Any]) -> None:
        """Only if every array of the request is in its inputs, lengths or states: others may say what to compute."""
        used: set[int] = set()
        state = fields.get("initial_state", fields.get("state"))
        if isinstance(state, str):  # a token, in whose place there would be nothing
            return
        places = [_places(part, arrays, used) for part in (fields.get("inputs"), fields.get("lengths"), state)]
        if len(used) == len(arrays):
            self._known[key] = job.without_inputs(), places
            while len(self._known) > MOST:
                self._known.popitem(last=False)


def _kind(array: Any) -> tuple[Any, ...]:
    """What of an array decides what it takes."""
    return ("ragged",) if isinstance(array, Ragged) else (array.shape, array.dtype.char)


def _places(tree: Any, arrays: Sequence[Any], used: set[int]) -> Any:
    """A tree with the number of each array in its place."""
    if isinstance(tree, dict):
        return {name: _places(item, arrays, used) for name, item in tree.items()}
    if isinstance(tree, list):
        return [_places(item, arrays, used) for item in tree]
    found = next((k for k, array in enumerate(arrays) if array is tree), None)
    if found is not None:
        used.add(found)
    return found


def _placed(places: Any, arrays: Sequence[Any]) -> Any:
    """The tree with other arrays."""
    if type(places) is int:
        return arrays[places]
    if type(places) is list:
        return [_placed(item, arrays) for item in places]
    if type(places) is dict:
        return {name: _placed(item, arrays) for name, item in places.items()}
    return None
