"""The OpenAPI document: valid, complete against the contract, with examples that run as they stand."""

import json

import numpy as np
import pytest
from safetensors.numpy import save

from tests.app.client import JSON, SAFETENSORS, array, problem, service
from tests.app.reference import random_weights

METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}
PROBLEM = "application/problem+json"
NDJSON = "application/x-ndjson"
PROTOCOLS = ("/v1/", "/v2/")
VERSION = "/versions/{version}"

#: The contract's fields (API.md §2, §5).
NET = {"cell", "model", "num_layers", "num_units", "bidirectional", "cell_options", "weights", "seed", "dtype"}
TOKENS = {"state_format", "state_for"}
FIELDS = {
    "RunRequest": {*NET, *TOKENS, "readout", "return", "inputs", "lengths", "initial_state", "time_major"},
    "StepRequest": {*NET, *TOKENS, "readout", "return", "inputs", "state"},
    "GradientsRequest": {
        *NET,
        "readout",
        "return",
        "inputs",
        "lengths",
        "initial_state",
        "time_major",
        "targets",
        "loss",
    },
    "RunAnswer": {"model", "lengths", "outputs", "last_output", "state", "predictions", "gates", "states", "weights"},
    "StepAnswer": {"model", "output", "state", "predictions"},
    "ArrayOut": {"shape", "dtype", "values"},
    "ProblemOut": {"type", "title", "status", "detail", "error", "errors"},
    "ModelInfo": {"cell", "num_layers", "num_units", "input_size", "bidirectional", "parameters"}
    | {"state_size", "output_size", "kernel"},
    "CellOut": {"name", "equations", "gates", "state", "options", "names"},
}


@pytest.fixture(scope="module")
def document(client):
    return client.get("/openapi.json").json()


@pytest.fixture(scope="module")
def schemas(document):
    return document["components"]["schemas"]


def parts(tree, where=""):
    """Everything in the document, with its pointer."""
    yield where, tree
    for key, item in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield from parts(item, f"{where}/{key}")


def operations(document):
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert method in METHODS
            yield path, method, operation


def at(document, reference):
    for part in reference.removeprefix("#/").split("/"):
        document = document[part]
    return document


# -- valid -------------------------------------------------------------------------------------------------------------


def test_it_is_openapi_3_1(document):
    assert document["openapi"].startswith("3.1.")
    assert {"title", "version", "description", "summary"} <= set(document["info"])
    assert set(document) <= {"openapi", "info", "servers", "paths", "components", "tags", "security", "webhooks"}


def test_every_reference_leads_somewhere_and_every_schema_is_used(document, schemas):
    references = {item for where, item in parts(document) if where.endswith("/$ref")}
    for reference in references:
        assert at(document, reference)
    assert {reference.rpartition("/")[2] for reference in references} == set(schemas)


def test_every_operation_is_complete(document):
    tags = {tag["name"] for tag in document["tags"]}
    seen = set()
    for path, method, operation in operations(document):
        assert operation["operationId"] not in seen
        seen.add(operation["operationId"])
        assert operation["summary"], (path, method)
        assert set(operation["tags"]) <= tags
        assert operation["responses"]
        for status, response in operation["responses"].items():
            assert status.isdigit()
            assert response["description"]
            assert all("/" in media_type for media_type in response.get("content", {}))


def test_schemas_use_types_that_json_schema_has(schemas):
    types = {"object", "array", "string", "number", "integer", "boolean", "null"}
    for where, item in parts(schemas):
        if where.endswith("/type") and isinstance(item, str) and "/properties/type" not in where:
            assert item in types, where


def test_the_paths_are_those_that_answer(client, document):
    paths = {"/run", "/step", "/cells", "/healthz", "/readyz", "/metrics"}
    assert paths <= set(document["paths"])
    paths = {f"/models/{{name}}{part}" for part in ("", "/run", "/step", "/versions/{version}")}
    assert {"/models", *paths, *(f"/models/{{name}}/versions/{{version}}{part}" for part in ("/run", "/step"))} <= set(
        document["paths"]
    )
    for path, method, _ in operations(document):
        got = client.request(method.upper(), path)
        assert "{" in path or got.status_code != 404
        assert "there is nothing" not in got.text


