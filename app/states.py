"""How the state of a request comes and goes: as arrays by name, or as a token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

from app import batches
from app.problems import Problem
from app.registry import Planner
from app.registry.models import Version
from app.schemas import StateRequest
from app.tokens import Tokens, label_of
from app.work import Answer
from rnn_engine import Network
from rnn_engine.errors import listed

#: Seconds a byte: of weights that are digested, of a token that is read.
PER_DIGESTED, PER_READ = 1.5e-9, 6e-9
#: Bytes that a character of a token takes while it is read, beside the body.
BYTES_A_CHARACTER = 3

#: Puts an answer's state into the form that was asked for.
Finish: TypeAlias = Callable[[Answer], Answer]


@dataclass(frozen=True)
class States:
    """What a request says of states. `given` is what came in the field `where`."""

    tokens: Tokens
    where: str
    given: Any
    as_token: bool = False
    version: Version | None = None  # whose token it is to be, where not the net's that answers
    dtype: str = "float32"

    @classmethod
    def asked(
        cls, request: StateRequest, where: str, returned: set[str], net: Network, tokens: Tokens, registry: Planner
    ) -> States:
        """Raises a 422 or 404 for a token that is to be for a model that has other states, or is none."""
        as_token, given = request.state_format == "token", getattr(request, where)
        version = None
        if request.state_for is not None:
            if not as_token:
                raise Problem(422, 'state_for goes with "state_format": "token" alone: add that', ("state_for",))
            version = registry.version(request.state_for, "state_for")
            _check_alike(net, version.planned(request.dtype))
        return cls(tokens, where, given, as_token and "state" in returned, version, request.dtype)

    @property
    def repeats(self) -> bool:
        """Whether a request with other numbers of the same shapes is the same but for them: not if one is a token."""
        return not isinstance(self.given, str) and self.version is None

    def without_given(self) -> States:
        """The same for whoever keeps it: what came belongs to one request."""
        return replace(self, given=None)

    @property
    def nbytes(self) -> int:
        """Bytes that it takes to read the token."""
        return BYTES_A_CHARACTER * self._length

    @property
    def _length(self) -> int:
        return len(self.given) if isinstance(self.given, str) else 0

    def seconds(self, net: Network) -> float:
        """About how long `begin` takes with a net that has its weights, beside what it computes anyway."""
        digested = {net} if isinstance(self.given, str) else set()
        if self.as_token:
            digested.add(net if self.version is None else self.version.planned(self.dtype))
        return PER_READ * self._length + sum(map(seconds_to_digest, digested))

    def begin(self, net: Network, given: Any, rows: int) -> tuple[Any, Finish]:
        """The state that the rows begin with, as the engine takes it, and what finishes the answer.

        Whatever must be found out of the weights for that is found here: it may take a while.
        """
        state = self.read(net, given, rows)
        if not self.as_token:
            return state, _as_it_is
        owner = net if self.version is None else self.version.network(self.dtype)
        owner.digest  # noqa: B018
        return state, partial(_with_token, self.tokens, owner)

    def read(self, net: Network, given: Any, rows: int) -> Any:
        """A state that came in, arrays of a token. Raises a 422 for a token that is none of this net and batch."""
        if not isinstance(given, str):
            return batches.state(given)
        state = self.tokens.read(given, net, (self.where,))
        held = _rows(state)
        if held != rows:
            detail = f"the token holds the states of {held} row{'s' * (held != 1)}, the batch has {rows}: send as many"
            raise Problem(422, detail, (self.where,))
        return state


def _as_it_is(answer: Answer) -> Answer:
    return answer


def _with_token(tokens: Tokens, owner: Network, answer: Answer) -> Answer:
    answer["state"] = tokens.write(owner, answer["state"])
    return answer


def _rows(tree: Any) -> int:
    """Of the first array of a state."""
    while isinstance(tree, (list, dict)):
        tree = tree[0] if isinstance(tree, list) else next(iter(tree.values()))
    return len(tree)


def seconds_to_digest(net: Network) -> float:
    """About how long it takes until it is known whose tokens a net reads and writes."""
    if net.fingerprint.known is not None:
        return 0.0
    embedding = 0 if net.front.embedding is None else net.front.embedding.table.size
    return PER_DIGESTED * net.dtype.itemsize * (net.parameters + embedding)


def _check_alike(net: Network, other: Network) -> None:
    """Raises a 422 that names the first difference, unless states of the one are states of the other in form."""
    name = label_of(other)
    if len(net.layers) != len(other.layers):
        detail = f"{name} has {_layers(other)}, the net that answers has {_layers(net)}"
        raise Problem(422, f"{detail}: a state of the one is none of the other", ("state_for",))
    for k, (layer, its) in enumerate(zip(net.layers, other.layers, strict=True)):
        if layer.state_size() != its.state_size():
            detail = f"layer {k} of {name} has a state of {_told(its.state_size())}"
            detail += f", that of the net that answers has {_told(layer.state_size())}"
            raise Problem(422, f"{detail}: a state of the one is none of the other", ("state_for",))


def _layers(net: Network) -> str:
    return f"{len(net.layers)} layer{'s' * (len(net.layers) != 1)}"


def _told(sizes: dict[str, Any]) -> str:
    """ "c of 3 and h of 3", by direction if there are two."""
    return listed(
        f"{name}: {_told(size)}" if isinstance(size, dict) else f"{name} of {size}" for name, size in sizes.items()
    )
