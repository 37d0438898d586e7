"""GET /metrics: what was asked and answered, in Prometheus' text format."""

import json
import re

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from safetensors.numpy import save

from app import bodies
from app.lane import too_late
from app.metrics import MOST_MODELS, OTHER, Metrics
from app.record import Record
from app.tallies import Distribution
from app.tally import Tally
from rnn_engine import kernels
from tests.app.client import ROOT, problem, service

GOOD = {"cell": "rnn", "num_units": 1, "inputs": [[[1]]]}
RAGGED = {"cell": "gru", "num_units": 2, "inputs": [[[1], [2], [3]], [[4]]]}
PADDED = {"cell": "gru", "num_units": 2, "inputs": [[[1], [2], [3]], [[4], [0], [0]]], "lengths": [3, 1]}
PACKED = {"cell": "gru", "num_units": 2, "inputs": [[1], [2], [3], [4]], "lengths": [3, 1], "packed": True}
WEIGHTS = {"weight_ih_l0": np.ones((2, 1), np.float32), "weight_hh_l0": np.ones((2, 2), np.float32)}
in_ticks = pytest.mark.skipif(kernels.here() is None, reason="no kernels, and so no ticks")


@pytest.fixture
def asked():
    """A service of its own, and a function that reads its counters."""
    with service() as client:

        def counted(name="unrolled_requests_total"):
            families = text_string_to_metric_families(client.get("/metrics").text)
            samples = [sample for family in families for sample in family.samples if sample.name == name]
            return {
                tuple(s.labels[k] for k in ("route", "method", "status") if k in s.labels): s.value for s in samples
            }

        yield client, counted


def test_requests_are_counted_by_route_method_and_status(asked):
    client, counted = asked
    client.run(**GOOD)
    client.run(**GOOD)
    client.step(**GOOD | {"inputs": [[1]]})
    client.refusal("/run", **GOOD | {"cell": "x"})
    client.post("/run", content=b"{")
    client.get("/run")
    client.get("/healthz")
    assert counted() == {
        ("/run", "POST", "200"): 2,
        ("/step", "POST", "200"): 1,
        ("/run", "POST", "422"): 1,
        ("/run", "POST", "400"): 1,
        ("/run", "GET", "405"): 1,
        ("/healthz", "GET", "200"): 1,
    }


def test_paths_and_methods_that_are_not_there_are_one_line_however_many(asked):
    client, counted = asked
    for k in range(20):
        client.get(f"/nowhere/{k}")
        client.request(f"BREW{k}", "/run")
    counts = counted()
    assert counts == {("other", "GET", "404"): 20, ("/run", "other", "405"): 20}


def test_an_error_inside_the_service_is_counted_as_500(asked, monkeypatch):
    client, counted = asked

    def ready(*_):
        raise RuntimeError

    monkeypatch.setattr("app.registry.Registry._drawn", ready)
    client.post("/run", json=GOOD)
    assert counted()["/run", "POST", "500"] == 1


def test_times_are_told_by_route(asked):
    client, counted = asked
    client.run(**GOOD)
    assert counted("unrolled_request_seconds_count") == {("/run",): 1}
    assert 0 < counted("unrolled_request_seconds_sum")["/run",] < 5


def test_nothing_but_the_asking_itself_is_active_at_rest(asked):
    client, counted = asked
    client.run(**GOOD)
    client.refusal("/run", **GOOD | {"cell": "x"})
    assert counted("unrolled_requests_active") == {(): 1}


def test_the_content_type_is_prometheus_own(asked):
    client, _ = asked
    assert client.get("/metrics").headers["content-type"].startswith("text/plain; version=")


