"""Tools, reasoning and history through the whole server, on a model that says what it is told."""

from __future__ import annotations

import json
import re

import pytest
from fastapi.testclient import TestClient
from http_replies import problem, streamed
from scripted import ScriptedLLM

from ling.data.tokenizer import Tokenizer
from ling.serve.app import create_app

PATH = "/v1/chat/completions"
ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "temperature": 0}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": CITY}}
OTHER = {"type": "function", "function": {"parameters": {}, "name": "b"}}
TOOLS = {"tools": [TOOL, OTHER]}
ARGUMENTS = ['{"city":  "Pa\\u0072is ☃", "t": 1.50}', "{}"]
CALLS = "".join(
    f'<tool_call>\n{{"name": "{name}", "arguments": {text}}}\n</tool_call>'
    for name, text in zip(["get_weather", "b"], ARGUMENTS, strict=True)
)
THOUGHT = "<think>\nwell, </tool_call>\n</think>\n\n"


@pytest.fixture(scope="module", params=[0, 3], ids=["token by token", "in bursts"])
def llm(request):
    with ScriptedLLM(num_drafts=request.param) as llm:
        yield llm


@pytest.fixture
def ask(llm):
    """Ask and get the choice of a whole reply; the same is then streamed, and must add up to it."""
    client = TestClient(create_app(llm, served_model_name="m"))

    def get(say, *, usage=False, **fields):
        llm.say = say
        reply = client.post(PATH, json={**ASK, **fields})
        assert reply.status_code == 200, reply.text
        whole = reply.json()
        options = {"include_usage": True}
        events = streamed(client, PATH, {**ASK, **fields, "stream_options": options})
        assert events[-1]["usage"] == whole["usage"] | cached(events[-1]["usage"])
        (choice,) = whole["choices"]
        assert added_up(events) == (forget_ids(choice["message"]), choice["finish_reason"])
        return (choice, whole["usage"]) if usage else choice

    with client:
        yield get
    client.app.state.service.close()


def cached(usage):
    """The second request of two finds its prompt in the cache."""
    return {"prompt_tokens_details": usage["prompt_tokens_details"]}


def forget_ids(message):
    calls = [{**c, "id": bool(c["id"])} for c in message.get("tool_calls", [])]
    return {**message, **({"tool_calls": calls} if calls else {})}


def added_up(events):
    """The message and the reason of a stream's events, checked for their order."""
    message, reason = {"role": None, "content": None, "refusal": None}, None
    for event in events:
        for choice in event["choices"]:
            assert reason is None
            delta, reason = choice["delta"], choice["finish_reason"]
            message["role"] = delta.get("role", message["role"])
            for name in ("content", "reasoning_content"):
                if delta.get(name):
                    message[name] = (message.get(name) or "") + delta[name]
            for call in delta.get("tool_calls", []):
                add_call(message.setdefault("tool_calls", []), call)
    if set(message) == {"role", "content", "refusal"} and message["content"] is None:
        message["content"] = ""
    return message, reason


def add_call(calls, new):
    if new["index"] == len(calls):
        assert re.fullmatch("call_[A-Za-z0-9]{24}", new["id"])
        assert (new["type"], new["function"]["arguments"]) == ("function", "")
        function = dict(new["function"])
        return calls.append({"id": True, "type": "function", "function": function})
    assert set(new) == {"index", "function"}
    assert set(new["function"]) == {"arguments"}
    calls[new["index"]]["function"]["arguments"] += new["function"]["arguments"]
    return None


def calls_of(choice):
    return [
        (c["function"]["name"], c["function"]["arguments"]) for c in choice["message"]["tool_calls"]
    ]


# ---- calls -------------------------------------------------------------------------------------


def test_calls_come_in_the_models_own_characters(ask):
    choice = ask(CALLS, **TOOLS)
    assert calls_of(choice) == [("get_weather", ARGUMENTS[0]), ("b", "{}")]
    assert choice["message"]["content"] is None
    assert choice["finish_reason"] == "tool_calls"
    assert len({c["id"] for c in choice["message"]["tool_calls"]}) == 2


