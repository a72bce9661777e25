"""Readiness, metrics, what a server was started with: and who may see them."""

from __future__ import annotations

import pytest
from fake_llm import NAME, FakeLLM
from fastapi.testclient import TestClient

from ling.config.engine import EngineConfig, ServeConfig
from ling.serve import service
from ling.serve.app import create_app
from ling.serve.keys import Keys
from ling.serve.routes.operation import configuration

KEY = {"Authorization": "Bearer secret"}


def app_client(llm, **options) -> TestClient:
    return TestClient(create_app(llm, served_model_name=NAME, **options))


def test_probes_follow_the_life_of_the_server(llm, monkeypatch):
    with app_client(None) as client:
        state = client.app.state.service
        for path in ("/health", "/ready"):
            reply = client.get(path)
            assert (reply.status_code, int(reply.headers["retry-after"]) > 0) == (503, True)
        state.llm = llm
        assert client.get("/health").status_code == client.get("/ready").status_code == 200
        monkeypatch.setattr(service, "MAX_CHOICES", 0)
        assert (client.get("/health").status_code, client.get("/ready").status_code) == (200, 503)
        monkeypatch.undo()
        llm.failure = RuntimeError("dead")
        assert client.get("/health").status_code == client.get("/ready").status_code == 503


@pytest.mark.parametrize("path", ["/v1/models", "/tokenize", "/v1/completions", "/server_info"])
@pytest.mark.parametrize("state", ["loading", "draining", "failed", "dead"])
def test_refusals_of_the_server_say_when_to_come_again(llm, path, state):
    with app_client(None if state == "loading" else llm) as client:
        own = client.app.state.service
        own.draining = state == "draining"
        own.failure = RuntimeError("no") if state == "failed" else None
        llm.failure = RuntimeError("no") if state == "dead" else None
        body = {"model": NAME, "prompt": "a"}
        is_get = path in ("/v1/models", "/server_info")
        reply = client.get(path) if is_get else client.post(path, json=body)
        assert (reply.status_code, reply.json()["error"]["type"]) == (503, "server_error")
        assert int(reply.headers["retry-after"]) > 0


def test_the_key_opens_all_but_the_probes(llm):
    with app_client(llm, api_key=Keys(["secret", "other"])) as client:
        for path in ("/metrics", "/server_info", "/v1/models"):
            assert client.get(path).status_code == 401
            assert client.get(path, headers=KEY).status_code == 200
            assert client.get(path, headers={"X-API-Key": "other"}).status_code == 200
        assert client.get("/health").status_code == client.get("/ready").status_code == 200


def test_metrics_have_a_port_of_their_own(llm):
    app = create_app(llm, served_model_name=NAME, api_key="secret", metrics_port=9100)
    with (
        TestClient(app, base_url="http://localhost:9100") as metrics,
        TestClient(app, base_url="http://localhost:8000") as main,
    ):
        assert metrics.get("/metrics").status_code == metrics.get("/ready").status_code == 200
        assert metrics.get("/v1/models", headers=KEY).status_code == 404
        assert main.get("/metrics", headers=KEY).status_code == 404
        assert main.get("/v1/models", headers=KEY).status_code == 200


def test_server_info_shows_the_configuration_and_no_secret(llm):
    server = ServeConfig(
        api_key="secret", api_key_file="/etc/secret", otlp_traces_endpoint="http://secret"
    )
    info = configuration("folder", EngineConfig(max_num_seqs=7), server)
    with app_client(llm, info=info) as client:
        shown = client.get("/server_info")
    assert "secret" not in shown.text
    told = shown.json()
    assert (told["model"], told["engine"]["max_num_seqs"]) == ("folder", 7)
    assert told["server"]["port"] == 8000
    assert told["state"]["num_free_pages"] == 10


def test_pages_of_other_hosts_may_ask_only_where_they_are_named():
    preflight = {
        "Origin": "https://a.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    path = "/v1/chat/completions"
    with app_client(FakeLLM(), api_key="secret") as closed:
        reply = closed.options(path, headers=preflight)
        assert reply.status_code == 401
        assert not [name for name in reply.headers if name.startswith("access-control")]
    with app_client(FakeLLM(), api_key="secret", allowed_origins=["https://a.example"]) as opened:
        reply = opened.options(path, headers=preflight)
        assert reply.headers["access-control-allow-origin"] == "https://a.example"
        foreign = opened.options(path, headers={**preflight, "Origin": "https://b.example"})
        assert "access-control-allow-origin" not in foreign.headers
        refused = opened.post(path, json={}, headers={"Origin": "https://a.example"})
        assert refused.status_code == 401  # and the page may read why
        assert refused.headers["access-control-allow-origin"] == "https://a.example"


def test_an_id_of_the_caller_is_kept_if_it_is_harmless(client):
    for given in ("abc-1.2:3", "x" * 128):
        assert client.get("/health", headers={"X-Request-Id": given}).headers["x-request-id"] == (
            given
        )
    for given in ("", "x" * 129, "a b", "a\x1b[2J", "ü".encode(), '"'):
        own = client.get("/health", headers={"X-Request-Id": given}).headers["x-request-id"]
        assert own.startswith("req_")


def test_each_of_several_keys_has_cached_prefixes_of_its_own(llm):
    def salts(keys, **fields):
        del llm.terms[:]
        with app_client(llm, api_key=Keys(keys)) as client:
            for key in keys:
                body = {"model": NAME, "prompt": "a", "max_tokens": 1, **fields}
                client.post("/v1/completions", json=body, headers={"X-API-Key": key})
        return [terms.cache_salt for terms in llm.terms]

    assert salts(["a"]) == [""]
    first, second = salts(["a", "b"])
    assert first
    assert first != second
    assert salts(["a", "b"], cache_salt="s") == [f"{first} s", f"{second} s"]
