"""OpenTelemetry: a span for each request, where a collector is named and the packages are there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..errors import UsageError
from .served import Served

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

# The variables by which OpenTelemetry's own exporter finds its collector.
VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


class Spans:
    """Sends a span of each request that generated text to `exporter`.

    The span is made when the reply has ended, with the times of the request, so that nothing waits
    for it; it continues the caller's trace (`traceparent`). It has no text of the request.
    """

    def __init__(self, exporter: SpanExporter) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        # The variable OTEL_SERVICE_NAME goes before our name.
        name = os.environ.get("OTEL_SERVICE_NAME", "ling")
        self._provider = TracerProvider(resource=Resource.create({"service.name": name}))
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("ling.serve")

    def observe(self, served: Served) -> None:
        """Make the span of a reply; probes and listings have none."""
        from opentelemetry.trace import SpanKind, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        if served.tokens is None:
            return
        carrier = {"traceparent": served.traceparent} if served.traceparent else {}
        end = int(served.ended * 1e9)
        span = self._tracer.start_span(
            f"{served.method} {served.handler}",
            context=TraceContextTextMapPropagator().extract(carrier),
            kind=SpanKind.SERVER,
            start_time=end - int(served.seconds * 1e9),
            attributes={
                "http.request.method": served.method,
                "http.route": served.handler,
                "http.response.status_code": served.status,
                "gen_ai.request.id": served.request_id,
                "gen_ai.usage.input_tokens": served.tokens[0],
                "gen_ai.usage.output_tokens": served.tokens[1],
            },
        )
        if served.status >= 500:
            span.set_status(StatusCode.ERROR)
        span.end(end_time=end)

    def close(self) -> None:
        """Send what is left; waits for the collector as long as OpenTelemetry does."""
        self._provider.shutdown()


def tracer(endpoint: str | None) -> Spans | None:
    """Spans to a collector, None where neither the call nor a variable names one.

    Raises `UsageError` when one is named and the extra `otel` is not installed.
    """
    if endpoint is None and not any(os.environ.get(name) for name in VARIABLES):
        return None
    # Others need `opentelemetry-api`, so that a part of the packages may be there.
    try:
        import opentelemetry.sdk.trace.export  # noqa: F401
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        raise UsageError("traces need more packages: pip install 'ling[otel]'") from None

    return Spans(OTLPSpanExporter(endpoint=endpoint))