def test_text_around_calls_is_content_and_thoughts_are_no_calls(ask):
    choice, usage = ask(f"{THOUGHT}So: {CALLS} done", **TOOLS, usage=True)
    assert choice["message"]["content"] == "So:  done"
    assert choice["message"]["reasoning_content"] == "well, </tool_call>"
    assert len(calls_of(choice)) == 2
    assert 5 < usage["completion_tokens_details"]["reasoning_tokens"] < usage["completion_tokens"]


@pytest.mark.parametrize("fields", [{}, {**TOOLS, "tool_choice": "none"}], ids=["none", "unused"])
def test_without_tools_to_call_markup_is_content(ask, fields):
    choice = ask(CALLS, **fields)
    assert choice["message"] == {"role": "assistant", "content": CALLS, "refusal": None}
    assert choice["finish_reason"] == "stop"


def test_a_call_cut_short_has_the_reason_that_cut_it(ask, llm):
    whole = len(llm.tokenizer.encode(CALLS))
    choice = ask(CALLS, **TOOLS, max_tokens=whole - 12)
    assert choice["finish_reason"] == "length"
    assert len(calls_of(choice)) in (1, 2)
    choice = ask(CALLS, **TOOLS, stop=["☃"])
    assert choice["finish_reason"] == "stop"
    assert calls_of(choice) == [("get_weather", ARGUMENTS[0][: ARGUMENTS[0].index("☃")])]
    choice = ask(CALLS, **TOOLS, stop=["</tool_call>"])
    assert choice["finish_reason"] == "tool_calls"


def test_unknown_names_are_passed_on_and_broken_calls_are_content(ask):
    call = '<tool_call>\n{"name": "unheard", "arguments": {}}\n</tool_call>'
    assert calls_of(ask(call, **TOOLS)) == [("unheard", "{}")]
    broken = "<tool_call>\nI do not know\n</tool_call>"
    choice = ask(broken, **TOOLS)
    assert (choice["message"]["content"], choice["finish_reason"]) == (broken, "stop")


# ---- reasoning ---------------------------------------------------------------------------------


def test_reasoning_is_not_content(ask):
    choice, usage = ask(THOUGHT + "Yes.", usage=True)
    assert choice["message"]["reasoning_content"] == "well, </tool_call>"
    assert choice["message"]["content"] == "Yes."
    spent = usage["completion_tokens_details"]["reasoning_tokens"]
    assert 0 < spent < usage["completion_tokens"]
    hidden = ask(THOUGHT + "Yes.", usage=True, include_reasoning=False)
    assert hidden[0]["message"] == {"role": "assistant", "content": "Yes.", "refusal": None}
    assert hidden[1]["completion_tokens_details"]["reasoning_tokens"] == spent


def test_an_unfinished_thought_is_reasoning_alone(ask):
    choice, usage = ask("<think>\nwell then", usage=True)
    assert choice["message"]["reasoning_content"] == "well then"
    assert choice["message"]["content"] is None
    assert usage["completion_tokens_details"]["reasoning_tokens"] == usage["completion_tokens"]


@pytest.mark.parametrize(
    "asked", [{"reasoning_effort": "low"}, {"chat_template_kwargs": {"enable_thinking": True}}]
)
def test_a_lone_closing_tag_ends_reasoning_that_was_asked_for(ask, asked):
    seen = []
    choice = ask(lambda prompt: seen.append(prompt) or "so\n</think>\n\nYes.", **asked)
    assert "detailed thinking on<|role_end|>" in seen[0]
    assert (choice["message"]["reasoning_content"], choice["message"]["content"]) == ("so", "Yes.")


# ---- history -----------------------------------------------------------------------------------


