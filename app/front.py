"""What stands in front of all routes: keys, and what pages of other origins may do. Nothing, where both are off."""

from __future__ import annotations

import asyncio
import logging

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Scope

from app.keyring import Keyring
from app.problems import Problem
from app.rights import key_of
from app.settings import Settings

log = logging.getLogger("unrolled")

#: How often the file of the keys is looked at.
WATCH_SECONDS = 2.0

#: Headers of answers that scripts of other origins may read, beside the usual ones.
EXPOSED = ["Inference-Header-Content-Length", "Location", "Retry-After", "WWW-Authenticate"]


class Front:
    """Keys and origins of one application."""

    def __init__(self, settings: Settings) -> None:
        """Raises a KeysError where there is a key that makes no sense."""
        self._settings = settings
        self.keyring = Keyring(settings) if settings.has_keys else None

    def around(self, app: ASGIApp) -> ASGIApp:
        """The application with what stands in front of it."""
        if self.keyring is not None:
            from app.guard import Guard  # here, since limits takes as long to import as all of the service
            from app.rates import Limits

            app = Guard(app, self.keyring, Limits(self._settings))
        if self._settings.origins:
            app = CORSMiddleware(
                app,
                allow_origins=self._settings.origins,
                allow_methods=["GET", "POST", "PUT", "DELETE"],
                allow_headers=["*"],  # there are no cookies: a script says nothing that it was not told itself
                expose_headers=EXPOSED,
            )
        return app

    def passes(self, scope: Scope) -> bool:
        """Whether this request has come through all that stands in front: only then may others answer it at once."""
        if self._settings.origins and any(name == b"origin" for name, _ in scope["headers"]):
            return False
        if self.keyring is None:
            return True
        try:
            key_of(scope, self.keyring)
        except Problem:
            return False
        return True

    async def watch(self) -> None:
        """Tells the names of the keys, and looks at their file for as long as this is awaited."""
        if self.keyring is None:
            return
        log.info("keys: %s", ", ".join(self.keyring.keys.names) or "none, so that nobody is let in")
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            await asyncio.to_thread(self.keyring.look)
