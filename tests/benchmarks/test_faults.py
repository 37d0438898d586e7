"""What the scenarios make of what they see: requests that are lost count, and a scenario that breaks is no success."""

import socket
import threading
import time
from collections import Counter
from contextlib import closing, contextmanager
from types import SimpleNamespace

import pytest

from benchmarks import faults
from benchmarks.operations import stopping
from benchmarks.operations.server import Server
from benchmarks.operations.stopping import Load
from benchmarks.operations.verdicts import Broken, Left, expect

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


@contextmanager
def serving(*answers):
    """A server that says these things, one a connection, then closes it; and nothing more once they are said."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve():
            for answer in answers:
                connection, _ = listening.accept()
                with connection:
                    received = b""
                    while not received.endswith(stopping.BODY):
                        received += connection.recv(1 << 16)
                    connection.sendall(answer)
            listening.close()

        thread = threading.Thread(target=serve)
        thread.start()
        port = listening.getsockname()[1]
        yield SimpleNamespace(
            port=port, connection=lambda timeout: Server.connection(SimpleNamespace(port=port), timeout)
        )
        thread.join(60)


@pytest.mark.parametrize(
    ("answer", "signalled", "end"),
    [
        (ANSWER, 0.0, "200"),
        (ANSWER.replace(b"200 OK", b"503 Service Unavailable"), 0.0, "503"),
        (b"", float("inf"), "lost"),
        (b"", 0.0, "closed without an answer"),
        (ANSWER[:-1], 0.0, "lost"),
        (ANSWER[:-1], float("inf"), "lost"),
    ],
    ids=["answered", "refused", "sent before the stop", "sent after it", "cut off", "cut off before"],
)
def test_how_a_request_ended(answer, signalled, end):
    with serving(answer) as server:
        load = Load(server, stops=True, signalled=signalled)
        with closing(server.connection(60)) as connection:
            assert load._asked(connection)[0] == end


def test_clients_stop_once_nobody_answers_and_all_their_requests_are_counted(monkeypatch):
    monkeypatch.setattr(stopping, "CLIENTS", 2)
    with serving(*[ANSWER] * 4) as server:
        load = Load(server, stops=True)
        load.signalled = time.monotonic()
        load.start()
        ends = load.join()
    assert ends["200"] == 4
    assert set(ends) <= {"200", "not connected", "closed without an answer"}
    assert ends.total() - ends["200"] in (2, 3, 4)


def test_a_scenario_that_does_not_hold_is_told_and_one_that_cannot_be_run_is_left_out(monkeypatch, capsys):
    def left(quick):
        raise Left("no disk")

    def breaks(quick):
        expect(False, "it hung")

    monkeypatch.setattr(faults, "SCENARIOS", {"left": left, "breaks": breaks, "fine": lambda quick: "42 answers"})
    assert [faults.seen(name, True) for name in ("left", "breaks", "fine")] == [True, False, True]
    told = capsys.readouterr().out
    assert "left out: no disk" in told
    assert "DOES NOT HOLD: it hung" in told
    assert "42 answers" in told
    with pytest.raises(Broken):
        expect(Counter()["lost"] > 0, "nothing was lost")
