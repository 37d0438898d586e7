"""Traces: a span for every request, and in it one for each of its parts. Of the extra `otel`."""

import subprocess
import sys

import pytest

from app.settings import TRACING, Settings, _is_installed
from tests.app.client import ROOT, problem, service

if not all(map(_is_installed, TRACING)):
    pytest.skip("the extra otel is not installed", allow_module_level=True)

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import SpanKind, StatusCode

from app.traces import Traces
from tests.app.test_logs import Written
from tests.app.test_models import LSTM, X, registered
from tests.app.test_stream_logs import socket

GOOD = {"cell": "rnn", "num_units": 1, "inputs": [[[1], [2]], [[3]]]}
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
MARKER = "hunter2hunter2hunter2"


class Traced:
    """A service with the spans that it made."""

    def __init__(self, client, exporter):
        self.client, self._exporter = client, exporter

    @property
    def spans(self):
        return {span.name: span for span in self._exporter.get_finished_spans()}


@pytest.fixture
def traced():
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with service({"traces": Traces(provider)}) as client:
        yield Traced(client, exporter)


def test_a_run_has_a_span_with_one_for_each_of_its_parts_in_their_order(traced):
    response = traced.client.post("/run", json=GOOD)
    parts = traced.spans
    whole = parts.pop("POST /run")
    assert whole.kind == SpanKind.SERVER
    assert dict(whole.attributes) == {
        "http.request.method": "POST",
        "http.route": "/run",
        "http.response.status_code": 200,
        "unrolled.request_id": response.headers["x-request-id"],
        "unrolled.rows": 2,
        "unrolled.steps": 3,
    }
    assert whole.parent is None
    in_order = [parts[name] for name in ("receive", "decode", "queue", "compute", "encode")]
    assert len(parts) == 5
    ends = [whole.start_time]
    for part in in_order:
        assert part.parent.span_id == whole.context.span_id
        assert ends[-1] <= part.start_time <= part.end_time
        ends.append(part.end_time)
    assert ends[-1] <= whole.end_time


def test_a_model_that_there_is_not_is_not_told(traced):
    traced.client.post("/models/nobody/run", json={"inputs": [[[1]]]})
    (span,) = [span for span in traced.spans.values() if span.kind == SpanKind.SERVER]
    assert span.name == "POST /models/{name}/run"
    assert "unrolled.model" not in span.attributes


def test_a_trace_goes_on_that_the_client_began(traced):
    traced.client.post("/run", json=GOOD, headers={"traceparent": PARENT})
    for span in traced.spans.values():
        assert f"{span.context.trace_id:032x}" == PARENT.split("-")[1]
    assert f"{traced.spans['POST /run'].parent.span_id:016x}" == PARENT.split("-")[2]


def test_a_traceparent_that_is_none_begins_a_trace_anew(traced):
    traced.client.post("/run", json=GOOD, headers={"traceparent": MARKER})
    assert traced.spans["POST /run"].parent is None


def test_what_fails_early_has_the_parts_it_came_to(traced, monkeypatch):
    problem(traced.client.post("/run", content=b"{"), 400)
    assert set(traced.spans) == {"POST /run", "receive"}
    assert traced.spans["POST /run"].status.status_code == StatusCode.UNSET
    monkeypatch.setattr(traced.client.app.state.executor.admission, "draining", True)
    problem(traced.client.post("/step", json=GOOD), 503)
    assert traced.spans["POST /step"].status.status_code == StatusCode.ERROR


def test_pages_have_a_span_too_and_no_query_is_in_any(traced):
    traced.client.get("/cells", params={"key": MARKER}, headers={"Authorization": MARKER})
    (span,) = traced.spans.values()
    assert span.name == "GET /cells"
    assert MARKER not in span.to_json()


def test_a_websocket_is_a_span_of_the_clients_trace_from_its_handshake_to_its_end(traced):
    registered(traced.client, "net", LSTM)
    frame = {"inputs": X[:, :2].tolist()}
    socket(traced.client, "/models/net/stream", frame, headers=[(b"traceparent", PARENT.encode()), (b"x-other", b"")])
    span = traced.spans["GET /models/{name}/stream"]
    assert f"{span.context.trace_id:032x}" == PARENT.split("-")[1]
    assert span.attributes["http.response.status_code"] == 101
    assert (span.attributes["unrolled.rows"], span.attributes["unrolled.steps"]) == (3, 6)


def test_the_log_names_the_trace_of_a_request_that_is_kept():
    written, provider = Written(), TracerProvider(shutdown_on_exit=False)
    with service({"lines": written.lines, "traces": Traces(provider)}) as client:
        client.post("/run", json=GOOD, headers={"traceparent": PARENT})
    assert written.requests[0]["trace_id"] == PARENT.split("-")[1]


def test_a_trace_that_its_sampler_leaves_out_is_no_trace():
    written, exporter = Written(), InMemorySpanExporter()
    provider = TracerProvider(sampler=ParentBased(ALWAYS_OFF), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with service({"lines": written.lines, "traces": Traces(provider)}) as client:
        client.run(**GOOD)
        assert exporter.get_finished_spans() == ()
        client.post("/run", json=GOOD, headers={"traceparent": PARENT})
        assert {span.name for span in exporter.get_finished_spans()} >= {"POST /run", "compute"}
    assert ["trace_id" in line for line in written.requests] == [False, True]


def test_the_setting_sends_them_by_otlp_at_the_latest_at_the_end(monkeypatch):
    sent = []
    monkeypatch.setenv("OTEL_SERVICE_NAME", "one-of-many")

    class Exporter(InMemorySpanExporter):
        def shutdown(self):
            sent.extend(self.get_finished_spans())

    monkeypatch.setattr("opentelemetry.exporter.otlp.proto.http.trace_exporter.OTLPSpanExporter", Exporter)
    with service(traces=True) as client:
        client.run(**GOOD)
    assert {span.name for span in sent} >= {"POST /run", "decode", "queue", "compute", "encode"}
    assert {span.resource.attributes["service.name"] for span in sent} == {"one-of-many"}


def test_without_the_extra_the_setting_stops_the_start(monkeypatch):
    monkeypatch.setattr("app.settings.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"install .*\[otel\]"):
        Settings(traces=True)
    assert not Settings(traces=False).traces


def test_nothing_of_it_is_imported_unless_it_is_wanted():
    code = "import sys, app.main; app.main.create_app(); print('opentelemetry.sdk' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.strip() == "False"
