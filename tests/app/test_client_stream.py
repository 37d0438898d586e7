"""Streams by the client, of a real server, or of one that breaks them."""

import asyncio
import socket
import threading
from contextlib import contextmanager

import httpx
import numpy as np
import pytest
from safetensors.numpy import save

import app.client as public
from app import keys
from app.client import AsyncClient, Client, unpad
from app.client.frames import Frames
from tests.app import raw
from tests.app.driving import Driven
from tests.app.test_client import IDS, assert_same
from tests.app.test_models import LSTM, READER, READING, X, state_dict


@pytest.fixture(scope="module")
def serving(start, tmp_path_factory):
    server = start(models=tmp_path_factory.mktemp("models"), threads=2, max_body_bytes=1 << 20)
    with Client(f"http://127.0.0.1:{server.port}") as client:
        client.models.put("net", {"model.safetensors": save(LSTM)})
        client.models.put("reader", {"model.safetensors": save(READER)}, READING)
        client.models.put("judge", {"model.safetensors": save(READER)}, READING | {"return_sequences": False})
        client.models.put("both", {"model.safetensors": save(state_dict("lstm", [4, 3], both=True))})
    return server


@contextmanager
def asking(kind, url, **options):
    if kind == "Client":
        with Client(url, **options) as client:
            yield client
        return
    with asyncio.Runner() as runner, Driven(AsyncClient(url, **options), runner) as client:
        yield client


@pytest.fixture(params=["Client", "AsyncClient"])
def kind(request):
    return request.param


@pytest.fixture
def client(kind, serving):
    with asking(kind, f"http://127.0.0.1:{serving.port}") as client:
        yield client


def test_steps_one_by_one_have_the_bits_of_a_run(client):
    whole = client.run(X, model="net")
    with client.stream("net") as stream:
        answers = [stream.run(X[:, t : t + 1]) for t in range(5)]
        last = stream.end()
    assert_same(np.concatenate([answer.outputs for answer in answers], axis=1), whole.outputs)
    assert_same(last.state, whole.state)
    assert [answer.frame for answer in answers] == [0, 1, 2, 3, 4]
    assert [answer.final for answer in [*answers, last]] == [False] * 5 + [True]
    assert last.steps.tolist() == [5, 5, 5]
    assert answers[0].model["name"] == "net"
    assert "model" not in answers[1]


def test_a_list_of_sequences_comes_back_as_a_list(client):
    rows = [X[0, :3], X[1, :1], X[2, :0]]
    expected = client.run(X, lengths=[3, 1, 0], model="net")
    with client.stream("net:1") as stream:
        first = stream.run([row[:2] for row in rows])
        last = stream.end([row[2:] for row in rows])
    assert [len(row) for row in first.outputs] == [2, 1, 0]
    assert [len(row) for row in last.outputs] == [1, 0, 0]
    outputs = [np.concatenate(pair) for pair in zip(first.outputs, last.outputs, strict=True)]
    assert_same(outputs, unpad(expected.outputs, [3, 1, 0]))
    assert_same(last.state, expected.state)
    assert last.steps.tolist() == [3, 1, 0]


def test_token_ids_and_predictions_go_too(client):
    expected = client.run(IDS, model="reader").predictions
    with client.stream("reader") as stream:
        answer = stream.run(IDS, returns=["predictions", "state"], id="mine")
        assert_same(answer.predictions, expected)
        assert answer.tree["id"] == "mine"
        assert "outputs" not in answer
        assert answer.state[0]["h"].shape == (3, 6)
    with client.stream("judge") as stream:
        assert_same(stream.run(IDS).predictions, client.run(IDS, model="judge").predictions)


@pytest.mark.parametrize("state_format", ["arrays", "token"])
def test_a_stream_goes_on_where_another_call_ended(client, state_format):
    whole = client.run(X, model="net")
    state = client.run(X[:, :2], model="net", state_format=state_format).state
    with client.stream("net", initial_state=state, state_format=state_format) as stream:
        assert_same(stream.run(X[:, 2:4]).outputs, whole.outputs[:, 2:4])
        state = stream.end().state
    assert isinstance(state, str) == (state_format == "token")
    assert_same(client.step(X[:, 4], model="net", state=state).output, whole.outputs[:, 4])


def test_several_frames_may_be_under_way(client):
    whole = client.run(X, model="net")
    with client.stream("net", dtype="float32") as stream:
        stream.send(X[:, :1])
        with pytest.raises(ValueError, match="receive the first answer before more is sent"):
            stream.send(X[:, 1:2])
        outputs = [stream.receive().outputs]
        for t in range(1, 5):
            stream.send(X[:, t : t + 1])
        outputs += [stream.receive().outputs for _ in range(4)]
    assert_same(np.concatenate(outputs, axis=1), whole.outputs)


