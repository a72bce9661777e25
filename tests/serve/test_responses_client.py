"""`/v1/responses` with OpenAI's own client, on a model that says what it is told."""

from __future__ import annotations

import json

import openai
import pytest
from app_server import served
from pydantic import BaseModel
from scripted import ScriptedLLM

CALL = '<tool_call>\n{{"name": "{}", "arguments": {}}}\n</tool_call>'
PARIS, ROME = (CALL.format("get_weather", json.dumps({"city": c})) for c in ("Paris", "Rome"))
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "Weather of a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}


class City(BaseModel):
    """A typed answer."""

    name: str
    people: int


@pytest.fixture(scope="module")
def llm():
    with ScriptedLLM(num_drafts=3) as llm:
        yield llm


@pytest.fixture(scope="module")
def url(llm):
    with served(llm) as url:
        yield f"{url}/v1"


@pytest.fixture(scope="module")
def client(url):
    return openai.OpenAI(base_url=url, api_key="none", max_retries=0)


def ask(client, text="hi", **fields):
    return client.responses.create(model="scripted", input=text, **fields)


def test_text_whole_and_streamed(client, llm):
    llm.say = "Grüße, 世界 ☃!"
    response = ask(client)
    assert (response.output_text, response.status) == (llm.say, "completed")
    with client.responses.stream(model="scripted", input="hi") as stream:
        deltas = [e.delta for e in stream if e.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(deltas) == final.output_text == llm.say
    assert final.usage.output_tokens == response.usage.output_tokens


def test_parallel_tools_whole_and_streamed(client, llm):
    llm.say = f"I look.\n{PARIS}\n{ROME}"
    response = ask(client, tools=[WEATHER])
    message, first, second = response.output
    assert message.content[0].text == "I look."
    assert [json.loads(c.arguments) for c in (first, second)] == [
        {"city": "Paris"},
        {"city": "Rome"},
    ]
    stream = {"model": "scripted", "input": "hi", "tools": [WEATHER]}
    with client.responses.stream(**stream) as events:
        final = events.get_final_response()
    assert [(i.type, getattr(i, "arguments", None)) for i in final.output] == [
        (i.type, getattr(i, "arguments", None)) for i in response.output
    ]


def test_a_loop_of_two_turns(client, llm):
    llm.say = lambda prompt: "It is sunny." if "sunny" in prompt else PARIS
    history = [{"role": "user", "content": "Weather in Paris?"}]
    first = ask(client, history, tools=[WEATHER])
    history += first.output
    call_id = first.output[-1].call_id
    history.append({"type": "function_call_output", "call_id": call_id, "output": "sunny"})
    assert ask(client, history, tools=[WEATHER]).output_text == "It is sunny."


def test_a_call_can_be_demanded(client, llm):
    nothing = {"type": "object", "properties": {}, "additionalProperties": False}
    time = {"type": "function", "name": "get_time", "parameters": nothing}
    llm.say = PARIS  # the grammar bends it
    choice = {"type": "function", "name": "get_time"}
    (call,) = ask(client, tools=[WEATHER, time], tool_choice=choice).output
    assert (call.name, json.loads(call.arguments)) == ("get_time", {})
    (call,) = ask(client, tools=[WEATHER, time], tool_choice="required").output
    assert call.name == "get_weather"


def test_reasoning_whole_streamed_and_given_back(client, llm):
    llm.say = "<think>\nhm, hm\n</think>\n\nso"
    response = ask(client, reasoning={"effort": "low"})
    assert [i.type for i in response.output] == ["reasoning", "message"]
    assert "hm, hm" in response.output[0].content[0].text
    assert response.output_text == "so"
    assert response.usage.output_tokens_details.reasoning_tokens > 0
    with client.responses.stream(model="scripted", input="hi", reasoning={"effort": "low"}) as s:
        final = s.get_final_response()
    assert final.output[0].content == response.output[0].content
    history = [{"role": "user", "content": "hi"}, *response.output]
    assert ask(client, [*history, {"role": "user", "content": "b"}]).status == "completed"


def test_a_typed_answer(client, llm):
    llm.say = '{"name": "Paris", "people": 2}'
    parsed = client.responses.parse(model="scripted", input="hi", text_format=City)
    assert parsed.output_parsed == City(name="Paris", people=2)
    with client.responses.stream(model="scripted", input="hi", text_format=City) as stream:
        assert stream.get_final_response().output_parsed == City(name="Paris", people=2)


def test_errors_name_what_is_wrong(client, llm):
    with pytest.raises(openai.BadRequestError) as bad:
        ask(client, previous_response_id="resp_1")
    assert bad.value.param == "previous_response_id"
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve("resp_1")
    with pytest.raises(openai.BadRequestError, match="web_search"):
        ask(client, tools=[{"type": "web_search"}])
