"""The endpoints: replies to good requests, and what is not there."""

import pytest
from fake_llm import NAME, SCRIPT, FakeLLM
from fastapi.testclient import TestClient
from http_replies import CHAT, PLAIN, problem

from ling.serve.app import create_app


def test_models_lists_the_one_model_and_finds_it_by_name(client):
    listed = client.get("/v1/models").json()
    assert [m["id"] for m in listed["data"]] == [NAME]
    assert client.get(f"/v1/models/{NAME}").json() == listed["data"][0]
    assert listed["data"][0]["max_model_len"] == FakeLLM.max_model_len


def test_names_with_slashes_are_found():
    with TestClient(create_app(FakeLLM(), served_model_name="org/name")) as client:
        assert client.get("/v1/models/org/name").json()["id"] == "org/name"


def test_health_and_version_answer(client):
    assert client.get("/health").status_code == 200
    assert client.get("/version").json()["version"]
    assert "/v1/completions" in client.get("/openapi.json").json()["paths"]


def test_chat_reply_has_text_reason_and_usage(client):
    reply = client.post("/v1/chat/completions", json=CHAT).json()
    assert reply["object"] == "chat.completion"
    assert reply["model"] == NAME
    choice = reply["choices"][0]
    assert choice["message"]["content"] == SCRIPT
    assert choice["message"]["role"] == "assistant"
    assert choice["finish_reason"] == "stop"
    prompt, answer = len("<user>hi<assistant>"), len(SCRIPT.encode())
    assert reply["usage"] == {
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
    }


@pytest.mark.parametrize("max_tokens", [0, 1])
def test_echo_with_logprobs_scores_the_prompt(client, llm, max_tokens):
    # What lm-eval's `local-completions` sends.
    body = {
        "model": NAME,
        "prompt": [[97, 98, 99], [100]],
        "temperature": 0,
        "max_tokens": max_tokens,
        "logprobs": 1,
        "seed": 1234,
        "echo": True,
    }
    reply = client.post("/v1/completions", json=body).json()
    first, second = (c["logprobs"] for c in reply["choices"])
    new = ["G"] * max_tokens
    assert first["tokens"] == ["a", "b", "c", *new]
    assert first["token_logprobs"] == [None, -0.5, -0.5] + [-0.5] * max_tokens
    assert first["top_logprobs"][:2] == [None, {"b": -0.5}]
    assert first["text_offset"] == list(range(3 + max_tokens))
    assert second["tokens"] == ["d", *new]
    assert reply["choices"][0]["text"] == "".join(["abc", *new])
    assert reply["usage"]["completion_tokens"] == 2 * max_tokens
    assert llm.params == []  # one scoring pass, no second one to generate


def test_unknown_model_and_path_and_method(client):
    error = problem(client.post("/v1/completions", json={**PLAIN, "model": "other"}), 404)
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert problem(client.get("/v1/models/other"), 404)["code"] == "model_not_found"
    assert problem(client.get("/v1/nothing"), 404)["code"] == "not_found"
    reply = client.get("/v1/completions")
    problem(reply, 405)
    assert reply.headers["allow"] == "POST"