def test_a_large_frame_goes_whole(client):
    large = np.random.default_rng(1).standard_normal((1, 50_000, 4)).astype(np.float32)
    with client.stream("net") as stream:
        assert_same(stream.run(large).outputs, client.run(large, model="net").outputs)


def test_a_frame_with_a_fault_leaves_the_stream_as_it_was(client):
    whole = client.run(X, model="net")
    state = client.run(X[:, :1], model="net").state
    with client.stream("net", initial_state=state) as stream:
        with pytest.raises(public.InvalidError) as caught:
            stream.run(X[:, 1:2, :3])
        assert caught.value.pointers == ["/inputs"]
        assert_same(stream.run(X[:, 1:2]).outputs, whole.outputs[:, 1:2])
        with pytest.raises(ValueError, match=r"all but the time steps"):
            stream.run([X[0], X[1, :, :2], X[2]])
        with pytest.raises(public.InvalidError, match="the stream has 3"):
            stream.run(X[:2, 2:3])
        assert_same(stream.run(X[:, 2:3]).outputs, whole.outputs[:, 2:3])


@pytest.mark.parametrize(
    ("model", "error"),
    [("nobody", public.NotFoundError), ("both", public.InvalidError), ("net:7", public.NotFoundError)],
)
def test_what_is_wrong_with_a_stream_is_told_when_it_is_opened(client, model, error):
    with pytest.raises(error), client.stream(model):
        pass


def test_a_stream_that_was_not_entered_says_how(client):
    with pytest.raises(RuntimeError, match=r"with client.stream\(…\) as stream"):
        client.stream("net").run(X)


def test_nothing_goes_after_the_end(client):
    with client.stream("net") as stream:
        stream.run(X)
        assert stream.end().final
        with pytest.raises(public.UnreachableError, match=r"the stream is closed"):
            stream.run(X)


def test_a_stream_that_the_service_closes_tells_its_state(start, kind, tmp_path):
    server = start(models=tmp_path, stream_idle_seconds=1)
    with asking(kind, f"http://127.0.0.1:{server.port}") as client:
        client.models.put("net", {"model.safetensors": save(LSTM)})
        with client.stream("net") as stream:
            stream.run(X[:, :3])
            with pytest.raises(public.TooSlowError) as caught:  # which comes once it has sent nothing for a second
                stream.receive()
            with pytest.raises(public.UnreachableError, match="the stream is closed"):
                stream.run(X)
        assert_same(caught.value.state, client.run(X[:, :3], model="net").state)


def test_why_a_stream_was_closed_is_told_to_who_goes_on_with_it(kind):
    """What was sent too late is taken by nobody; what came before that is there to be read."""
    goodbye = b'{"status": 408, "title": "Request Timeout", "detail": "idle", "frame": 1, "state": "ut1.x"}'
    closed = threading.Event()

    def after(connection):
        connection.recv(1 << 16)
        connection.sendall(frame(1, ANSWER) + frame(1, goodbye) + frame(8, b"\x03\xe9"))
        connection.shutdown(socket.SHUT_RDWR)
        closed.set()

    with accepting(after) as url, asking(kind, url) as client, client.stream("net") as stream:
        assert stream.run(np.ones((1, 1, 4))).frame == 0
        assert closed.wait(raw.PATIENCE)
        with pytest.raises(public.TooSlowError) as caught:
            stream.run(np.ones((1, 100_000, 4)))
        assert caught.value.state == "ut1.x"
        with pytest.raises(public.UnreachableError, match=r"the stream is closed \(1001\)"):
            stream.run(np.ones((1, 1, 4)))


def test_streams_want_a_key_where_there_are_keys(start, kind, tmp_path):
    secret = keys.new()
    server = start(models=tmp_path, keys=keys.text_of("me", ["infer", "models"], secret), max_streams=1)
    url, slept = f"http://127.0.0.1:{server.port}", []

    async def sleep(seconds):
        slept.append(seconds)

    with asking(kind, url) as client, pytest.raises(public.UnauthorizedError), client.stream("net"):
        pass
    options = {"retries": 1, "jitter": lambda: 0.0, "sleep": slept.append if kind == "Client" else sleep}
    with asking(kind, url, api_key=secret, **options) as client:
        client.models.put("net", {"model.safetensors": save(LSTM)})
        with client.stream("net") as stream:
            assert stream.run(X).outputs.shape == (3, 5, 2)
            with pytest.raises(public.BusyError), client.stream("net"):
                pass
    assert slept == [1.0]


