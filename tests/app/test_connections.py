"""The head of an answer leaves with its body. (Connections that are cut: test_bad_clients.py.)"""

import asyncio

from app.connections import _Together

HEAD, BODY = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n", b"body"


class Transport:
    """Notes what is asked of it; each item of `sent` is one call of the system."""

    def __init__(self):
        self.sent, self.closed = [], False

    def write(self, data):
        assert not self.closed
        self.sent.append(bytes(data))

    def writelines(self, parts):
        self.write(b"".join(parts))

    def close(self):
        self.closed = True

    def get_write_buffer_size(self):
        return 7


def after(*calls, turns=0):
    """What was sent after calls of (name, arguments), and turns of the loop."""

    async def main():
        transport = Transport()
        together = _Together(transport, asyncio.get_running_loop())
        for name, *given in calls:
            getattr(together, name)(*given)
        for _ in range(turns):
            await asyncio.sleep(0)
        return list(transport.sent), transport.closed

    sent, closed = asyncio.run(main())
    assert closed == (("close",) in calls)
    return sent


def test_a_head_is_sent_with_its_body_at_once():
    assert after(("write", HEAD), ("write", BODY)) == [HEAD + BODY]


def test_every_answer_is_by_itself():
    calls = [("write", HEAD), ("write", BODY)] * 3
    assert after(*calls, turns=3) == [HEAD + BODY] * 3


def test_a_head_whose_body_does_not_come_leaves_alone_with_the_next_turn():
    assert after(("write", HEAD)) == []
    assert after(("write", HEAD), turns=2) == [HEAD]


def test_what_comes_later_follows_it():
    async def main():
        transport = Transport()
        together = _Together(transport, asyncio.get_running_loop())
        together.write(HEAD)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        together.write(BODY)
        return transport.sent

    assert asyncio.run(main()) == [HEAD, BODY]


def test_a_head_is_sent_before_the_connection_is_closed():
    assert after(("write", HEAD), ("close",)) == [HEAD]


def test_pieces_of_a_body_are_sent_as_they_come():
    calls = [("write", HEAD), *(("write", piece) for piece in (b"4\r\nbody\r\n", b"0\r\n\r\n"))]
    assert after(*calls, turns=2) == [HEAD + b"4\r\nbody\r\n", b"0\r\n\r\n"]


def test_a_body_may_be_views_of_arrays():
    calls = [("write", HEAD), ("write", memoryview(BODY)), ("write", memoryview(BODY))]
    assert after(*calls, turns=2) == [HEAD + BODY, BODY]


def test_a_head_behind_a_head_is_not_lost():
    """100 Continue, say, or an error of uvicorn's own."""
    assert after(("write", HEAD), ("write", HEAD), ("write", BODY), turns=2) == [HEAD + HEAD, BODY]


def test_all_else_is_the_transports():
    async def main():
        together = _Together(Transport(), asyncio.get_running_loop())
        return [together.get_write_buffer_size() for _ in range(2)]

    assert asyncio.run(main()) == [7, 7]


def test_a_transport_that_is_taken_over_has_sent_what_was_held_back():
    async def main():
        transport = Transport()
        together = _Together(transport, asyncio.get_running_loop())
        together.write(HEAD)
        assert together.bare() is transport
        return transport.sent

    assert asyncio.run(main()) == [HEAD]
