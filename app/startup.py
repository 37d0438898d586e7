"""What must hold of settings together before the service starts: each that does not is one sentence."""

from __future__ import annotations

import difflib
import errno
import ipaddress
import os
import re
import socket
import sys
from collections.abc import Callable, Iterable, Mapping

from app.keyring import Keyring
from app.keys import KeysError
from app.settings import Settings

PREFIX = "UNROLLED_"

#: What Kubernetes puts into the environment of containers beside a service that is called `unrolled`.
_OF_KUBERNETES = re.compile(PREFIX + r"(SERVICE_(HOST|PORT)|PORT_\d+_(TCP|UDP|SCTP))(_.*)?")

#: Settings that do not go together, and what to say where they meet.
CONTRADICTIONS: tuple[tuple[Callable[[Settings], bool], str], ...] = (
    (
        lambda has: not (is_loopback(has.host) or has.has_keys or has.allow_anonymous),
        "UNROLLED_HOST is {0.host!r}, which others can reach, and there are no keys: give keys (UNROLLED_KEYS_FILE or "
        "UNROLLED_KEYS; `unrolled key` makes one), or say that anybody may use it (UNROLLED_ALLOW_ANONYMOUS=true)",
    ),
    (
        lambda has: has.has_keys and has.allow_anonymous,
        "UNROLLED_ALLOW_ANONYMOUS says that nobody needs a key, and UNROLLED_KEYS_FILE or UNROLLED_KEYS that everybody "
        "does: leave one of them out",
    ),
    (
        lambda has: has.rate_limit is not None and not has.has_keys,
        "UNROLLED_RATE_LIMIT is a limit of keys, and there are none: give keys (UNROLLED_KEYS_FILE or UNROLLED_KEYS), "
        "or leave it out",
    ),
    (
        lambda has: has.concurrency_limit is not None and not has.has_keys,
        "UNROLLED_CONCURRENCY_LIMIT is a limit of keys, and there are none: give keys (UNROLLED_KEYS_FILE or "
        "UNROLLED_KEYS), or leave it out",
    ),
    (
        lambda has: has.workers > 1 and has.max_sequences > 0,
        "UNROLLED_WORKERS is {0.workers}, and sequences are kept in the memory of one process: set "
        "UNROLLED_MAX_SEQUENCES=0, or use one worker; state tokens work with any number",
    ),
)


def check(settings: Settings, environment: Mapping[str, str]) -> None:
    """Ends the process, with a sentence for each, where settings contradict each other or are none of ours."""
    said = [*unknown(environment), *contradictions(settings), *unreadable(settings)]
    if said:
        sys.stderr.writelines(f"unrolled: {sentence}\n" for sentence in said)
        sys.exit(2)


def check_address(settings: Settings) -> None:
    """Ends the process with a sentence where nothing can listen: before all is loaded, of which nothing would come."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        socket.create_server((settings.host, settings.port), family=family).close()
    except OSError as error:
        known = error.errno in errno.errorcode  # a name that nothing is known of has codes of its own
        why = os.strerror(error.errno or 0) if known else error.strerror or str(error)
        hint = ": --port chooses another (UNROLLED_PORT)" if error.errno == errno.EADDRINUSE else ""
        sys.stderr.write(f"unrolled: cannot listen on {settings.host}, port {settings.port}: {why.lower()}{hint}\n")
        sys.exit(2)


def unknown(environment: Iterable[str]) -> list[str]:
    """Variables with our prefix that are no settings: a limit with a slip in its name would limit nobody."""
    ours = [name for name in sorted(environment) if name.upper().startswith(PREFIX)]
    return [
        f"{name} is not a setting: {_hint(field)}"
        for name in ours
        if (field := name[len(PREFIX) :].lower()) not in Settings.model_fields and not _OF_KUBERNETES.fullmatch(name)
    ]


def _hint(field: str) -> str:
    near = difflib.get_close_matches(field, Settings.model_fields, 1)
    return f"did you mean {PREFIX}{near[0].upper()}?" if near else "`unrolled serve --help` lists them"


def contradictions(settings: Settings) -> list[str]:
    """What settings contradict each other."""
    return [said.format(settings) for contradict, said in CONTRADICTIONS if contradict(settings)]


def unreadable(settings: Settings) -> list[str]:
    """What is wrong with the keys."""
    if settings.has_keys:
        try:
            Keyring(settings)
        except KeysError as error:
            return [str(error)]
    return []


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there. Of names, only `localhost` is taken for one that is."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False
