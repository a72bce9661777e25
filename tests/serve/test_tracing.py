from __future__ import annotations

import sys

import pytest
from fake_llm import NAME
from fastapi.testclient import TestClient

from ling.errors import UsageError
from ling.serve import tracing
from ling.serve.app import create_app
from ling.serve.tracing import VARIABLES, tracer

CALLER = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def unset(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_nothing_is_traced_unless_a_collector_is_named(unset):
    assert tracer(None) is None


@pytest.mark.parametrize("missing", ["opentelemetry", "opentelemetry.exporter"])
@pytest.mark.parametrize("by", ["call", *VARIABLES])
def test_a_collector_without_the_packages_is_refused(unset, monkeypatch, by, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    if by != "call":
        monkeypatch.setenv(by, "http://localhost:4318")
    with pytest.raises(UsageError, match=r"pip install 'ling\[otel\]'"):
        tracer("http://localhost:4318" if by == "call" else None)


@pytest.mark.slow
def test_a_request_is_a_span_of_the_callers_trace(llm):
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    exporter = memory.InMemorySpanExporter()
    spans = tracing.Spans(exporter)
    app = create_app(llm, served_model_name=NAME, observers=[spans.observe])
    with TestClient(app) as client:
        client.get("/health")
        for header in (f"00-{CALLER}-0123456789abcdef-01", "forged\x1b", ""):
            client.post(
                "/v1/completions",
                json={"model": NAME, "prompt": "private", "max_tokens": 3},
                headers={"traceparent": header, "X-Request-Id": "own"},
            )
    spans.close()
    first, *others = exporter.get_finished_spans()
    assert len(others) == 2
    assert first.name == "POST /v1/completions"
    assert f"{first.context.trace_id:032x}" == CALLER
    assert all(f"{span.context.trace_id:032x}" != CALLER for span in others)
    assert dict(first.attributes) == {
        "http.request.method": "POST",
        "http.route": "/v1/completions",
        "http.response.status_code": 200,
        "gen_ai.request.id": "own",
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 3,
    }
    assert 0 < first.end_time - first.start_time < 5e9
    assert "private" not in first.to_json()
    assert first.resource.attributes["service.name"] == "ling"
