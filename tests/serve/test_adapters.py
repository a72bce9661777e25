"""Adapters by name: listed, chosen as a request's model, counted, and refused where names clash."""

from __future__ import annotations

import pytest
from fake_llm import NAME, FakeLLM
from fastapi.testclient import TestClient
from http_replies import CHAT, PLAIN, sse
from random_adapters import random_adapter
from small_engine import finished, small_engine

from ling.config.engine import EngineConfig, ServeConfig
from ling.errors import UsageError
from ling.presets import preset
from ling.serve.app import create_app, serve

FOLDERS = {"poet": "runs/poet", "tools:v2": "/models/tools"}
MESSAGES = {"messages": CHAT["messages"], "max_tokens": 5}


@pytest.fixture
def adapted():
    llm = FakeLLM()
    llm.adapter_folders = FOLDERS
    return llm


@pytest.fixture
def client(adapted):
    with TestClient(create_app(adapted, served_model_name=NAME)) as client:
        yield client


def test_models_lists_the_adapters_with_their_folders(client):
    data = client.get("/v1/models").json()["data"]
    assert [(m["id"], m["root"], m["parent"]) for m in data] == [
        (NAME, NAME, None),
        ("poet", "runs/poet", NAME),
        ("tools:v2", "/models/tools", NAME),
    ]
    for listed in data:
        assert client.get(f"/v1/models/{listed['id']}").json() == listed


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", PLAIN),
        ("/v1/chat/completions", CHAT),
        ("/v1/responses", {"input": "hi"}),
        ("/v1/messages", MESSAGES),
    ],
)
@pytest.mark.parametrize("name", [NAME, *FOLDERS])
def test_each_api_chooses_an_adapter_by_its_model(client, adapted, path, body, name):
    reply = client.post(path, json={**body, "model": name})
    assert reply.status_code == 200, reply.text
    assert reply.json()["model"] == name
    assert adapted.terms[-1].adapter == (None if name == NAME else name)


def test_streams_and_scored_prompts_run_under_the_adapter(client, adapted):
    body = {**PLAIN, "model": "poet", "stream": True}
    events = sse(client.post("/v1/completions", json=body).text)
    assert {event["model"] for event in events if isinstance(event, dict)} == {"poet"}
    body = {**PLAIN, "model": "poet", "echo": True, "logprobs": 1}
    assert client.post("/v1/completions", json=body).status_code == 200
    assert [s.adapter for s in adapted.terms] == ["poet"] * len(adapted.terms)
    assert len(adapted.terms) > 2


def test_tokens_are_counted_for_adapters_too(client):
    assert client.post("/tokenize", json={"model": "poet", "prompt": "a"}).json()["count"] == 1
    assert client.post("/tokenize", json={"model": "other", "prompt": "a"}).status_code == 404


def test_an_unknown_name_is_404_and_says_what_there_is(client):
    reply = client.post("/v1/completions", json={**PLAIN, "model": "poet2"})
    assert reply.status_code == 404
    error = reply.json()["error"]
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert error["message"].endswith(f"this server has `{NAME}`, `poet`, `tools:v2`")


def test_requests_are_counted_under_the_name_that_they_chose(adapted):
    engine = small_engine()
    engine.runner.use_adapters({name: random_adapter(preset("ling-tiny"), 1) for name in FOLDERS})
    adapted.engine = engine
    for name in (None, "poet", "poet", "tools:v2", None, None):
        finished(engine, [1, 2, 3], adapter=name)
    with TestClient(create_app(adapted, served_model_name=NAME)) as client:
        text = client.get("/metrics").text
    for name, count in {NAME: 3, "poet": 2, "tools:v2": 1}.items():
        labels = f'finished_reason="length",model_name="{name}"'
        assert f"ling:request_success_total{{{labels}}} {count}.0" in text


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        (["base=a"], "`lora` has an adapter `base`, which is the model's own name; give another"),
        (["a"], "`lora` is `a`, expected NAME=FOLDER"),
    ],
)
def test_names_are_checked_before_the_model_is_touched(lora, message):
    with pytest.raises(UsageError, match=message):
        serve("nowhere", ServeConfig(served_model_name="base"), EngineConfig(lora=lora))