# -- complete ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_of_the_contract_is_there_and_described(schemas, name):
    properties = schemas[name]["properties"]
    assert FIELDS[name] <= set(properties)
    undescribed = [field for field, schema in properties.items() if not schema.get("description")]
    assert undescribed == []


def test_requests_allow_no_other_fields_and_require_the_inputs(schemas):
    for name in ("RunRequest", "StepRequest"):
        assert schemas[name]["additionalProperties"] is False
        assert schemas[name]["required"] == ["inputs"]


def test_defaults_and_bounds_are_those_of_the_contract(schemas):
    properties = schemas["RunRequest"]["properties"]
    assert properties["seed"]["default"] == 0
    assert properties["dtype"]["default"] == "float32"
    assert properties["dtype"]["enum"] == ["float32", "float64"]
    assert properties["time_major"]["default"] is False
    assert any(option.get("minimum") == 1 for option in properties["num_layers"]["anyOf"])
    returned = [item for where, item in parts(properties["return"]) if where.endswith("/enum")]
    assert returned == [["outputs", "last_output", "state", "predictions", "gates", "states", "weights"]]


@pytest.mark.parametrize(("name", "field"), [("Run", "initial_state"), ("Step", "state")])
def test_a_state_is_a_list_or_a_token_both_ways(schemas, name, field):
    given, answered = schemas[f"{name}Request"]["properties"], schemas[f"{name}Answer"]["properties"]
    assert given["state_format"]["enum"] == ["arrays", "token"]
    for schema in (given[field], answered["state"]):
        assert {"array", "string"} <= {option["type"] for option in schema["anyOf"]}
    assert not TOKENS & set(schemas["GradientsRequest"]["properties"])


def test_what_an_answer_has_the_schema_has(client, schemas):
    everything = ["outputs", "last_output", "state", "predictions", "gates", "states", "weights"]
    net = {"cell": "lstm", "num_units": 2, "readout": {"kernel": [[1], [1]]}, "return": everything}
    answer = client.run(**net, inputs=[[[1]]], cell_options={"residual": True})
    assert set(answer) <= set(schemas["RunAnswer"]["properties"])
    assert set(answer["model"]) <= set(schemas["ModelInfo"]["properties"])
    assert set(client.step(**net, inputs=[[1]])) <= set(schemas["StepAnswer"]["properties"])
    assert set(client.get("/cells").json()["cells"][0]) <= set(schemas["CellOut"]["properties"])


@pytest.mark.parametrize("path", ["/run", "/step", "/gradients"])
def test_both_languages_are_documented_both_ways(document, path):
    operation = document["paths"][path]["post"]
    assert set(operation["requestBody"]["content"]) == {JSON, SAFETENSORS}
    assert set(operation["responses"]["200"]["content"]) == {JSON, SAFETENSORS}


@pytest.mark.parametrize("path", ["/run", "/step"])
def test_every_status_that_occurs_is_documented(client, document, path):
    responses = document["paths"][path]["post"]["responses"]
    rank = 3 if path == "/run" else 2
    one = json.loads("[" * rank + "1" + "]" * rank)
    net = {"cell": "rnn", "num_units": 1, "inputs": one}
    wide = net | {"num_units": 4000, "inputs": {"shape": [4000] + [1] * (rank - 1), "values": [0] * 4000}}
    wide |= {"return": ["gates", "weights", "state"]}
    occurring = {
        client.post(path, content=b"{").status_code,
        client.post(path, json=net).status_code,
        client.post(path, json=net | {"cell": "x"}).status_code,
        client.post(path, json={"model": "x", "inputs": one}).status_code,
        client.post(path, json=wide).status_code,
        client.post(path, content=b"", headers={"content-type": "text/plain"}).status_code,
    }
    assert occurring == {200, 400, 404, 413, 415, 422}
    assert {str(status) for status in occurring} <= set(responses)
    assert "501" not in responses
    for status, response in responses.items():
        if status != "200":
            assert list(response["content"]) == [PROBLEM]