def test_a_frame_that_is_too_large_closes_the_stream(client):
    with client.stream("net") as stream:
        stream.run(X[:, :1])
        for _ in range(2):
            with pytest.raises(public.UnreachableError):  # which tells of 1009 if the system has kept that
                stream.run(np.ones((3, 300_000, 4)))


def test_connections_are_given_back_whatever_happens_on_them(kind, serving):
    """There is one alone: whatever kept it would keep all that follow from being sent."""
    limits = httpx.Limits(max_connections=1)
    http = httpx.Client(limits=limits) if kind == "Client" else httpx.AsyncClient(limits=limits)
    with asking(kind, f"http://127.0.0.1:{serving.port}", http=http) as client:
        with client.stream("net") as stream:
            stream.send(X)  # and whoever sent it leaves in the middle
        with pytest.raises(public.NotFoundError), client.stream("nobody"):
            pass
        with client.stream("net") as stream, pytest.raises(public.InvalidError):
            stream.run(X[:, :, :1])
        with client.generate_steps(IDS, model="reader", max_steps=500) as steps:
            next(iter(steps))
        with pytest.raises(public.InvalidError), client.generate_steps(IDS, model="reader"):
            pass
        with client.generate_steps(IDS, model="reader", max_steps=2) as steps:
            list(steps)
        assert client.health(timeout=10) == {"status": "ok"}
        if kind == "Client":
            http.close()
        else:
            client._run(http.aclose())


# -- servers that break off --------------------------------------------------------------------------------------------


@contextmanager
def accepting(after):
    """A server that opens one WebSocket, does `after(connection)`, and cuts it."""
    from websockets.utils import accept_key

    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(raw.PATIENCE)

    def serve():
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(raw.PATIENCE)
            got = b""
            while b"\r\n\r\n" not in got:
                got += connection.recv(1 << 16)
            key = got.lower().split(b"sec-websocket-key: ")[1].split(b"\r\n")[0]
            key = got[got.lower().index(key) :][: len(key)].decode()
            head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            connection.sendall(f"{head}Sec-WebSocket-Accept: {accept_key(key)}\r\n\r\n".encode())
            after(connection)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        thread.join()
        listener.close()


ANSWER = b'{"frame": 0, "lengths": [1], "outputs": {"shape": [1, 1, 2], "dtype": "float32", "values": [[[0.5, 1]]]}}'


def frame(opcode, body, fin=True):
    return bytes([opcode | 0x80 * fin, len(body)]) + body


def test_pings_and_pieces_are_no_matter(kind):
    heard = []

    def after(connection):
        connection.recv(1 << 16)
        pieces = [ANSWER[k : k + 40] for k in range(0, len(ANSWER), 40)]
        sent = [frame(1 if k == 0 else 0, piece, piece is pieces[-1]) for k, piece in enumerate(pieces)]
        sent.insert(1, frame(9, b"are you there?"))
        for part in sent:
            connection.sendall(part)
        heard.append(connection.recv(1 << 16)[0])

    with accepting(after) as url, asking(kind, url) as client, client.stream("net") as stream:
        answer = stream.run(np.ones((1, 1, 4)))
        assert answer.outputs.tolist() == [[[0.5, 1]]]
        assert answer.outputs.dtype == np.float32
    assert heard == [0x8A]  # a pong


def test_a_connection_that_is_cut_is_told_as_that(kind):
    with (
        accepting(lambda connection: connection.recv(1 << 16)) as url,
        asking(kind, url) as client,
        client.stream("net") as stream,
    ):
        with pytest.raises(public.UnreachableError):
            stream.run(np.ones((1, 1, 4)))
        with pytest.raises(public.UnreachableError, match="the stream is closed"):
            stream.run(np.ones((1, 1, 4)))


def test_a_server_that_speaks_no_websocket_is_told_as_that(kind):
    from tests.app.test_client_exchange import WHOLE, breaking

    with breaking(WHOLE) as url, asking(kind, url) as client:
        expected = pytest.raises(public.UnreachableError, match="the answer was 200, and no WebSocket")
        with expected, client.stream("net"):
            pass


def test_an_answer_that_nobody_waited_for_is_not_taken_for_the_next_one():
    """Whoever is interrupted while an answer comes has lost the stream, not the order of its answers."""
    talk = Frames({})
    assert talk.frame(np.ones((1, 1, 4)), None, {})
    with pytest.raises(KeyboardInterrupt), talk.carried():
        raise KeyboardInterrupt
    with pytest.raises(public.UnreachableError, match="the stream is closed"):
        talk.frame(np.ones((1, 1, 4)), None, {})
    with pytest.raises(public.UnreachableError, match="the stream is closed"):
        talk.answer()
