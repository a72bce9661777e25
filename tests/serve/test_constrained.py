"""Answers that are kept to a form: never a reply that is not of it."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import threading
import time

import pytest
from fake_llm import wait_until
from fastapi.testclient import TestClient
from http_replies import problem, sse, streamed
from scripted import ScriptedLLM, small_tokenizer

from ling import LLM, from_config, preset
from ling.checkpoint.hf.save import save_model
from ling.errors import RequestError
from ling.grammar.matcher import GrammarMatcher
from ling.serve.app import create_app
from ling.serve.constrained import IGNORED_HEADER

PATH = "/v1/chat/completions"
ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "temperature": 0}
CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "n", "schema": CITY, "strict": True}}
SAID = '{"city": "Rome"}'


def tool(name, **function):
    return {"type": "function", "function": {"name": name, "parameters": CITY, **function}}


def call(name, arguments='{"city": "Paris"}'):
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


TOOLS = [tool("a"), tool("b")]
NAMED = {"type": "function", "function": {"name": "b"}}


@pytest.fixture(scope="module", params=[0, 3], ids=["token by token", "in bursts"])
def llm(request):
    with ScriptedLLM(num_drafts=request.param) as llm:
        yield llm


@pytest.fixture
def client(llm):
    with TestClient(create_app(llm, served_model_name="m")) as client:
        yield client
    client.app.state.service.close()


@pytest.fixture
def ask(llm, client):
    def get(say, **fields):
        llm.say = say
        reply = client.post(PATH, json={**ASK, "max_tokens": 200, **fields})
        assert reply.status_code == 200, reply.text
        (choice,) = reply.json()["choices"]
        return choice

    return get


def calls_of(choice):
    calls = choice["message"].get("tool_calls", [])
    return [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in calls]


# ---- tool_choice -------------------------------------------------------------------------------


def test_a_required_call_is_made_whatever_the_model_wanted_to_say(ask):
    choice = ask("Hello there!", tools=TOOLS, tool_choice="required")
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert all(n in "ab" and set(a) == {"city"} for n, a in calls_of(choice))


def test_the_named_tool_is_called_once_and_the_reason_is_openais(ask):
    choice = ask(call("a") + "\n" + call("a"), tools=TOOLS, tool_choice=NAMED)
    ((name, arguments),) = calls_of(choice)
    assert name == "b"
    assert arguments["city"] in ("Paris", "Rome")
    assert choice["finish_reason"] == "stop"


def test_calls_of_an_allowed_few(ask):
    def allowed(mode):
        given = {"mode": mode, "tools": [NAMED]}
        return {"tools": TOOLS, "tool_choice": {"type": "allowed_tools", "allowed_tools": given}}

    assert {name for name, _ in calls_of(ask(call("a"), **allowed("required")))} == {"b"}
    assert ask("Hello!", **allowed("auto"))["message"]["content"] == "Hello!"
    assert "a" not in {name for name, _ in calls_of(ask(call("a"), **allowed("auto")))}


def test_at_most_one_call_where_calls_are_not_parallel(ask):
    two = call("a") + "\n" + call("b")
    for choice in ("auto", "required"):
        fields = {"tools": TOOLS, "tool_choice": choice, "parallel_tool_calls": False}
        assert calls_of(ask(two, **fields)) == [("a", {"city": "Paris"})]
        assert len(calls_of(ask(two, tools=TOOLS, tool_choice=choice))) == 2


def test_arguments_of_a_strict_tool_are_of_its_schema(ask):
    wild = call("a", '{"city": "Berlin"}')
    assert calls_of(ask(wild, tools=[tool("a")])) == [("a", {"city": "Berlin"})]
    ((_, arguments),) = calls_of(ask(wild, tools=[tool("a", strict=True)]))
    assert arguments["city"] in ("Paris", "Rome")
    assert ask("Hello!", tools=[tool("a", strict=True)])["message"]["content"] == "Hello!"


def test_a_call_is_forced_behind_reasoning(ask):
    thought = "<think>\nhm\n</think>\n\n"
    choice = ask(thought + "Hello!", tools=TOOLS, tool_choice=NAMED, reasoning_effort="high")
    assert choice["message"]["reasoning_content"] == "hm"
    assert [name for name, _ in calls_of(choice)] == ["b"]


@pytest.mark.parametrize("say", ["hm</think> \t yes", "<think>hm</think>\n\r yes", "on and on"])
def test_nothing_is_said_between_reasoning_and_what_is_enforced(ask, say):
    thinks = {"reasoning_effort": "low", "thinking_budget": 20}
    choice = ask(say, structured_outputs={"choice": ["yes", "no"]}, **thinks)
    assert choice["message"]["content"] in ("yes", "no")


# ---- response_format ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": FORMAT},
        {"response_format": {"type": "json_object", "schema": CITY}},
        {"structured_outputs": {"json": CITY}},
        {"structured_outputs": {"json": json.dumps(CITY)}},
        {"guided_json": CITY},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_an_answer_is_of_the_schema(ask, fields):
    assert ask(SAID, **fields)["message"]["content"] == SAID
    choice = ask("Hello there!", **fields)
    assert json.loads(choice["message"]["content"])["city"] in ("Paris", "Rome")
    assert choice["finish_reason"] == "stop"


def test_other_forms(ask):
    def content(say, **fields):
        return ask(say, **fields)["message"]["content"]

    choices = {"choice": ["yes", "no"]}
    assert content("maybe", structured_outputs=choices) in choices["choice"]
    assert content("no", guided_choice=choices["choice"]) == "no"
    assert content("x12", structured_outputs={"regex": "[0-9]{3}"}).isdigit()
    assert content("ab", guided_grammar='start: "a" "b"') == "ab"
    assert isinstance(json.loads(content("hi", response_format={"type": "json_object"})), dict)
    assert isinstance(json.loads(content("x", structured_outputs={"json_object": True})), dict)
    assert content("hi", response_format={"type": "text"}) == "hi"


def test_with_tools_an_answer_is_a_call_or_of_the_form(ask):
    fields = {"tools": TOOLS, "response_format": FORMAT}
    assert calls_of(ask(call("a"), **fields)) == [("a", {"city": "Paris"})]
    assert ask(SAID, **fields)["message"]["content"] == SAID
    free = ask("Hello there!", **fields)
    assert calls_of(free) or json.loads(free["message"]["content"])
    unused = ask("Hello!", **fields, tool_choice="none")
    assert json.loads(unused["message"]["content"])


def test_a_completion_is_of_the_form(llm, client):
    llm.say = "Hello!"
    body = {"model": "m", "prompt": "a", "max_tokens": 50, "response_format": FORMAT}
    (choice,) = client.post("/v1/completions", json=body).json()["choices"]
    assert json.loads(choice["text"])["city"] in ("Paris", "Rome")


def test_a_stream_is_of_the_form(llm, client):
    llm.say = "Hello!"
    events = streamed(client, PATH, {**ASK, "response_format": FORMAT})
    text = "".join(e["choices"][0]["delta"].get("content", "") for e in events)
    assert json.loads(text)["city"] in ("Paris", "Rome")


# ---- what cannot be enforced -------------------------------------------------------------------


UNIQUE = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}


def schema_format(schema, **more):
    return {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, **more}}


def test_a_keyword_that_cannot_be_enforced_is_refused_or_named(client, llm):
    llm.say = "[1]"
    strict = {"response_format": schema_format(UNIQUE, strict=True)}
    error = problem(client.post(PATH, json={**ASK, **strict}), 400)
    assert error["param"] == "response_format"
    assert "uniqueItems" in error["message"]
    reply = client.post(PATH, json={**ASK, "response_format": schema_format(UNIQUE)})
    assert reply.json()["choices"][0]["message"]["content"] == "[1]"
    assert reply.headers[IGNORED_HEADER] == "uniqueItems"
    with client.stream(
        "POST", PATH, json={**ASK, "stream": True, "response_format": schema_format(UNIQUE)}
    ) as stream:
        assert stream.headers[IGNORED_HEADER] == "uniqueItems"
    plain = client.post(PATH, json={**ASK, "response_format": FORMAT})
    assert IGNORED_HEADER not in plain.headers


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("response_format", {"response_format": schema_format({"type": 5})}),
        ("structured_outputs", {"structured_outputs": {"regex": "(a"}}),
        ("guided_regex", {"guided_regex": "(?=a)"}),
        ("guided_grammar", {"guided_grammar": "start: ("}),
        ("tools", {"tools": [tool("a", parameters={"type": 5})], "tool_choice": "required"}),
        ("response_format", {"tools": TOOLS, "response_format": schema_format({"type": 5})}),
        (
            "response_format",
            {
                "response_format": schema_format(
                    {"allOf": [{"pattern": f".*{i}.*"} for i in "x" * 40]}
                )
            },
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_compiled_is_400_and_names_its_field(client, param, fields, stream):
    reply = client.post(PATH, json={**ASK, **fields, "stream": stream})
    assert problem(reply, 400)["param"] == param


def test_a_schema_beyond_the_bounds_is_refused_before_it_is_in_a_prompt(client, llm, monkeypatch):
    def rendered(*given, **options):
        raise AssertionError("the prompt was made")

    monkeypatch.setattr(llm, "render", rendered)
    schema = {"enum": list(range(100_000))}
    for fields, param in (
        ({"tools": [tool("f", parameters=schema)], "tool_choice": "required"}, "tools"),
        ({"tools": [tool("f", parameters=schema, strict=True)]}, "tools"),
        ({"tools": [tool("f")], "response_format": schema_format(schema)}, "response_format"),
    ):
        error = problem(client.post(PATH, json={**ASK, **fields}), 400)
        assert error["param"] == param
        assert "at most" in error["message"]


def test_prompts_do_not_wait_behind_grammars(client, llm, monkeypatch):
    go, real = threading.Event(), llm.compile

    def slow(*given):
        assert go.wait(30)
        return real(*given)

    monkeypatch.setattr(llm, "compile", slow)
    llm.say = SAID
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        body = {**ASK, "response_format": FORMAT}
        waiting = [pool.submit(client.post, PATH, json=body) for _ in range(8)]
        wait_until(lambda: client.app.state.service.num_running == 8)
        assert client.post("/tokenize", json={"prompt": "a"}).status_code == 200
        go.set()
        assert all(reply.result().status_code == 200 for reply in waiting)


def test_a_keyword_cannot_forge_a_header(client, llm):
    llm.say = "{}"
    schema = {"type": "object", "x\r\nset-cookie: a=b ☃": True}
    reply = client.post(PATH, json={**ASK, "response_format": schema_format(schema)})
    assert reply.status_code in (200, 400)
    assert "set-cookie" not in reply.headers


def test_a_thinking_budget_ends_reasoning(ask):
    long = "<think>\n" + "well " * 60 + "\n</think>\n\nYes."
    assert len(ask(long, max_tokens=None)["message"]["reasoning_content"]) > 200
    for name in ("thinking_token_budget", "thinking_budget"):
        message = ask(long, max_tokens=None, **{name: 5})["message"]
        assert len(message["reasoning_content"]) < 40


def test_an_answer_that_goes_wrong_on_the_way_is_an_error_event(client, llm, monkeypatch):
    real = GrammarMatcher.accept

    def accept(self, token_id):
        real(self, token_id)
        time.sleep(0.01)  # the stream is to have begun
        left.pop()
        if not left:
            raise RequestError("the grammar cannot go on", status=500)

    left = [None] * 6
    monkeypatch.setattr(GrammarMatcher, "accept", accept)
    llm.say = SAID
    body = {**ASK, "structured_outputs": {"regex": "[a-z ]{30}"}, "stream": True}
    reply = client.post(PATH, json=body)
    *_, last, done = sse(reply.text)
    assert last["error"]["message"] == "the grammar cannot go on"
    assert done == "[DONE]"


# ---- a real model ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def random_llm(tmp_path_factory):
    """Random weights, which say nothing that anybody could want."""
    folder, tokenizer = tmp_path_factory.mktemp("model"), small_tokenizer()
    config = dataclasses.replace(
        preset("ling-tiny"),
        vocab_size=tokenizer.vocab_size,
        max_position_embeddings=2048,
        eos_token_id=tokenizer.stop_token_ids[0],
    )
    save_model(from_config(config, seed=1), config, folder)
    tokenizer.save(folder)
    with LLM(folder, dtype="float32", num_pages=128) as llm:
        yield llm


@pytest.mark.parametrize("temperature", [0, 1])
def test_random_weights_call_the_tool_they_are_told_to(random_llm, temperature):
    body = {**ASK, "tools": TOOLS, "tool_choice": NAMED, "temperature": temperature, "seed": 5}
    with TestClient(create_app(random_llm, served_model_name="m")) as client:
        choice = client.post(PATH, json=body).json()["choices"][0]
        ((name, arguments),) = calls_of(choice)
        assert name == "b"
        assert arguments["city"] in ("Paris", "Rome")
        assert choice["finish_reason"] == "stop"
        events = streamed(client, PATH, body)
        deltas = [c for e in events for c in e["choices"][0]["delta"].get("tool_calls", [])]
        text = "".join(c["function"]["arguments"] for c in deltas)
        assert text == choice["message"]["tool_calls"][0]["function"]["arguments"]
        form = {**ASK, "response_format": FORMAT, "temperature": temperature}
        content = client.post(PATH, json=form).json()["choices"][0]["message"]["content"]
        assert json.loads(content)["city"] in ("Paris", "Rome")
        client.app.state.service.close()
