"""Traces in OpenTelemetry's terms, of the extra `otel`: a span for every request, and in it one for each of its parts.

The spans are made once the request is answered, of the times that are noted anyway: until then a trace costs nothing.
Where spans go, how many are kept and what the service is called is said by OpenTelemetry's own settings (`OTEL_…`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from app import __version__
from app.record import Record

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

#: The parts of a request, and between which of its times they are.
SPANS = {
    "receive": ("arrived", "whole"),
    "decode": ("read", "understood"),
    "queue": ("understood", "begun"),
    "compute": ("begun", "computed"),
    "encode": ("computed", "written"),
}

#: Headers that say which trace a request belongs to (W3C Trace Context).
CARRIED = frozenset({b"traceparent", b"tracestate"})


class Traces:
    """Tells of requests."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider, self._propagator = provider, TraceContextTextMapPropagator()
        self._tracer = provider.get_tracer("unrolled", __version__)

    @classmethod
    def exported(cls) -> Traces:
        """Sent by OTLP over HTTP, in batches, by a thread."""
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        name = os.environ.get("OTEL_SERVICE_NAME", "unrolled")
        provider = TracerProvider(
            resource=Resource.create({"service.name": name, "service.version": __version__}), shutdown_on_exit=False
        )
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        return cls(provider)

    def close(self) -> None:
        """Sends what is left."""
        self._provider.shutdown()

    def tell(self, scope: Mapping[str, Any], record: Record, route: str, method: str, status: int) -> str | None:
        """A request was answered; the id of its trace, if it is kept."""
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

        since_epoch = time.time_ns() - (now := time.perf_counter_ns())
        carrier = {name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in CARRIED}
        span = self._tracer.start_span(
            f"{method} {route}",
            self._propagator.extract(carrier),
            SpanKind.SERVER,
            attributes=_attributes(record, route, method, status),
            start_time=record.arrived + since_epoch,
        )
        if not span.is_recording():
            return None
        if status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        inside = set_span_in_context(span)
        for name, (begins, ends) in SPANS.items():
            begin, end = getattr(record, begins), getattr(record, ends)
            if begin and end:
                self._tracer.start_span(name, inside, start_time=begin + since_epoch).end(end + since_epoch)
        span.end(now + since_epoch)
        return f"{span.get_span_context().trace_id:032x}"


def _attributes(record: Record, route: str, method: str, status: int) -> dict[str, str | int]:
    told: dict[str, str | int] = {
        "http.request.method": method,
        "http.route": route,
        "http.response.status_code": status,
        "unrolled.request_id": record.request_id,
    }
    if record.model:
        told["unrolled.model"] = record.model
    if record.rows:
        told |= {"unrolled.rows": record.rows, "unrolled.steps": record.steps}
    return told