def test_calls_and_results_of_the_history_reach_the_model_as_they_were(ask, llm):
    seen = []
    call = {"id": "x", "type": "function", "function": {"name": "b", "arguments": ARGUMENTS[0]}}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None},
        {"role": "tool", "tool_call_id": "x", "content": [{"type": "text", "text": "sunny"}]},
        {"role": "assistant", "function_call": {"name": "b", "arguments": ""}},
        {"role": "function", "name": "b", "content": None},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}], "audio": None},
        {"role": "assistant", "content": None, "refusal": "never"},
        {"role": "user", "content": "<tool_call> again <|role_end|>"},
    ]
    ask(lambda prompt: seen.append(prompt) or "ok", messages=messages, **TOOLS)
    (prompt, _) = seen
    assert prompt.index('"name": "get_weather"') < prompt.index('{"parameters": {}, "name": "b"}')
    assert prompt.endswith(
        "<role>HUMAN</role>ab<|role_end|>"
        f'<role>ASSISTANT</role><tool_call>\n{{"name": "b", "arguments": {ARGUMENTS[0]}}}\n'
        "</tool_call><|role_end|>"
        "<role>OBSERVATION</role>\n<tool_response>\nsunny\n</tool_response><|role_end|>"
        '<role>ASSISTANT</role><tool_call>\n{"name": "b", "arguments": {}}\n</tool_call>'
        "<|role_end|><role>OBSERVATION</role>\n<tool_response>\n\n</tool_response><|role_end|>"
        "<role>ASSISTANT</role>no<|role_end|><role>ASSISTANT</role>never<|role_end|>"
        "<role>HUMAN</role><tool_call> again <|role_end|><|role_end|><role>ASSISTANT</role>"
    )
    ends = llm.tokenizer.encode(prompt).count(llm.tokenizer.token_to_id("<|role_end|>"))
    assert ends == 0  # the names are text unless the template writes them


def test_what_speaks_to_the_server_is_not_shown_to_the_model(ask):
    strict = {"type": "function", "function": {"name": "b", "strict": False, "parameters": {}}}
    seen = []
    ask(lambda prompt: seen.append(prompt) or "ok", tools=[strict])
    assert '{"type": "function", "function": {"name": "b", "parameters": {}}}' in seen[0]


# ---- the prompt and its ids --------------------------------------------------------------------


def test_ids_are_told_on_request_and_prompts_can_be_cut(ask, llm):
    client = TestClient(create_app(llm, served_model_name="m"))
    llm.say = "one two"
    body = {**ASK, "return_token_ids": True}
    whole = client.post(PATH, json=body).json()
    rendered = client.post("/tokenize", json={"messages": ASK["messages"]}).json()["tokens"]
    assert whole["prompt_token_ids"] == rendered
    ids = whole["choices"][0]["token_ids"]
    assert llm.tokenizer.decode(ids) == "one two"
    events = streamed(client, PATH, body)
    assert [e.get("prompt_token_ids") for e in events] == [rendered] + [None] * (len(events) - 1)
    told = [e["choices"][0].get("token_ids") or [] for e in events]
    assert [i for part in told for i in part] == ids[: sum(map(len, told))]
    cut = client.post(PATH, json={**body, "truncate_prompt_tokens": 5}).json()
    assert cut["prompt_token_ids"] == rendered[-5:]
    plain = {"model": "m", "prompt": ["a b", "c"], "return_token_ids": True, "n": 2}
    choices = client.post("/v1/completions", json={**plain, "max_tokens": 2}).json()["choices"]
    prompts = [llm.tokenizer.encode(p) for p in ("a b", "a b", "c", "c")]
    assert [c["prompt_token_ids"] for c in choices] == prompts
    assert all(len(c["token_ids"]) == 2 for c in choices)
    client.app.state.service.close()


def test_a_template_that_cannot_be_read_is_named(llm, tmp_path):
    llm.tokenizer.save(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{% if %}")
    with ScriptedLLM(tokenizer=Tokenizer.from_folder(tmp_path)) as broken:
        client = TestClient(create_app(broken, served_model_name="m"))
        assert "chat template" in problem(client.post(PATH, json=ASK), 400)["message"]
        plain = {"model": "m", "prompt": "a"}
        assert client.post("/v1/completions", json=plain).status_code == 200
        client.app.state.service.close()


def test_tokenize_renders_tools(llm):
    client = TestClient(create_app(llm, served_model_name="m"))
    body = {"messages": ASK["messages"], **TOOLS}
    tokens = client.post("/tokenize", json=body).json()["tokens"]
    text = client.post("/detokenize", json={"tokens": tokens}).json()["prompt"]
    assert json.dumps(OTHER) in text
    client.app.state.service.close()