@pytest.mark.parametrize("path", ["/readyz", "/v2/health/ready"])
def test_readiness_documents_its_503(document, path):
    assert PROBLEM in document["paths"][path]["get"]["responses"]["503"]["content"]


@pytest.mark.parametrize("body", [b"{", b"x" * 100_000], ids=["broken", "large"])
@pytest.mark.parametrize("headers", [{}, {"content-encoding": "br"}], ids=["plain", "in an unknown encoding"])
@pytest.mark.parametrize("do", ["index", "models/{name}/load", "models/{name}/unload"])
def test_what_the_model_repository_refuses_is_documented(client, document, do, headers, body):
    path = f"/v2/repository/{do}"
    got = client.post(path.format(name="net"), content=body, headers=headers)
    assert got.status_code in (400, 413, 415)
    assert {str(got.status_code), "408"} <= set(document["paths"][path]["post"]["responses"])


@pytest.mark.parametrize("do", ["load", "unload"])
def test_calls_to_the_model_repository_that_answer_nothing_document_no_body(document, do):
    assert "content" not in document["paths"][f"/v2/repository/models/{{name}}/{do}"]["post"]["responses"]["200"]


def test_an_upload_that_stalls_is_documented(document):
    assert PROBLEM in document["paths"]["/models/{name}"]["put"]["responses"]["408"]["content"]


def test_no_route_documents_fastapis_own_error(schemas):
    assert "HTTPValidationError" not in schemas


# -- examples ----------------------------------------------------------------------------------------------------------


def examples(document, media_type=JSON):
    return [
        (path, name, example["value"])
        for path, _, operation in operations(document)
        for name, example in operation.get("requestBody", {})
        .get("content", {})
        .get(media_type, {})
        .get("examples", {})
        .items()
    ]


#: Examples that ask the model of features; all others ask the one of token ids.
OF_FEATURES = {"features", "sequence"}


def model_of(example):
    """The model that an example asks."""
    return "meter" if example in OF_FEATURES else "tagger"


def upload(client, name, config, prefix=""):
    """Registers a small GRU, whose file has an embedding and a linear layer too."""
    normal = np.random.default_rng(0).standard_normal
    shapes = {"weight_ih_l0": (9, 2), "weight_hh_l0": (9, 3)}
    weights = {f"{prefix}{part}": normal(shape) for part, shape in shapes.items()}
    weights |= {"emb.weight": normal((50, 2)), "fc.weight": normal((3, 3)), "fc.bias": normal(3)}
    files = {"files": ("m.safetensors", save(weights))}
    return client.request("PUT", f"/models/{name}", files=files, data={"config": config})


def register(client):
    """The two models that examples ask: "tagger" takes token ids and gives three classes, "meter" two features."""
    readout = {"weight": "fc.weight", "activation": "softmax"}
    for name, config in (("tagger", {"embedding": "emb.weight", "readout": readout}), ("meter", {})):
        assert upload(client, name, json.dumps(config)).status_code == 201


@pytest.fixture
def models(client):
    register(client)
    yield
    for name in ("tagger", "meter"):
        client.request("DELETE", f"/models/{name}")


def changes(path, method):
    """Whether an operation changes what models there are."""
    return method in ("put", "delete") or path.startswith("/v2/repository/models/")


def calls(operation):
    """An operation's bodies: media type, name of the example, and the bytes; one without any, where it has no body."""
    bodies = [
        (media_type, name, example["value"])
        for media_type, said in operation.get("requestBody", {}).get("content", {}).items()
        for name, example in said.get("examples", {}).items()
    ]
    if not bodies:
        assert not operation.get("requestBody", {}).get("required"), operation["operationId"]
        return [(None, "", None)]
    return [(kind, name, value if isinstance(value, str) else json.dumps(value)) for kind, name, value in bodies]


