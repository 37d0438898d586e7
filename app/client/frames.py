"""A stream as its client sees it: frames out, answers in, over a WebSocket whose bytes somebody else carries.

Binary frames are safetensors both ways, as of all other calls. The bytes of the protocol itself are those of the
package `websockets`, which is needed for streams alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx

from app.client import calls, sequences, wire
from app.client.answers import StreamAnswer
from app.client.errors import UnreachableError, of_problem, translated
from app.client.exchange import Call, Timeout
from app.client.sequences import Layout

if TYPE_CHECKING:
    from websockets.frames import Frame

#: Bytes to read at once.
PIECE = 1 << 16


def opening(model: str, timeout: Timeout, seconds: float | None) -> Call[httpx.Response]:
    """Opens a WebSocket. The service answers each frame within so many seconds."""
    try:
        from websockets.utils import accept_key, generate_key
    except ImportError as error:
        raise ImportError("streams need the package websockets: pip install websockets") from error

    key = generate_key()
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": key,
    }
    if seconds is not None:
        headers["X-Timeout-Ms"] = str(max(1, round(seconds * 1000)))

    def read(response: httpx.Response) -> httpx.Response:
        if response.status_code != 101 or response.headers.get("sec-websocket-accept") != accept_key(key):
            raise UnreachableError(f"no stream was opened: the answer was {response.status_code}, and no WebSocket")
        return response

    return Call("GET", f"{calls.path_of(model)}/stream", read, headers, timeout=timeout, opens=101)


class Frames:
    """The frames of one stream. No sockets: `frame` gives bytes to send, `heard` takes those that came."""

    def __init__(self, first: Mapping[str, Any]) -> None:
        """`first` are fields that the first frame has beside its own."""
        from websockets.protocol import CLIENT, Protocol

        self._first, self._began, self._over = dict(first), False, False
        self._protocol = Protocol(CLIENT, max_size=None)
        self._parts: list[Frame] = []  # of a message that is not whole yet
        self._came: deque[dict[str, Any]] = deque()  # answers that nobody has taken
        self._layouts: deque[Layout] = deque()  # of the frames that are not answered

    def frame(self, inputs: Any, lengths: Any, options: Mapping[str, Any], *, end: bool = False) -> bytes:
        """What is to be sent. Raises an UnreachableError once the stream is closed."""
        if self._first and self._layouts and not self._began:
            # if the first frame were refused, this one would be the first, and begin from zeros
            raise ValueError("the stream begins from options of its own: receive the first answer before more is sent")
        given: dict[str, Any] = {}
        layout = Layout()
        if inputs is not None:
            given, layout = sequences.batch(inputs, lengths, options)
        fields = ({} if self._began else self._first) | given | calls.renamed(options) | ({"end": True} if end else {})
        body = wire.encode(fields)
        if not self._came:
            self._check_open()
        self._layouts.append(layout)
        if self._is_open:  # else what has come tells why it is not
            self._protocol.send_binary(body)
        return self._to_send()

    def heard(self, data: bytes) -> bytes:
        """Takes in what came, b"" for the end of it. What is to be sent in return, if anything."""
        if data:
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()
        for event in self._protocol.events_received():
            self._take(event)
        return self._to_send()

    def _take(self, frame: Any) -> None:
        from websockets.frames import DATA_OPCODES, Opcode

        if frame.opcode not in DATA_OPCODES:
            return  # pings and closings, which the protocol answers itself
        self._parts.append(frame)
        if frame.fin:
            binary = self._parts[0].opcode is Opcode.BINARY
            body = b"".join(part.data for part in self._parts)
            self._parts = []
            self._came.append(wire.decode(body) if binary else wire.tree_of(body))

    def answer(self) -> StreamAnswer[Any] | None:
        """The next one, if it is there. Raises the ServiceError that it is, or an UnreachableError if none comes."""
        if not self._came:
            self._check_open()
            return None
        tree = self._came.popleft()
        layout = self._layouts.popleft() if self._layouts else Layout()
        if "status" in tree:
            raise of_problem(tree["status"], tree)
        answer: StreamAnswer[Any] = StreamAnswer(calls.laid_out(tree, layout))
        self._began, self._over = True, answer.final
        return answer

    @contextmanager
    def carried(self, *, out: bool = False) -> Iterator[None]:
        """Around whatever carries its bytes, in or `out`. What goes wrong there ends the stream: if somebody no longer
        waited for an answer, the next one to be asked would be taken for its own. But bytes that nobody takes any more
        are no matter: why the stream was closed, and with which state, may still be there to be read.
        """
        try:
            with translated():
                yield
        except BaseException as error:
            if not (out and isinstance(error, UnreachableError)):
                self._over = True
                raise

    def goodbye(self) -> bytes:
        """What is to be sent where no more frames are; nothing if the stream is closed already."""
        if self._is_open:
            self._protocol.send_close(1000)
        return self._to_send()

    @property
    def _is_open(self) -> bool:
        from websockets.protocol import OPEN

        return self._protocol.state is OPEN and not self._over

    def _check_open(self) -> None:
        if not self._is_open:
            closing = self._protocol.close_rcvd
            told = "" if closing is None else f" ({f'{closing.code} {closing.reason}'.strip()})"
            raise UnreachableError(f"the stream is closed{told}: open another one, from the last state that there is")

    def _to_send(self) -> bytes:
        return b"".join(self._protocol.data_to_send())
