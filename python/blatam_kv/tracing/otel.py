"""Spans as OpenTelemetry's SDK makes, samples and sends them. All of the SDK is used from here."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from blatam_kv.errors import ConfigError
from blatam_kv.tracing import TRACEPARENT, Attributes, Kind, Span

_KINDS = {
    Kind.SERVER: trace.SpanKind.SERVER,
    Kind.CLIENT: trace.SpanKind.CLIENT,
    Kind.INTERNAL: trace.SpanKind.INTERNAL,
}
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_W3C = TraceContextTextMapPropagator()


class Tracing:
    """Where the traces of one process go. Close it: what is left is sent then.

    Endpoint, headers, sampling, limits and batches are as OTEL_… say; nothing of the library that is
    global is changed. processor: takes the spans in place of the one that sends them, for tests.
    Raises ConfigError for a protocol other than HTTP.
    """

    def __init__(
        self, service: str, *, version: str, processor: SpanProcessor | None = None
    ) -> None:
        for name in _PROTOCOLS:
            if (protocol := os.environ.get(name, "http/protobuf")) != "http/protobuf":
                raise ConfigError(f"{name} must be http/protobuf, not {protocol!r}: that is sent")
        named = {"service.version": version}
        if not os.environ.get("OTEL_SERVICE_NAME") and "service.name=" not in os.environ.get(
            "OTEL_RESOURCE_ATTRIBUTES", ""
        ):
            named["service.name"] = service
        self._provider = TracerProvider(
            resource=Resource.create(named),
            shutdown_on_exit=False,  # whoever opened it closes it
        )
        self._provider.add_span_processor(processor or BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("blatam_kv", version)

    def request(self, name: str, headers: Mapping[str, str], attributes: Attributes) -> Span:
        """The span of a request that came: within the caller's, if its headers carry one."""
        context = _W3C.extract(headers, Context())
        span = self._tracer.start_span(
            name, context, kind=trace.SpanKind.SERVER, attributes=attributes
        )
        return _Span(self._tracer, span, time.time_ns() - time.perf_counter_ns())

    def resumed(self, traceparent: str) -> Span:
        """The span under which this process goes on with what another began under that one. It says that
        it was taken up, and has ended."""
        context = _W3C.extract({TRACEPARENT: traceparent}, Context())
        span = self._tracer.start_span("resume", context)
        made = _Span(self._tracer, span, time.time_ns() - time.perf_counter_ns())
        made.end()
        return made

    def close(self) -> None:
        """Send what is left, and end."""
        self._provider.shutdown()


class _Span:
    """A span of the SDK. since: nanoseconds from the counter's zero to 1970's."""

    __slots__ = ("_context", "_recorded", "_since", "_span", "_tracer")

    def __init__(self, tracer: trace.Tracer, span: trace.Span, since: int) -> None:
        self._tracer, self._span, self._since = tracer, span, since
        self._context = trace.set_span_in_context(span, Context())
        self._recorded = span.is_recording()  # an ended one says no

    def child(self, name: str, attributes: Attributes = {}, *, kind: Kind = Kind.INTERNAL) -> Span:  # noqa: B006  # never changed
        if not self._recorded:  # of a trace that is not sampled nothing is but its name
            return self
        made = self._tracer.start_span(
            name, self._context, kind=_KINDS[kind], attributes=attributes
        )
        return _Span(self._tracer, made, self._since)

    def past(self, name: str, began: float, ended: float, attributes: Attributes = {}) -> None:  # noqa: B006
        if self._recorded:
            self._tracer.start_span(
                name, self._context, attributes=attributes, start_time=self._at(began)
            ).end(self._at(ended))

    def call(self, name: str) -> None:
        self._span.update_name(name)

    def say(self, attributes: Attributes) -> None:
        self._span.set_attributes(attributes)

    def fail(self, reason: str) -> None:
        self._span.set_attribute("error.type", reason)
        self._span.set_status(trace.StatusCode.ERROR)

    def end(self) -> None:
        self._span.end()

    def headers(self) -> Mapping[str, str]:
        carrier: dict[str, str] = {}
        _W3C.inject(carrier, self._context)
        return carrier

    def _at(self, counter: float) -> int:
        return int(counter * 1e9) + self._since