def filled(path, operation, example):
    """A path with the examples of its parameters in it."""
    for parameter in operation.get("parameters", []):
        if parameter["in"] == "path":
            values = [one["value"] for one in parameter["examples"].values()]
            value = model_of(example) if parameter["name"] == "name" else values[0]
            assert value in values
            path = path.replace(f"{{{parameter['name']}}}", str(value))
    return path


def assert_as_documented(operation, got):
    """The answer has a status of success, and the media type, that the document says."""
    said = operation["responses"].get(str(got.status_code))
    assert got.is_success, (operation["operationId"], got.text)
    assert said is not None, (operation["operationId"], got.status_code)
    media_type = got.headers.get("content-type", "").split(";")[0]
    assert media_type in (said.get("content") or {""}), (operation["operationId"], media_type)


def test_every_operation_answers_its_examples_as_documented(document):
    with service() as client:
        register(client)
        for path, method, operation in operations(document):
            for media_type, example, body in [] if changes(path, method) else calls(operation):
                headers = {"content-type": media_type} if media_type else {}
                given = filled(path, operation, example)
                got = client.request(method.upper(), given, content=body, headers=headers)
                assert_as_documented(operation, got)


def test_every_operation_that_changes_models_answers_as_documented(document):
    changing = [call for call in operations(document) if changes(*call[:2])]
    assert len(changing) == 5
    for path, method, operation in changing:
        with service() as client:
            if method == "put":
                schema = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
                (config,) = schema["properties"]["config"]["examples"]
                got = upload(client, "tagger", config, prefix="decoder.gru.")
            else:
                register(client)
                got = client.request(method.upper(), filled(path, operation, ""))
            assert_as_documented(operation, got)


def test_every_example_runs_as_it_stands(client, document, models):
    found = [example for example in examples(document) if not example[0].startswith(PROTOCOLS)]
    run, step = (
        {"/run", "/models/{name}/run", "/models/{name}/versions/{version}/run"},
        {"/step", "/models/{name}/step"},
    )
    apart = ("/gradients", "/generate")
    assert {path for path, _, _ in found if not path.endswith(apart)} == run | step | {
        "/models/{name}/versions/{version}/step"
    }
    for path, name, body in found:
        if path.endswith(apart):
            continue
        version = client.get(f"/models/{model_of(name)}").json()["version"]
        answer = client.answer(path.replace("{name}", model_of(name)).replace("{version}", str(version)), **body)
        output, schema = ("outputs", "RunRequest") if path.endswith("/run") else ("output", "StepRequest")
        assert array(answer[output]).any(), name
        assert set(body) <= set(document["components"]["schemas"][schema]["properties"])


def test_every_example_of_gradients_runs_as_it_stands_and_the_schema_has_what_the_answer_has(client, document, models):
    found = [example for example in examples(document) if example[0].endswith("/gradients")]
    assert len({path for path, _, _ in found}) == 3
    schemas = document["components"]["schemas"]
    for path, name, body in found:
        version = client.get(f"/models/{model_of(name)}").json()["version"]
        answer = client.answer(path.replace("{name}", model_of(name)).replace("{version}", str(version)), **body)
        assert answer["loss"]["total"] > 0
        assert set(body) <= set(schemas["GradientsRequest"]["properties"])
        assert set(answer) <= set(schemas["GradientsAnswer"]["properties"])
        assert set(answer["gradients"]) <= set(schemas["GradientsOut"]["properties"])
        assert set(answer["loss"]) <= set(schemas["LossOut"]["properties"])
        assert ("diagnostics" in answer) == body.get("diagnostics", False)
        for layer in answer.get("diagnostics", {}).get("layers", []):
            assert set(layer) == set(schemas["DiagnosisOut"]["properties"])


