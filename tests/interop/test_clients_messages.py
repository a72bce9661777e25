"""`/v1/messages` with Anthropic's own client, on a model that says what it is told to."""

from __future__ import annotations

import json

import pytest
from app_server import served
from pydantic import BaseModel
from scripted import ScriptedLLM

anthropic = pytest.importorskip("anthropic")

CALL = '<tool_call>\n{{"name": "{}", "arguments": {}}}\n</tool_call>'
WEATHER = {
    "name": "get_weather",
    "description": "Weather of a city",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}
PARIS, ROME = (CALL.format("get_weather", json.dumps({"city": c})) for c in ("Paris", "Rome"))
HI = {"role": "user", "content": "hi"}


@pytest.fixture(scope="module")
def llm():
    with ScriptedLLM(num_drafts=3) as llm:
        yield llm


@pytest.fixture(scope="module")
def client(llm):
    with served(llm) as url:
        yield anthropic.Anthropic(base_url=url, api_key="none", max_retries=0)


def ask(client, messages=(HI,), **fields):
    return client.messages.create(
        model="scripted", max_tokens=200, messages=list(messages), **fields
    )


def blocks(message) -> list[dict]:
    """What the client's own additions to streamed ones leave."""
    return [{k: v for k, v in b.to_dict().items() if v is not None} for b in message.content]


def test_text_whole_and_streamed(client, llm):
    llm.say = "Grüße, 世界 ☃!"
    message = ask(client)
    assert message.content[0].text == llm.say
    assert message.stop_reason == "end_turn"
    with client.messages.stream(model="scripted", max_tokens=200, messages=[HI]) as stream:
        assert "".join(stream.text_stream) == llm.say
        final = stream.get_final_message()
    assert blocks(final) == blocks(message)
    assert final.usage.output_tokens == message.usage.output_tokens


def test_a_stop_sequence_and_a_limit(client, llm):
    llm.say = "one two three"
    message = ask(client, stop_sequences=["two"])
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "two")
    assert message.content[0].text == "one "
    message = client.messages.create(model="scripted", max_tokens=1, messages=[HI])
    assert message.stop_reason == "max_tokens"


def test_parallel_tools_whole_and_streamed(client, llm):
    llm.say = f"I look.\n{PARIS}\n{ROME}"
    message = ask(client, tools=[WEATHER])
    assert message.stop_reason == "tool_use"
    text, first, second = message.content
    assert text.text == "I look."
    assert (first.name, first.input, second.input) == (
        "get_weather",
        {"city": "Paris"},
        {"city": "Rome"},
    )
    assert first.id != second.id
    stream = {"model": "scripted", "max_tokens": 200, "messages": [HI], "tools": [WEATHER]}
    with client.messages.stream(**stream) as events:
        final = events.get_final_message()
    without_ids = [[{**b, "id": None} for b in blocks(m)] for m in (final, message)]
    assert without_ids[0] == without_ids[1]
    assert final.stop_reason == "tool_use"


def test_a_loop_of_two_turns(client, llm):
    llm.say = lambda prompt: "It is sunny." if "sunny" in prompt else PARIS
    history = [{"role": "user", "content": "Weather in Paris?"}]
    first = ask(client, history, tools=[WEATHER])
    result = {"type": "tool_result", "tool_use_id": first.content[0].id, "content": "sunny"}
    history += [
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [result]},
    ]
    assert ask(client, history, tools=[WEATHER]).content[0].text == "It is sunny."


def test_a_call_can_be_demanded(client, llm):
    time = {"name": "get_time", "input_schema": {"type": "object", "additionalProperties": False}}
    llm.say = PARIS  # the grammar bends it
    choice = {"type": "tool", "name": "get_time"}
    message = ask(client, tools=[WEATHER, time], tool_choice=choice)
    use = message.content[-1]
    assert (use.type, use.name, use.input) == ("tool_use", "get_time", {})
    assert message.stop_reason == "tool_use"
    message = ask(client, tools=[WEATHER, time], tool_choice={"type": "any"})
    assert [b.name for b in message.content] == ["get_weather"]


def test_thinking_whole_streamed_and_given_back(client, llm):
    llm.say = "<think>\nhm, hm\n</think>\n\nso"
    thinking = {"type": "enabled", "budget_tokens": 1024}
    message = client.messages.create(
        model="scripted", max_tokens=1500, messages=[HI], thinking=thinking
    )
    assert [b.type for b in message.content] == ["thinking", "text"]
    assert "hm, hm" in message.content[0].thinking
    assert message.content[1].text == "so"
    stream = {"model": "scripted", "max_tokens": 1500, "messages": [HI], "thinking": thinking}
    with client.messages.stream(**stream) as events:
        assert blocks(events.get_final_message()) == blocks(message)
    again = [HI, {"role": "assistant", "content": message.content}, HI]
    assert ask(client, again).content


def test_a_typed_answer(client, llm):
    class City(BaseModel):
        name: str
        people: int

    llm.say = '{"name": "Paris", "people": 2}'
    parsed = client.messages.parse(
        model="scripted", max_tokens=200, messages=[HI], output_format=City
    )
    assert parsed.parsed_output == City(name="Paris", people=2)


def test_counting_and_errors(client, llm):
    llm.say = "so"
    counted = client.messages.count_tokens(model="scripted", messages=[HI], tools=[WEATHER])
    usage = ask(client, tools=[WEATHER]).usage
    assert counted.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)
    with pytest.raises(anthropic.NotFoundError) as missing:
        client.messages.create(model="other", max_tokens=1, messages=[HI])
    assert missing.value.body["error"]["type"] == "not_found_error"
    image = {"type": "image", "source": {"type": "url", "url": "http://x/y.png"}}
    with pytest.raises(anthropic.BadRequestError, match="image"):
        ask(client, [{"role": "user", "content": [image]}])
