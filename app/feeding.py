"""What a request to /generate says of how its rows are fed, checked before anything is allocated for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import numpy as np

from app import batches
from app.batches import Given
from app.problems import Problem
from app.schemas_generate import GenerateRequest
from rnn_engine import Network
from rnn_engine.feeds import ConstantFeed, Feed, TokenFeed, ValueFeed
from rnn_engine.sampling import LOGARITHMS, Sampling, distribution_of
from rnn_engine.types import Array

#: Makes a feed, which allocates what it keeps.
MakesFeed: TypeAlias = Callable[[], Feed]

#: What only a choice among tokens has.
_OF_TOKENS = ("temperature", "top_k", "top_p", "stop", "num_samples")


def chooses_tokens(request: GenerateRequest, net: Network) -> bool:
    """Whether what a step puts out is a token."""
    return request.feed == "one_hot" or (net.embeds and request.feed == "prediction")


def feeding(request: GenerateRequest, net: Network, given: Given, steps: int) -> MakesFeed:
    """What makes the feed that a request asks for. Raises a 422 for what does not go together."""
    if chooses_tokens(request, net):
        return _tokens(request, net, given, steps)
    for name in _OF_TOKENS:
        if getattr(request, name) != type(request).model_fields[name].default:
            raise Problem(422, f"`{name}` is of tokens, and here no tokens are chosen: leave it out", (name,))
    rows, dtype = given.batch_size, net.dtype
    if request.feed == "constant":
        for name in ("future", "feedback"):
            if getattr(request, name) is not None:
                raise Problem(422, f"`{name}` goes with no constant inputs: leave one of them out", (name,))
        return lambda: ConstantFeed(rows, steps, net.predicted_size, given.last_inputs(request.time_major), dtype)
    columns = _columns(request, net)
    future = _future(request, net, rows, steps)
    return lambda: ValueFeed(rows, steps, columns, net.input_size, dtype, future)


def _tokens(request: GenerateRequest, net: Network, given: Given, steps: int) -> MakesFeed:
    act = net.readout[-1].act if net.readout else None
    distribution = None if act is None else distribution_of(act)
    if distribution is None:
        said = "no readout" if act is None else f"a readout that ends in {act if isinstance(act, str) else act.name}"
        raise Problem(
            422,
            f"the net has {said}: tokens are chosen from what a readout puts out that ends in one of "
            f'{", ".join(LOGARITHMS)}. With `"feed": "constant"` none are chosen',
            ("feed",),
        )
    known = net.input_size if net.front.embedding is None else len(net.front.embedding.table)
    one_hot = request.feed == "one_hot"
    if one_hot and net.embeds:
        raise Problem(422, "the net embeds token ids: it takes them as they are, with no `feed`", ("feed",))
    if net.predicted_size > known or (one_hot and net.predicted_size != known):
        raise Problem(422, f"the readout tells {net.predicted_size} tokens apart, the net reads {known}", ("feed",))
    if "future" in request.model_fields_set or "feedback" in request.model_fields_set:
        raise Problem(422, "tokens have no features beside them: leave `future` and `feedback` out", ("future",))
    stops = [] if request.stop is None else [request.stop] if isinstance(request.stop, int) else request.stop
    for k, stop in enumerate(stops):
        if not 0 <= stop < net.predicted_size:
            where = ("stop", k) if isinstance(request.stop, list) else ("stop",)
            raise Problem(422, f"stop {stop} is none of the tokens 0..{net.predicted_size - 1}", where)
    return partial(
        TokenFeed,
        given.batch_size * request.num_samples,
        steps,
        distribution,
        Sampling(request.temperature, request.top_k, request.top_p),
        seeds=_seeds(request, given.batch_size),
        stops=stops,
        never=net.front.mask_token,
        one_hot=known if one_hot else None,
        with_logs="log_probabilities" in (request.returned or ()),
    )


def _seeds(request: GenerateRequest, prompts: int) -> list[int]:
    given = request.draws
    if isinstance(given, int):
        return [(given + k) % 2**64 for k in range(prompts)]
    if len(given) != prompts:
        raise Problem(422, f"there are {len(given)} seeds for {prompts} prompts: give one for each", ("seed",))
    return given


def _columns(request: GenerateRequest, net: Network) -> list[int]:
    """The features of the next step that predictions are."""
    n, size = net.predicted_size, net.input_size
    if n > size:
        raise Problem(
            422,
            f"the net predicts {n} numbers and reads {size} features a step, so its predictions cannot be read next: "
            'a readout makes fewer of them, and `"feed": "constant"` reads the last step of the prompt again',
            ("feed",),
        )
    columns = list(range(n)) if request.feedback is None else request.feedback
    if len(columns) != n or len(set(columns)) != n or not all(0 <= column < size for column in columns):
        said = f"feedback is {columns}: expected {n} different features of 0..{size - 1}, one for each prediction"
        raise Problem(422, said, ("feedback",))
    return columns


def _future(request: GenerateRequest, net: Network, rows: int, steps: int) -> Array | None:
    """The features that are known of the steps to come, [R, steps - 1 or more, K]."""
    known = net.input_size - net.predicted_size
    expected = f"[{rows}, {steps - 1}, {known}]"
    if request.future is None:
        if known and steps > 1:
            said = f"{net.predicted_size} of {net.input_size} features are predicted"
            raise Problem(422, f"{said}: give the others of the steps to come as `future` {expected}", ("future",))
        return None
    future = batches.numbers(request.future, "future")
    if not known:
        raise Problem(422, "every feature is predicted, so none is known of the `future`: leave it out", ("future",))
    if (
        future.ndim != 3
        or future.shape[0] != rows
        or future.shape[1] not in (steps - 1, steps)
        or future.shape[2] != known
    ):
        raise Problem(422, f"future has shape {list(future.shape)}, expected {expected}", ("future",))
    with np.errstate(over="ignore"):
        array = future.astype(net.dtype)
    if not np.isfinite(array).all():
        raise Problem(422, f"future has values that are not finite in {net.dtype}", ("future",))
    return array
