from __future__ import annotations

import pytest
from fake_llm import NAME, FakeLLM
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from small_engine import finished, small_engine

from ling.serve.app import create_app
from ling.serve.metrics import METHODS


def samples(client) -> dict[str, float]:
    """Values by name and labels."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {
        " ".join([s.name, *(f"{k}={v}" for k, v in sorted(s.labels.items()))]): s.value
        for family in families
        for s in family.samples
    }


def test_http_replies_are_counted_by_endpoint_and_status(client):
    client.get("/v1/models/fake")
    client.get("/v1/models/unheard")
    client.get("/nowhere/secret")
    client.post("/health", json={})
    found = samples(client)
    counted = {k: v for k, v in found.items() if k.startswith("http_requests_total")}
    assert counted == {
        "http_requests_total handler=/v1/models/{name:path} method=GET status=200": 1,
        "http_requests_total handler=/v1/models/{name:path} method=GET status=404": 1,
        "http_requests_total handler=none method=GET status=404": 1,
        "http_requests_total handler=/health method=POST status=405": 1,
    }
    assert found["http_request_duration_seconds_count handler=none"] == 1


def test_labels_are_bounded_whatever_clients_send(client):
    samples(client)  # which is a reply as well
    before = None
    for round in range(2):
        for n in range(20):
            client.request(
                f"METHOD{n}{round}", f"/path{n}{round}", headers={"X-Request-Id": f"{n}"}
            )
            client.post("/v1/completions", json={"model": f"m{n}{round}", "prompt": "private"})
        series = set(samples(client))
        assert before is None or series == before
        before = series
    assert "private" not in client.get("/metrics").text
    assert any("method=other" in name for name in before)
    assert "other" not in METHODS


def test_every_app_counts_for_itself(llm):
    first, second = (TestClient(create_app(llm, served_model_name=NAME)) for _ in range(2))
    first.get("/health")
    assert any("handler=/health" in name for name in samples(first))
    assert not any("handler=/health" in name for name in samples(second))


def test_metrics_are_there_before_the_model():
    client = TestClient(create_app(None, served_model_name=NAME))
    assert not [name for name in samples(client) if name.startswith("ling:")]
    assert "process_resident_memory_bytes" in samples(client)


def test_the_engine_is_shown_as_it_counts():
    llm = FakeLLM()
    engine = llm.engine = small_engine()
    client = TestClient(create_app(llm, served_model_name=NAME))
    for _ in range(3):
        finished(engine, list(range(70)), n=5)
    engine.stats.drafted, engine.stats.accepted, engine.stats.forced = 9, 7, 3
    found = samples(client)

    def value(name, **labels):
        pairs = sorted({"model_name": NAME, **labels}.items())
        return found[" ".join([f"ling:{name}", *(f"{k}={v}" for k, v in pairs)])]

    stats = engine.stats
    assert value("generation_tokens_total") == 15
    assert value("prompt_tokens_total") == 210
    assert value("prefix_cache_queries_total") == 210
    assert value("prefix_cache_hits_total") == stats.prefix_hits == 128
    assert value("request_success_total", finished_reason="length") == 3
    assert value("request_success_total", finished_reason="error") == 0
    assert value("num_requests_running") == value("num_requests_waiting") == 0
    assert value("kv_cache_usage_perc") == 0
    assert value("time_to_first_token_seconds_count") == 3
    assert value("time_to_first_token_seconds_bucket", le="+Inf") == 3
    assert value("time_to_first_token_seconds_sum") == pytest.approx(stats.time_to_first_token.sum)
    assert value("spec_decode_num_draft_tokens_total") == 9
    assert value("spec_decode_num_accepted_tokens_total") == 7
    assert value("grammar_forced_tokens_total") == 3
    assert value("request_generation_tokens_sum") == 15
    assert value("cache_config_info", num_pages=str(engine.pool.num_pages)) == 1