def samples(client, name):
    """The values of a metric, by the values of its labels in the order in which they stand."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    every = [sample for family in families for sample in family.samples if sample.name == name]
    return {tuple(sample.labels.values()): sample.value for sample in every}


def value(client, name):
    (found,) = samples(client, name).values()
    return found


def put(client, name):
    files = {"files": ("model.safetensors", save(WEIGHTS))}
    response = client.request("PUT", f"/models/{name}", files=files, data={"config": json.dumps({"cell": "rnn"})})
    assert response.status_code == 201, response.text


@pytest.mark.parametrize("request_", [RAGGED, PADDED, PACKED], ids=["ragged", "padded", "packed"])
def test_steps_are_the_real_ones_and_padding_is_what_a_padded_batch_has_beyond(asked, request_):
    client, _ = asked
    client.run(**request_)
    assert value(client, "unrolled_steps_total") == 4
    assert value(client, "unrolled_padding_avoided_steps_total") == 2
    client.run(**request_)  # which is remembered
    assert value(client, "unrolled_steps_total") == 8
    assert value(client, "unrolled_padding_avoided_steps_total") == 4


def test_requests_that_repeat_another_have_lengths_of_their_own(asked):
    client, _ = asked
    client.run(**PADDED)
    client.run(**PADDED | {"lengths": [1, 1]})
    assert value(client, "unrolled_steps_total") == 4 + 2
    assert value(client, "unrolled_padding_avoided_steps_total") == 2 + 4


def test_a_step_of_some_rows_is_as_many_steps_and_has_no_padding(asked):
    client, _ = asked
    for _ in range(2):
        client.step(cell="rnn", num_units=1, inputs=[[1], [2], [3]])
    assert value(client, "unrolled_steps_total") == 6
    assert value(client, "unrolled_padding_avoided_steps_total") == 0


def test_a_run_that_is_refused_has_no_steps(asked):
    client, _ = asked
    client.refusal("/run", **PADDED | {"lengths": [4, 1]})
    assert value(client, "unrolled_steps_total") == 0
    assert value(client, "unrolled_queue_wait_seconds_count") == 0


def test_steps_back_through_time_are_counted_there_alone(asked):
    client, _ = asked
    client.answer("/gradients", **RAGGED, loss="mean_squared_error", targets=[[[1, 1]] * 3, [[1, 1]]])
    assert value(client, "unrolled_steps_total") == 4
    assert value(client, "unrolled_padding_avoided_steps_total") == 2


def test_steps_that_rows_generate_are_counted_with_those_that_are_given(asked):
    client, _ = asked
    client.answer("/generate", cell="rnn", num_units=1, inputs=[[[1], [2]], [[3]]], horizon=5)
    assert value(client, "unrolled_generated_steps_total") == 2 * 5
    assert value(client, "unrolled_steps_total") == 3 + 2 * 5


@in_ticks
def test_ticks_are_counted_with_their_rows(monkeypatch):
    monkeypatch.setattr("app.executor.TINY_SECONDS", -1.0)
    monkeypatch.setattr("app.executor.ALONE_SECONDS", -1.0)
    with service(tick_steps=2) as client:
        client.run(cell="rnn", num_units=1, inputs=[[[1]] * 6] * 3)
        assert value(client, "unrolled_ticks_total") == 3
        assert value(client, "unrolled_tick_rows_sum") == 9
        buckets = samples(client, "unrolled_tick_rows_bucket")
        assert buckets["2.0",] == 0
        assert buckets["4.0",] == buckets["+Inf",] == value(client, "unrolled_tick_rows_count") == 3
        busy = samples(client, "unrolled_engine_busy_seconds_total")
        assert busy["ticks",] > 0 == busy["loop",]
        assert value(client, "unrolled_queue_wait_seconds_count") == 1


@pytest.mark.parametrize(
    ("seconds", "by"), [("INLINE_SECONDS", "threads"), ("nothing", "loop")], ids=["threads", "loop"]
)
def test_the_engine_is_busy_where_it_computes(asked, monkeypatch, seconds, by):
    client, _ = asked
    monkeypatch.setattr(f"app.executor.{seconds}", -1.0, raising=False)
    client.run(**GOOD | {"dtype": "float64"})
    busy = samples(client, "unrolled_engine_busy_seconds_total")
    assert {name for (name,), seconds in busy.items() if seconds} == {by}


def test_every_computed_run_has_waited(asked):
    client, _ = asked
    for _ in range(3):
        client.run(**GOOD)
    assert value(client, "unrolled_queue_wait_seconds_count") == 3
    assert 0 < value(client, "unrolled_queue_wait_seconds_sum") < 5


def test_requests_are_counted_by_model_whoever_names_it(asked):
    client, _ = asked
    put(client, "tagger")
    inputs = {"inputs": [[[1]]]}
    client.answer("/models/tagger/run", **inputs)
    client.run(**inputs, model="tagger:1")
    client.run(**GOOD)
    client.refusal("/models/tagger/run", inputs=3)
    client.refusal("/models/nobody/run", 404, **inputs)
    client.refusal("/run", 404, **inputs, model="nobody")
    client.answer("/v1/models/tagger:predict", instances=[[[1]]])
    client.get("/healthz")
    client.request("DELETE", "/models/tagger")
    assert samples(client, "unrolled_model_requests_total") == {
        ("tagger", "/models/{name}", "201"): 1,
        ("tagger", "/models/{name}/run", "200"): 1,
        ("tagger", "/run", "200"): 1,
        ("", "/run", "200"): 1,
        ("tagger", "/models/{name}/run", "422"): 1,
        (OTHER, "/models/{name}/run", "404"): 1,
        ("", "/run", "404"): 1,
        ("tagger", "/v1/models/{name}:predict", "200"): 1,
        ("tagger", "/models/{name}", "204"): 1,
    }


def test_models_that_are_loaded_are_counted_by_version(asked):
    client, _ = asked
    assert value(client, "unrolled_models_loaded") == 0
    put(client, "one")
    put(client, "one")
    put(client, "two")
    assert value(client, "unrolled_models_loaded") == 3
    client.request("DELETE", "/models/one/versions/1")
    assert value(client, "unrolled_models_loaded") == 2


def test_of_many_models_only_the_first_are_told_apart():
    metrics = Metrics()
    for k in range(MOST_MODELS + 50):
        metrics.count_model("/run", f"model-{k}", 200)
    metrics.count_model("/run", "model-0", 200)
    (family,) = [family for family in metrics.registry.collect() if family.name == "unrolled_model_requests"]
    counts = {sample.labels["model"]: sample.value for sample in family.samples}
    assert len(counts) == MOST_MODELS + 1
    assert (counts["model-0"], counts[OTHER]) == (2, 50)


REFUSALS = {
    "queue_requests": ({"requests": 128}, {}, 429),
    "queue_rows": ({"rows": 16_384}, {}, 429),
    "queue_bytes": ({"nbytes": 2 << 30}, {}, 429),
    "deadline_unmeetable": ({"rows": 16_000, "_backlog": lambda: 5.0}, {"X-Timeout-Ms": "1"}, 429),
    "draining": ({"draining": True}, {}, 503),
}


@pytest.mark.parametrize("reason", REFUSALS)
def test_who_is_turned_away_is_counted_by_why(asked, monkeypatch, reason):
    client, _ = asked
    held, headers, status = REFUSALS[reason]
    body = GOOD | {"inputs": [[[1]] * 2000]}
    with monkeypatch.context() as patch:
        for name, so_much in held.items():
            patch.setattr(client.app.state.executor.admission, name, so_much)
        problem(client.post("/run", json=body, headers=headers), status)
    client.run(**GOOD)
    assert samples(client, "unrolled_refusals_total") == {(reason,): 1}


def test_a_body_that_is_too_slow_is_counted_as_that(asked, monkeypatch):
    client, _ = asked

    async def slow(*_, **__):
        raise bodies._too_slow("the body did not come")

    monkeypatch.setattr("app.bodies.whole", slow)
    problem(client.post("/run", json=GOOD), 408)
    assert samples(client, "unrolled_refusals_total") == {("slow_body",): 1}


@pytest.mark.parametrize(
    ("stage", "points"),
    [
        ("decode", {}),
        ("queue", {"understood": 1}),
        ("compute", {"understood": 1, "begun": 2}),
        ("encode", {"understood": 1, "begun": 2, "computed": 3}),
    ],
)
def test_a_deadline_is_missed_in_the_stage_that_did_not_end(stage, points):
    counted = Tally()
    counted.miss(Record(**points))
    assert counted.late == {(stage,): 1}


def test_missed_deadlines_are_told(asked, monkeypatch):
    client, _ = asked

    async def late(*_):
        raise too_late()

    monkeypatch.setattr(client.app.state.executor, "_compute", late)
    client.refusal("/run", 504, **GOOD)
    client.refusal("/step", 504, **GOOD | {"inputs": [[1]]})
    assert samples(client, "unrolled_deadline_misses_total") == {("queue",): 2}


def test_a_bucket_has_the_values_up_to_its_bound():
    found = Distribution((1, 2.5))
    for number in (0, 1, 1.01, 2.5, 3):
        found.add(number)
    assert found.buckets == [("1.0", 2), ("2.5", 4), ("+Inf", 5)]
    assert found.sum == 7.51


def test_the_documentation_has_every_name_and_no_other(asked):
    client, _ = asked
    families = text_string_to_metric_families(client.get("/metrics").text)
    there = {(f.name + "_total" * (f.type == "counter"), f.type) for f in families if f.name.startswith("unrolled_")}
    rows = re.findall(r"^\| (`unrolled_.*?`) \| (\w+) \|", (ROOT / "docs" / "operations.md").read_text(), re.M)
    told = {(name, kind) for names, kind in rows for name in re.findall(r"`(\w+)`", names)}
    assert told == there | {("unrolled_log_lines_dropped_total", "counter")}  # where there is a log


def test_the_process_is_told_of(asked):
    client, _ = asked
    assert value(client, "process_resident_memory_bytes") > 1 << 20
    assert len(samples(client, "python_gc_collections_total")) == 3
