"""PUT /models/{name}: bodies and names of every kind. What is refused leaves nothing in the model folder."""

import ast
import asyncio
import json
import pickle
import re
import shlex

import numpy as np
import pytest
from safetensors.numpy import save

from tests.app.client import pointers, problem, service
from tests.app.test_models import GRU, READER, READING, X, oracle, put

GOOD = save(GRU)
TYPE = "multipart/form-data; boundary=cut-here"
LAST = b"--cut-here--\r\n"


def part(disposition, content, *headers):
    lines = [f"Content-Disposition: form-data; {disposition}", *headers, "", ""]
    return b"--cut-here\r\n" + "\r\n".join(lines).encode() + content + b"\r\n"


def file(content=GOOD, name="model.safetensors"):
    return part(f'name="files"; filename="{name}"', content)


def config(said):
    return part('name="config"', said if isinstance(said, bytes) else json.dumps(said).encode())


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "models"


@pytest.fixture
def empty(folder):
    """A service without models."""
    with service(models=folder, max_body_bytes=1 << 20) as client:
        yield client


def sent(client, *parts, name="net", content_type=TYPE):
    headers = {"content-type": content_type} if content_type else {}
    return client.request("PUT", f"/models/{name}", content=b"".join(parts), headers=headers)


def assert_nothing_in(folder, client):
    """No model, and nothing that was begun."""
    assert [path for path in folder.rglob("*") if path.name != ".incoming"] == []
    assert client.get("/models").json() == {"models": []}


def refused(client, folder, status, *parts, **more):
    said = problem(sent(client, *parts, **more), status)
    assert_nothing_in(folder, client)
    return said


def taken(*parts, name="net", **more):
    """The metadata of a model that a service took, after a run of it."""
    with service() as client:
        response = sent(client, *parts, name=name, **more)
        assert response.status_code == 201, response.text
        got = client.answer(f"/models/{name}/run", inputs=X.tolist())["outputs"]["values"]
        assert np.allclose(got, oracle(GRU, "gru", X, [5, 5, 5])[0], rtol=0, atol=2e-5)
        return response.json()


# -- parts -------------------------------------------------------------------------------------------------------------

GOLDEN = {"inputs": X.tolist(), "outputs": oracle(GRU, "gru", X, [5, 5, 5])[0].tolist()}
OFF = GOLDEN | {"outputs": (np.array(GOLDEN["outputs"]) + 0.25).tolist()}
HUGE = b'{"module": "' + b"a" * (1 << 20) + b'"}'

