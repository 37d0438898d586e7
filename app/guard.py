"""The layer in front of all routes, where there are keys: a request that may not pass is answered here, unread."""

from __future__ import annotations

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import record
from app.head import HeadMiddleware
from app.keyring import Keyring
from app.problems import Problem
from app.rates import Limits
from app.rights import is_key, key_of

#: What a browser offers beside its key, since a key is not to be chosen: it would come back in the answer.
SUBPROTOCOL = "unrolled"

#: Where a refusal stands in the scope of a request, on its way to the answer.
_REFUSAL = "unrolled.refusal"


class Guard:
    """Lets those requests through to the application behind it whose key allows them."""

    def __init__(self, app: ASGIApp, keyring: Keyring, limits: Limits) -> None:
        self._app, self._keyring, self._limits = app, keyring, limits
        self._refuse = HeadMiddleware(_answer)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        try:
            key = key_of(scope, self._keyring)
            under_way = None if key is None else self._limits.admit(key)
        except Problem as problem:
            problem.note(record.of(scope))
            await self._refuse({**scope, _REFUSAL: problem.response()}, receive, send)
            return
        if key is None or under_way is None:
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})["key"] = key.name  # for whoever tells who it was
        if SUBPROTOCOL in scope.get("subprotocols", ()):
            scope, send = _without_key(scope), _choosing(send)
        with under_way:
            await self._app(scope, receive, send)


def _without_key(scope: Scope) -> Scope:
    """A WebSocket that does not offer its key as a subprotocol any more."""
    return {**scope, "subprotocols": [offer for offer in scope["subprotocols"] if not is_key(offer)]}


def _choosing(send: Send) -> Send:
    """Accepts SUBPROTOCOL: a browser that offered some closes a WebSocket for which none is chosen."""

    async def sending(message: Message) -> None:
        accepts = message["type"] == "websocket.accept" and not message.get("subprotocol")
        await send({**message, "subprotocol": SUBPROTOCOL} if accepts else message)

    return sending


async def _answer(scope: Scope, receive: Receive, send: Send) -> None:
    refusal: Response = scope[_REFUSAL]
    if scope["type"] == "websocket":
        await receive()  # that it is to be connected
        await _deny(refusal, scope, send)
    else:
        await refusal(scope, receive, send)


async def _deny(refusal: Response, scope: Scope, send: Send) -> None:
    """Answers the handshake of a WebSocket with the refusal; closes it where the server knows no such answer."""
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008, "reason": "this needs a key that allows it"})
        return
    head: Message = {"type": "websocket.http.response.start", "status": refusal.status_code}
    await send({**head, "headers": refusal.raw_headers})
    await send({"type": "websocket.http.response.body", "body": refusal.body})
