"""GET /metrics: what was asked and answered, in Prometheus' text format."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.app.client import service

GOOD = {"cell": "rnn", "num_units": 1, "inputs": [[[1]]]}


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