#: (parts, status, pointer or None, words of the detail)
REFUSED = {
    "no parts": ([LAST], 422, "/files", "curl"),
    "no files": ([config({}), LAST], 422, "/files", "curl"),
    "two files of one name": ([file(), file(), LAST], 422, "/files", "model.safetensors"),
    "two files of one name in different folders": ([file(), file(name="a/model.safetensors"), LAST], 422, "/files", ""),
    "the same tensors in two files": ([file(), file(name="b.safetensors"), LAST], 422, "/files", "two"),
    "an unknown part": ([file(), part('name="conf"', b"{}"), LAST], 422, "/conf", "config"),
    "files misnamed": ([part('name="file"; filename="a.safetensors"', GOOD), LAST], 422, "/file", "files"),
    "a part without a name": ([file(), part('filename="x"', b""), LAST], 422, None, "config"),
    "a part without headers": ([file(), b"--cut-here\r\n\r\nx\r\n", LAST], 422, None, "config"),
    "a file without a name": ([part('name="files"', GOOD), LAST], 422, "/files", "name"),
    "an empty file": ([file(b""), LAST], 400, "/files", "model.safetensors"),
    "config twice": ([config({}), config({}), file(), LAST], 422, "/config", "twice"),
    "config that is no JSON": ([file(), config(b"{cell: 1}"), LAST], 400, "/config", "config"),
    "config with NaN": ([file(), config(b'{"golden": {"inputs": [NaN]}}'), LAST], 400, "/config", "config"),
    "config that is a list": ([file(), config([]), LAST], 422, "/config", "config"),
    "config that is a number": ([file(), config(3), LAST], 422, "/config", "config"),
    "config that is binary": ([file(), config(b"\xff\xfe\x00"), LAST], 400, "/config", "config"),
    "config with a duplicate key": ([file(), config(b'{"cell": "gru", "cell": "gru"}'), LAST], 422, "/config", "cell"),
    "config over its limit": ([file(), config(HUGE), LAST], 413, "/config", "UNROLLED_MAX_BODY_BYTES"),
    "an unknown field": ([file(), config({"modul": "x"}), LAST], 422, "/config/modul", "module"),
    "a field of a wrong type": ([file(), config({"cell": 3}), LAST], 422, "/config/cell", "3"),
    "cell_options that are none": ([file(), config({"cell_options": [1]}), LAST], 422, "/config/cell_options", ""),
    "an unknown option": ([file(), config({"cell_options": {"reset_aftr": 1}}), LAST], 422, "/config", "reset_after"),
    "another cell": ([file(), config({"cell": "lstm"}), LAST], 422, "/config/cell", "gru"),
    "an unknown cell": ([file(), config({"cell": "grue"}), LAST], 422, "/config/cell", "gru"),
    "an unknown module": ([file(), config({"module": "encoder"}), LAST], 422, "/config/module", "encoder"),
    "a tensor that is not there": (
        [file(save(READER)), config({"embedding": "emb.weigth"}), LAST],
        422,
        "/config/embedding",
        "`emb.weight`",
    ),
    "an embedding of another width": (
        [file(save(READER | {"emb.weight": np.ones((7, 5), np.float32)})), config(READING), LAST],
        422,
        "/config/embedding",
        "emb.weight",
    ),
    "a readout of another width": (
        [file(save(READER)), config({"readout": {"kernel": "fc.weight"}}), LAST],
        422,
        "/config/readout",
        "fc.weight",
    ),
    "golden values that are off": ([file(), config({"golden": OFF}), LAST], 422, "/config/golden/outputs", "0.25"),
    "golden without outputs": ([file(), config({"golden": {"inputs": [[[1]]]}}), LAST], 422, "/config/golden/", ""),
    "golden that is a list": ([file(), config({"golden": [1, 2]}), LAST], 422, "/config/golden", "golden"),
    "golden of a wrong shape": (
        [file(), config({"golden": GOLDEN | {"outputs": [[1]]}}), LAST],
        422,
        "/config/golden/outputs",
        "[3, 5, 6]",
    ),
    "golden with an unknown field": (
        [file(), config({"golden": GOLDEN | {"output": 1}}), LAST],
        422,
        "/config/golden/output",
        "outputs",
    ),
    "golden with a negative tolerance": (
        [file(), config({"golden": GOLDEN | {"tolerance": -1}}), LAST],
        422,
        "/config/golden/tolerance",
        "-1",
    ),
    "an unknown suffix": ([file(name="model.sft"), LAST], 422, "/files", ".safetensors"),
    "no suffix": ([file(name="model"), LAST], 422, "/files", ".safetensors"),
    "a stranger beside it": ([file(), file(b"hello", "README.md"), LAST], 422, "/files", "README.md"),
    "weights that are no numbers": (
        [file(save(GRU | {"bias_hh_l0": np.full(18, np.nan, np.float32)})), LAST],
        422,
        "/files",
        "bias_hh_l0",
    ),
    "a missing tensor": (
        [file(save({name: w for name, w in GRU.items() if name != "weight_ih_l0"})), LAST],
        422,
        "/files",
        "weight_ih_l0",
    ),
    "half a file": ([file(GOOD[: len(GOOD) // 2]), LAST], 400, "/files", "model.safetensors"),
    "a header and no end": ([file()], 400, None, "boundary"),
    "a body cut in a file": ([file()[:-900]], 400, None, "boundary"),
    "a body cut in its headers": ([file()[:30]], 400, None, "boundary"),
    "nothing": ([], 400, None, ""),
    "something else": ([b"hello"], 400, None, "multipart"),
    "another boundary": ([file().replace(b"cut-here", b"cut-there"), LAST], 400, None, "multipart"),
    "headers without an end": ([part("name=files" + "; x=y" * 9000, b"")], 400, None, "eader"),
}


@pytest.mark.parametrize(("parts", "status", "pointer", "words"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_model_is_refused_and_leaves_nothing(empty, folder, parts, status, pointer, words):
    said = refused(empty, folder, status, *parts)
    assert words in said["detail"]
    if pointer is not None:
        assert pointers(said)[0].startswith(pointer)


@pytest.mark.parametrize(
    "content_type", [None, "", "application/json", "multipart/form-data", "text/plain; boundary=x"]
)
def test_a_body_that_is_no_multipart_is_a_415_that_says_how(empty, folder, content_type):
    said = refused(empty, folder, 415, file(), LAST, content_type=content_type)
    assert "-F files=@" in said["detail"]


def test_a_compressed_body_is_a_415(empty, folder):
    headers = {"content-type": TYPE, "content-encoding": "gzip"}
    said = problem(empty.request("PUT", "/models/net", content=b"\x1f\x8b" + bytes(20), headers=headers), 415)
    assert "gzip" in said["detail"]
    assert_nothing_in(folder, empty)


def answered(client, path, *messages):
    """The status and the body of the answer to a path that no client would send as it is; then the client hangs up."""
    waiting, answers = iter(messages), []

    async def receive():
        return next(waiting, {"type": "http.disconnect"})

    async def send(message):
        answers.append(message)

    scope = {"type": "http", "method": "PUT", "path": path, "query_string": b"", "http_version": "1.1"}
    scope |= {"headers": [(b"content-type", TYPE.encode())], "scheme": "http", "server": ("test", 80), "root_path": ""}
    client.runner.run(client.app(scope, receive, send))
    return answers[0]["status"], json.loads(answers[1]["body"])


@pytest.mark.parametrize("cut", [10, 100, 600])
def test_a_client_that_hangs_up_leaves_nothing(empty, folder, cut):
    begun = {"type": "http.request", "body": file()[:cut], "more_body": True}
    assert answered(empty, "/models/net", begun)[0] == 400
    assert_nothing_in(folder, empty)


def test_config_may_be_a_field_or_a_file_and_come_first_or_last():
    said = json.dumps({"golden": GOLDEN, "cell": "gru"}).encode()
    as_file = part('name="config"; filename="config.json"', said, "Content-Type: application/json")
    for parts in ([config(said), file()], [file(), config(said)], [file(), as_file], [as_file, file()]):
        told = taken(*parts, LAST)
        assert told["golden"]["tolerance"] == 2e-5
        assert told["golden"]["largest_difference"] < 2e-5


@pytest.mark.parametrize("said", [b"", b" \r\n", b"{}", b'{"cell": null, "golden": null}'])
def test_an_empty_config_is_none(said):
    assert "golden" not in taken(file(), config(said), LAST)


def test_golden_values_can_be_what_an_answer_had():
    outputs = np.array(GOLDEN["outputs"])
    answered = {"shape": list(outputs.shape), "dtype": "float32", "values": outputs.ravel().tolist()}
    told = taken(file(), config({"golden": GOLDEN | {"outputs": answered, "tolerance": 1e-3}}), LAST)
    assert told["golden"]["tolerance"] == 1e-3


def test_weights_may_be_spread_over_files():
    half = {name: GRU[name] for name in ("weight_ih_l0", "bias_ih_l0")}
    rest = {name: GRU[name] for name in GRU if name not in half}
    told = taken(file(save(half), "a-1.safetensors"), file(save(rest), "a-2.safetensors"), LAST)
    assert set(told["sha256"]) == {"a-1.safetensors", "a-2.safetensors"}


@pytest.mark.parametrize("piece", [1, 7, 100, 1 << 16])
def test_a_body_in_pieces_of_any_size_is_read(piece):
    body = file() + config({"golden": GOLDEN}) + LAST

    async def pieces():
        for at in range(0, len(body), piece):
            yield body[at : at + piece]

    with service() as client:
        response = client.request("PUT", "/models/net", content=pieces(), headers={"content-type": TYPE})
        assert response.status_code == 201, response.text


# -- names -------------------------------------------------------------------------------------------------------------

KEPT = {
    "MODEL.SAFETENSORS": "MODEL.SAFETENSORS",
    "a/b/model.safetensors": "model.safetensors",
    "../../../model.safetensors": "model.safetensors",
    "C:\\\\data\\\\model.safetensors": "model.safetensors",
    "..safetensors": "..safetensors",
    "modèle 模型.safetensors": "modèle 模型.safetensors",
    "-rf $(x).safetensors": "-rf $(x).safetensors",
    "m" * 188 + ".safetensors": "m" * 188 + ".safetensors",
}


@pytest.mark.parametrize(("given", "kept"), KEPT.items())
def test_a_files_name_is_what_stands_after_its_last_slash(tmp_path, given, kept):
    with service(models=tmp_path / "models") as client:
        response = sent(client, file(name=given), LAST)
        assert response.status_code == 201, response.text
        assert list(response.json()["sha256"]) == [kept]
    assert [path.name for path in (tmp_path / "models/net/1/original").iterdir()] == [kept]
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../", "a/..", "...", " ", "a\x00.safetensors", "m" * 190 + ".safetensors"]
)
def test_a_file_with_no_name_to_keep_is_refused(empty, folder, name):
    assert pointers(refused(empty, folder, 422, file(name=name), LAST)) == ["/files"]


NAMES = ["", ".", "..", ".incoming", "-net", "_net", "a/b", "../../etc", "a/..", "a/", "/a", "a\\b", "a b", " a", "a\0"]
NAMES += [
    "a\n",
    "a:1",
    "a?b",
    "nét",
    "٢",
    "\ufffd",
    "a" * 129,
    "a" * 1000,
    "a/versions/1",
    "a/run",
    "模型",
    "a%2Fb",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_no_model_can_have_is_refused_with_the_rule(empty, folder, name):
    message = {"type": "http.request", "body": file() + LAST, "more_body": False}
    status, said = answered(empty, f"/models/{name}", message)
    assert_nothing_in(folder, empty)
    assert len(said["detail"]) < 400 + len(name)
    if "/" in name or not name:  # another path, then
        assert status in (404, 405, 422)
    else:
        assert status == 422
        assert "letter or digit" in said["detail"]
        assert said["errors"][0]["pointer"] == "/name"


@pytest.mark.parametrize("name", ["a", "7", "A.b-c_d", "a..", "last", "a" * 128, "%61bc"])
def test_names_as_the_contract_has_them_are_taken(name):
    assert taken(file(), LAST, name=name)["name"] == name.replace("%61", "a")


# -- limits and pickles ------------------------------------------------------------------------------------------------


def test_an_upload_over_the_limit_is_a_413_by_its_length_and_by_its_stream(tmp_path):
    body = file() + LAST
    sizes = []

    async def pieces():
        for at in range(0, len(body) + 1, 100):
            sizes.append(at)
            await asyncio.sleep(0)
            yield (body + b"\n")[at : at + 100]

    with service(models=tmp_path / "models", max_upload_bytes=len(body), max_body_bytes=10) as client:
        for content in (body + b"\n", pieces()):
            response = client.request("PUT", "/models/net", content=content, headers={"content-type": TYPE})
            assert "UNROLLED_MAX_UPLOAD_BYTES" in problem(response, 413)["detail"]
            assert_nothing_in(tmp_path / "models", client)
        assert "content-length" not in response.request.headers
        assert sent(client, body).status_code == 201


@pytest.mark.parametrize("name", ["model.pt", "model.pth", "model.bin", "model.pkl", "model.PT", "model.ckpt"])
def test_a_pickle_by_name_is_refused_with_a_line_that_saves_it(empty, folder, name):
    said = refused(empty, folder, 422, file(b"whatever", name), LAST)
    line = said["detail"][said["detail"].index("python -c") :]
    assert "\n" not in line
    words = shlex.split(line)
    assert words[:2] == ["python", "-c"]
    ast.parse(words[2])
    assert repr(name) in words[2]
    assert "safetensors" in words[2]


def test_a_files_name_cannot_put_words_of_its_own_into_that_line(empty, folder):
    said = refused(empty, folder, 422, file(b"whatever", "x'); import os #.pt"), LAST)
    line = said["detail"][said["detail"].index("python -c") :]
    assert "import os" not in line


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", ["model.safetensors", "model.h5", "model.onnx", "model.keras", "model.index"])
def test_a_pickle_in_disguise_is_refused(empty, folder, name, protocol):
    content = pickle.dumps({"weight": [1.0] * 30}, protocol)
    response = sent(empty, file(content, name), LAST)
    assert response.status_code in (400, 422), response.text
    assert_nothing_in(folder, empty)
    if protocol >= 2:
        assert "pickle" in problem(response, 422)["detail"]


@pytest.mark.parametrize("size", [640, 896, 1152, 1408])
def test_a_safetensors_file_is_no_pickle_whatever_the_size_of_its_header(size):
    """These sizes' low bytes are those that pickles of the protocols 2 to 5 begin with."""
    length = int.from_bytes(GOOD[:8], "little")
    content = size.to_bytes(8, "little") + GOOD[8 : 8 + length].ljust(size) + GOOD[8 + length :]
    assert re.match(rb"\x80[\x02-\x05]", content)
    taken(file(content), LAST)


def test_a_refused_upload_changes_nothing_of_what_is_there(tmp_path):
    with service(models=tmp_path) as client:
        put(client, "net", GRU)
        before = sorted(tmp_path.rglob("*"))
        problem(put(client, "net", b"no weights"), 400)
        problem(put(client, "net", GRU, {"golden": OFF}), 422)
        assert sorted(tmp_path.rglob("*")) == before
        assert client.get("/models/net").json()["versions"] == [1]
