"""Content-Type and Accept: what is read, what is written."""

import json

import pytest

from app.codecs import codec_of_answer, codec_of_body
from app.problems import Problem
from tests.app.client import JSON, SAFETENSORS, problem

BODY = json.dumps({"cell": "rnn", "num_units": 2, "inputs": [[[1], [2]]]})


@pytest.mark.parametrize(
    ("content_type", "spoken"),
    [
        (None, JSON),
        ("", JSON),
        ("application/json", JSON),
        ("Application/JSON; charset=UTF-8", JSON),
        ("application/json ;charset=utf-8", JSON),
        ("application/vnd.api+json", JSON),
        ("application/x-safetensors", SAFETENSORS),
        ("APPLICATION/X-SAFETENSORS;v=1", SAFETENSORS),
    ],
)
def test_the_content_type_chooses_what_reads_the_body(content_type, spoken):
    assert codec_of_body(content_type).media_type == spoken


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "text/html; charset=utf-8",
        "application/xml",
        "multipart/form-data; boundary=x",
        "application/*",
        "application/x-www-form-urlencoded",
        "application/octet-stream",
        "application/x-npy",
        "json",
        "é/x",
    ],
)
def test_any_other_content_type_is_a_415_that_names_what_is_spoken(content_type):
    with pytest.raises(Problem) as caught:
        codec_of_body(content_type)
    assert caught.value.status == 415
    assert content_type.partition(";")[0] in caught.value.detail
    assert JSON in caught.value.detail
    assert SAFETENSORS in caught.value.detail


@pytest.mark.parametrize(
    ("accept", "written"),
    [
        (None, JSON),
        ("", JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        ("text/html,application/xhtml+xml,*/*;q=0.8", JSON),
        ("application/json", JSON),
        ("application/json, application/x-safetensors", JSON),
        ("application/x-safetensors;q=0.5, application/json", JSON),
        ("application/x-safetensors;q=0, */*", JSON),
        ("application/x-safetensors;q=0.1, */*", JSON),
        ("application/x-safetensors;q=0.1, application/*;q=0.5", JSON),
        ("application/x-safetensors", SAFETENSORS),
        ("APPLICATION/X-SAFETENSORS", SAFETENSORS),
        ("application/x-safetensors, */*;q=0.5", SAFETENSORS),
        ("application/x-safetensors, application/json;q=0.9", SAFETENSORS),
        ("application/json; q=0.2 , application/x-safetensors ; q=0.3", SAFETENSORS),
        ("text/html", JSON),
        ("application/x-safetensors;q=x", JSON),
        (";;;,,q=", JSON),
        ("é" * 50, JSON),
    ],
)
def test_accept_chooses_what_writes_the_answer(accept, written):
    assert codec_of_answer(accept).media_type == written


def test_no_content_type_at_all_works(client):
    response = client.post("/run", content=BODY)
    assert "content-type" not in response.request.headers
    assert response.status_code == 200
    assert response.headers["content-type"] == JSON


@pytest.mark.parametrize("path", ["/run", "/step", "/gradients"])
def test_these_routes_refuse_what_they_do_not_speak(client, path):
    said = problem(client.post(path, content=BODY, headers={"content-type": "text/csv"}), 415)
    assert "text/csv" in said["detail"]


def test_curls_default_is_told_what_to_add(client):
    headers = {"content-type": "application/x-www-form-urlencoded"}
    said = problem(client.post("/run", content=BODY, headers=headers), 415)
    assert "-H 'Content-Type: application/json'" in said["detail"]


def test_errors_are_problems_whatever_is_accepted(client):
    for accept in (SAFETENSORS, "text/html", "application/xml"):
        problem(client.post("/run", content=b"{", headers={"accept": accept}), 400)
        problem(client.get("/nowhere", headers={"accept": accept}), 404)
