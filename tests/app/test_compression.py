"""Compressed bodies, and answers that are compressed where a client asks for it; libraries are the other side."""

import asyncio
import gzip
import json
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import compression
from app.compression import CODINGS, Folded, Unpacking, zstd
from app.problems import Problem
from tests.app import raw
from tests.app.client import JSON, SAFETENSORS, problem, service
from tests.app.test_packed import PADDED

PACK = {"gzip": gzip.compress, "deflate": zlib.compress, "zstd": zstd.compress}
UNPACK = {"gzip": gzip.decompress, "deflate": zlib.decompress, "zstd": zstd.decompress}
REQUEST = {"cell": "lstm", "num_units": 8, "inputs": PADDED.tolist(), "lengths": [3, 0, 6, 1]}
BODY = json.dumps(REQUEST).encode()
LIMIT = 1 << 20


@pytest.fixture(scope="module")
def small():
    with service(max_body_bytes=LIMIT) as client:
        yield client


def post(client, content, encoding=None, path="/run", **headers):
    given = {name.replace("_", "-"): value for name, value in headers.items()} | {"content-type": JSON}
    given |= {} if encoding is None else {"content-encoding": encoding}
    return client.post(path, content=content, headers=given)


def streamed(client, **headers):
    """The answer as it stands on the wire: httpx would unpack it."""

    async def asked():
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        async with client.http.stream("POST", "/run", content=BODY, headers={"content-type": JSON} | given) as response:
            return response, b"".join([part async for part in response.aiter_raw()])

    return client.runner.run(asked())


# -- bodies ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", PACK)
def test_a_compressed_body_is_what_it_was(client, encoding):
    assert post(client, PACK[encoding](BODY), encoding).content == post(client, BODY).content


@pytest.mark.parametrize("encoding", ["identity", "", "GZIP", "x-gzip", " gzip , identity"])
def test_encodings_by_their_other_names(client, encoding):
    content = gzip.compress(BODY) if "gzip" in encoding.lower() else BODY
    assert post(client, content, encoding).status_code == 200


@pytest.mark.parametrize("encoding", PACK)
def test_large_bodies_are_unpacked_too(client, encoding):
    inputs = np.random.default_rng(0).integers(0, 9, (50, 100, 40))
    body = json.dumps({"cell": "rnn", "num_units": 1, "inputs": inputs.tolist(), "return": ["state"]}).encode()
    assert len(body) > 2 * compression.INLINE_BYTES
    assert post(client, PACK[encoding](body), encoding).content == post(client, body).content


def test_of_large_bodies_that_wait_only_those_that_are_read_are_unpacked(monkeypatch):
    """64 KB of each would be 64 MB otherwise, as many as there are requests under way."""
    held, most = set(), 0
    unfolded = Folded.unfolded

    def noting(folded):
        nonlocal most
        held.add(folded)
        most = max(most, len(held))
        try:
            return unfolded(folded)
        finally:
            held.discard(folded)

    monkeypatch.setattr(Folded, "unfolded", noting)
    bomb = gzip.compress(b" " * (20 << 20))
    with service(threads=2) as client:

        async def all_at_once():
            headers = {"content-encoding": "gzip"}
            return await asyncio.gather(*(client.http.post("/run", content=bomb, headers=headers) for _ in range(30)))

        responses = client.runner.run(all_at_once())
    assert {response.status_code for response in responses} == {400}
    assert 1 <= most <= 2


@given(st.binary(max_size=5000), st.sampled_from(list(PACK)), st.integers(1, 6000), st.integers(1, 400))
def test_whatever_is_packed_comes_out_as_it_was_or_is_over_the_limit(content, name, limit, until):
    content = content * 3
    unpacking = Unpacking(CODINGS[name], PACK[name](content), limit)
    try:
        while not unpacking.go(until):
            until += 400
        said = None
    except Problem as found:
        said = found.status
    assert said == (413 if len(content) > limit else None)
    assert said or b"".join(unpacking.out) == content


@given(st.binary(min_size=1, max_size=300), st.sampled_from(list(PACK)), st.data())
def test_a_body_that_is_cut_or_changed_is_a_400_or_what_it_was(content, name, data):
    packed = PACK[name](content)
    cut = packed[: data.draw(st.integers(0, len(packed) - 1))]
    with pytest.raises(Problem, match=name) as caught:
        Unpacking(CODINGS[name], cut, LIMIT).go(LIMIT)
    assert caught.value.status == 400


@pytest.mark.parametrize("encoding", PACK)
def test_a_bomb_is_stopped_at_the_limit(small, encoding):
    bomb = PACK[encoding](b" " * (200 << 20))
    assert len(bomb) < LIMIT
    said = problem(post(small, bomb, encoding), 413)
    assert str(LIMIT) in said["detail"]
    assert "unpacks" in said["detail"]
    assert post(small, BODY).status_code == 200