def test_every_example_of_generate_runs_as_it_stands_whole_and_step_by_step(client, document, models):
    found = [example for example in examples(document) if example[0].endswith("/generate")]
    assert len({path for path, _, _ in found}) == 3
    schemas = document["components"]["schemas"]
    for path, _, body in found:
        version = client.get("/models/tagger").json()["version"]
        path = path.replace("{name}", "tagger").replace("{version}", str(version))
        answer = client.answer(path, **body)
        assert set(body) <= set(schemas["GenerateRequest"]["properties"])
        assert set(answer) <= set(schemas["GenerateAnswer"]["properties"])
        text = client.post(path, json=body | {"stream": True}).text
        steps = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]
        assert len(steps) == max(answer["lengths"]) + 1
        assert set(steps[0]) <= set(schemas["GenerateStep"]["properties"])


def test_steps_of_generate_are_documented_as_events(document):
    content = document["paths"]["/generate"]["post"]["responses"]["200"]["content"]
    assert set(content) == {JSON, SAFETENSORS, "text/event-stream"}


def test_every_example_of_a_stream_runs_and_the_schema_has_what_an_answer_has(client, document, schemas, models):
    found = examples(document, NDJSON)
    assert len(found) == 2
    for path, _, body in found:
        version = client.get("/models/tagger").json()["version"]
        given = path.replace("{name}", "tagger").replace("{version}", str(version))
        response = client.post(given, content=body, headers={"content-type": NDJSON})
        answers = [json.loads(line) for line in response.text.splitlines()]
        assert [set(answer) <= set(schemas["StreamAnswer"]["properties"]) for answer in answers] == [True] * 3
        assert answers[-1]["steps"] == [3, 3]
        refused = json.loads(client.post(given, content='{"x": 1}').text.splitlines()[0])
        assert set(refused) <= set(schemas["StreamAnswer"]["properties"])


def test_every_example_of_a_protocol_runs_as_it_stands(client, document, models):
    found = [example for example in examples(document) if example[0].startswith(PROTOCOLS)]
    assert len({path for path, _, _ in found}) == 5
    for path, name, body in found:
        version = client.get(f"/models/{model_of(name)}").json()["version"]
        given = path.replace("{name}", model_of(name)).replace("{version}", str(version)).replace("{label}", "stable")
        answer = client.answer(given, **body)
        assert answer["outputs" if "outputs" in answer else "predictions"]


def test_the_protocols_routes_are_documented_and_what_they_do_not_offer_is_not(document):
    paths = [path for path in document["paths"] if path.startswith(PROTOCOLS) or path == "/v2"]
    v2, v1 = "/v2/models/{name}", "/v1/models/{name}"
    of_v2 = {f"{v2}{way}{end}" for way in ("", VERSION) for end in ("", "/ready", "/config", "/stats", "/infer")}
    of_v1 = {f"{v1}{way}{end}" for way in ("", VERSION, "/labels/{label}") for end in ("", "/metadata", ":predict")}
    server = {"/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/stats", "/v2/repository/index"}
    assert set(paths) == of_v2 | of_v1 | server | {f"/v2/repository/models/{{name}}/{do}" for do in ("load", "unload")}
    for path in paths:
        for operation in document["paths"][path].values():
            assert "501" not in operation["responses"]
            assert "422" not in operation["responses"]


def test_examples_have_summaries_and_are_not_all_alike(document):
    summaries = [
        example["summary"]
        for path, _, operation in operations(document)
        if "/versions/" not in path and "/labels/" not in path  # whose examples are the newest version's
        for example in operation.get("requestBody", {}).get("content", {}).get(JSON, {}).get("examples", {}).values()
    ]
    assert all(summaries)
    assert len(set(summaries)) == len(summaries)


def test_a_problem_looks_as_documented(client, schemas):
    weights = random_weights("tensorflow", "rnn", [1, 1])["layers"][0]["kernel"].tolist()
    said = problem(client.post("/run", json={"cell": "rnn", "weights": {"kernel": weights}, "inputs": [[[1]]]}), 422)
    assert set(said) == set(schemas["ProblemOut"]["properties"])
    assert set(schemas["ProblemOut"]["required"]) == set(said) - {"errors"}
