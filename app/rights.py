"""What a request needs a key for, and the key that it comes with: decided by its head alone."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl

from starlette.types import Scope

from app.keyring import Keyring
from app.keys import PREFIX, Key
from app.problems import Problem

#: What a request may need that is no scope: nothing, and a key of whatever scopes.
OPEN, ANY = "open", "any"

#: What probes ask, and what holds for every service of this version: its pages and descriptions, in which nothing of
#: a model stands.
_OPEN = re.compile(r"/|/docs|/openapi\.json|/cells|/static/.*|/healthz|/readyz|/v2/health/(live|ready)", re.DOTALL)

_READING = frozenset(("GET", "HEAD", "OPTIONS"))
_REPOSITORY, _INDEX = "/v2/repository/", "/v2/repository/index"

#: Parameters of a query string that are taken for a key, without the dashes and underscores in them.
_KEY_NAMES = frozenset(
    ("apikey", "xapikey", "key", "token", "accesstoken", "authorization", "auth", "bearer", "secret")
)

_HOW = "send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`"


def needed(scope: Scope) -> str:
    """The scope that a key must have for this request, or OPEN or ANY. What is new here needs one, whatever it is."""
    if scope["type"] == "websocket":
        return "infer"
    method, path = scope["method"], scope["path"]
    if method == "POST":
        if path.startswith(_REPOSITORY):
            return ANY if path == _INDEX else "models"
        return "infer"
    if method in _READING:
        return OPEN if _OPEN.fullmatch(path) else ANY
    return "models"


def key_of(scope: Scope, keyring: Keyring) -> Key | None:
    """The key that a request comes with and may do this; None where it needs none.

    Raises a 401 where there is no key or a wrong one, a 403 where it may not, a 400 for a key in the query string.
    """
    if scope["query_string"]:
        _refuse_key_in(scope["query_string"])
    need = needed(scope)
    if need == OPEN:
        return None
    key = keyring.keys.find(_given(scope))
    if key is None:
        detail = f"the key is none of this service's: it may have been replaced or removed; {_HOW}"
        raise _unauthorized(detail, 'Bearer error="invalid_token"')
    if need != ANY and need not in key.scopes:
        has = " and ".join(sorted(key.scopes)) or "none"
        raise Problem(
            403,
            f"the key {key.name!r} may not do this, which needs the scope `{need}`; its scopes: {has}",
            headers={"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{need}"'},
        )
    return key


def _given(scope: Scope) -> bytes:
    """The key in the headers. What stands there is repeated in no message: it may be a key in the wrong form."""
    given, other = [offer.encode() for offer in scope.get("subprotocols", ()) if is_key(offer)], False
    for name, value in scope["headers"]:
        if name == b"x-api-key":
            given.append(value.strip())
        elif name == b"authorization":
            scheme, _, secret = value.strip().partition(b" ")
            if scheme.lower() == b"bearer":
                given.append(secret.strip())
            else:
                other = True
    if len(given) > 1 and len(set(given)) > 1:
        raise Problem(400, f"the request comes with several keys: send one. To use a key, {_HOW}")
    if not given:
        said = "the header Authorization is not `Bearer KEY`" if other else "this needs a key"
        raise _unauthorized(f"{said}: {_HOW}", "Bearer")
    return given[0]


def is_key(text: str) -> bool:
    """Whether this looks like a key, where keys are not alone: a parameter's value, a subprotocol of a WebSocket."""
    return text.startswith(PREFIX)


def _unauthorized(detail: str, challenge: str) -> Problem:
    return Problem(401, detail, headers={"WWW-Authenticate": challenge}, reason="unauthorized")


def _refuse_key_in(query: bytes) -> None:
    for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if is_key(value) or name.lower().replace("-", "").replace("_", "") in _KEY_NAMES:
            raise Problem(
                400,
                "a key in the query string is refused, since URLs are kept in logs and histories: "
                f"{_HOW}; and replace this one, if it was a key",
            )