def test_what_unpacks_to_the_limit_is_taken_and_one_byte_more_is_not(small):
    filled = BODY + b" " * (LIMIT - len(BODY))
    assert post(small, gzip.compress(filled), "gzip").status_code == 200
    assert post(small, gzip.compress(filled + b" "), "gzip").status_code == 413


@pytest.mark.parametrize("encoding", PACK)
@pytest.mark.parametrize("other", [*PACK, "plain"])
def test_a_wrong_encoding_is_a_400_that_names_it(client, encoding, other):
    if other != encoding:
        said = problem(post(client, BODY if other == "plain" else PACK[other](BODY), encoding), 400)
        assert encoding in said["detail"]


def test_files_in_a_row_are_one_body_where_the_coding_allows_it(client):
    half = len(BODY) // 2
    for name in ("gzip", "zstd"):
        assert post(client, PACK[name](BODY[:half]) + PACK[name](BODY[half:]), name).status_code == 200
        many = PACK[name](b"") * (compression.MOST_FRAMES + 1)
        assert "more follows" in problem(post(client, many, name), 400)["detail"]
    assert problem(post(client, zlib.compress(BODY) + b"x", "deflate"), 400)
    assert problem(post(client, gzip.compress(BODY) + b"x", "gzip"), 400)


@pytest.mark.parametrize("encoding", ["br", "compress", "gzip, gzip", "deflate, gzip", "gzip;q=1"])
def test_what_is_not_spoken_is_a_415_that_tells_what_is(client, encoding):
    said = problem(post(client, gzip.compress(BODY), encoding), 415)
    assert all(name in said["detail"] for name in CODINGS)


def test_two_headers_are_two_encodings(client):
    headers = [("content-type", JSON), ("content-encoding", "gzip"), ("content-encoding", "gzip")]
    problem(client.post("/run", content=gzip.compress(BODY), headers=headers), 415)


def test_a_window_larger_than_http_allows_is_refused(client):
    options = {zstd.CompressionParameter.window_log: 27}
    compressor = zstd.ZstdCompressor(options=options)
    packed = compressor.compress(BODY) + compressor.flush()  # whose size is not known at its beginning
    problem(post(client, packed, "zstd"), 400)


def test_the_connection_stays_usable_after_a_broken_body(server):
    requests = (
        (gzip.compress(BODY)[:-5], "gzip", 400),
        (gzip.compress(b" " * (8 << 20)), "gzip", 413),
        (BODY, "br", 415),
        (gzip.compress(BODY), "gzip", 200),
    )
    with raw.connected(server) as connection:
        for content, encoding, status in requests:
            connection.sendall(raw.head(len(content), "/run", "POST", f"Content-Encoding: {encoding}") + content)
            assert raw.status(raw.answer_on(connection)) == status


# -- answers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", PACK)
@pytest.mark.parametrize("accept", [JSON, SAFETENSORS])
def test_an_answer_is_compressed_where_it_is_asked_for(client, encoding, accept):
    plain, content = streamed(client, accept_encoding="identity", accept=accept)
    assert "content-encoding" not in plain.headers
    response, packed = streamed(client, accept_encoding=encoding, accept=accept)
    assert response.headers["content-encoding"] == encoding
    assert response.headers["content-type"] == accept
    assert int(response.headers["content-length"]) == len(packed)
    assert UNPACK[encoding](packed) == content


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, None),
        ("", None),
        ("identity", None),
        ("*", None),
        ("br", None),
        ("gzip;q=0", None),
        ("gzip;q=x", None),
        ("gzip, deflate", None),
        ("gzip, deflate, br, zstd", None),
        ("gzip", "gzip"),
        ("x-gzip", "gzip"),
        ("GZIP", "gzip"),
        ("gzip, identity;q=0.5", "gzip"),
        ("identity, gzip;q=0.5", None),
        ("gzip;q=0.5, deflate", "deflate"),
        ("br;q=0, deflate;q=0.1", "deflate"),
        ("br, gzip;q=0.9", None),
        ("deflate, *;q=0", "deflate"),
    ],
)
def test_it_is_asked_for_by_one_name_or_by_a_preference(accept, expected):
    found = compression.of_answer(accept)
    assert (found and found.name) == expected


def test_errors_are_never_compressed(client):
    for encoding in PACK:
        response = client.post("/run", content=b"{", headers={"accept-encoding": encoding})
        assert "content-encoding" not in response.headers
        problem(response, 400)


def test_large_answers_are_compressed_too(client):
    request = {"cell": "gru", "num_units": 64, "inputs": np.ones((20, 50, 3)).tolist()}
    response = client.post("/run", json=request, headers={"accept-encoding": "gzip"})
    assert response.headers["content-encoding"] == "gzip"
    assert response.json() == client.run(**request)
