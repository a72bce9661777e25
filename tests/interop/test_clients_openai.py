"""`/v1/chat/completions` and `/v1/completions` with OpenAI's own client, on a scripted model."""

from __future__ import annotations

import asyncio
import json

import pytest
from weather_talk import (
    CITY_ANSWER,
    PARIS,
    PARIS_IN_NUMBERS,
    ROME,
    SUNNY,
    TEXT,
    City,
    function,
    one_city,
    two_cities,
    weather_of,
)

openai = pytest.importorskip("openai")
pytestmark = pytest.mark.clients

WEATHER = function("get_weather")
TIME = function("get_time", {"type": "object", "properties": {}, "additionalProperties": False})


@pytest.fixture(scope="module")
def client(url):
    return openai.OpenAI(base_url=url, api_key="none", max_retries=0)


def ask(client, messages="hi", **fields):
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    return client.chat.completions.create(model="scripted", messages=messages, **fields)


def calls_of(message):
    return [(c.function.name, json.loads(c.function.arguments)) for c in message.tool_calls]


def test_models_and_texts(client, llm):
    llm.say = TEXT
    assert [m.id for m in client.models.list()] == ["scripted"]
    assert client.models.retrieve("scripted").id == "scripted"
    assert ask(client).choices[0].message.content == TEXT
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    history = [{"role": "developer", "content": "be short"}, {"role": "user", "content": parts}]
    assert ask(client, history).choices[0].message.content == TEXT
    plain = client.completions.create(model="scripted", prompt=["hi", "ho"], max_tokens=100)
    assert [c.text for c in plain.choices] == [TEXT, TEXT]


def test_streams_and_their_usage(client, llm):
    llm.say = TEXT
    whole = ask(client, n=2)
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}, n=2))
    for i in range(2):
        choices = [c for chunk in chunks for c in chunk.choices if c.index == i]
        assert "".join(c.delta.content or "" for c in choices) == TEXT
        assert choices[-1].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert whole.usage.prompt_tokens_details.cached_tokens >= 0
    with client.chat.completions.stream(
        model="scripted", messages=[{"role": "user", "content": "hi"}]
    ) as stream:
        assert stream.get_final_completion().choices[0].message.content == TEXT


def test_logprobs_bias_stops_and_a_limit(client, llm):
    llm.say = "one two three"
    marks = ask(client, logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert "".join(m.token for m in marks).startswith("one two three")
    assert ask(client, stop=["two"]).choices[0].message.content == "one "
    assert ask(client, max_completion_tokens=1).choices[0].finish_reason == "length"
    first = llm.tokenizer.encode("one")[0]
    without = ask(client, logit_bias={str(first): -100}, max_tokens=5).choices[0].message
    assert not (without.content or "").startswith(llm.tokenizer.decode([first]))
    echoed = client.completions.create(
        model="scripted", prompt="hi", max_tokens=1, echo=True, logprobs=1
    ).choices[0]
    assert echoed.text.startswith("hi")
    assert echoed.logprobs.token_logprobs[0] is None


def test_parallel_tools_whole_and_streamed(client, llm):
    llm.say = f"I look.\n{PARIS}\n{ROME}"
    (choice,) = ask(client, tools=[WEATHER]).choices
    both = [("get_weather", {"city": "Paris"}), ("get_weather", {"city": "Rome"})]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "I look.")
    assert calls_of(choice.message) == both
    with client.chat.completions.stream(
        model="scripted", messages=[{"role": "user", "content": "hi"}], tools=[WEATHER]
    ) as stream:
        (streamed,) = stream.get_final_completion().choices
    assert calls_of(streamed.message) == both
    assert (streamed.finish_reason, streamed.message.content) == ("tool_calls", "I look.")
    (single,) = ask(client, tools=[WEATHER], parallel_tool_calls=False).choices
    assert len(single.message.tool_calls) == 1


@pytest.mark.parametrize("say", [one_city, two_cities])
def test_a_loop_of_two_turns(client, llm, say):
    llm.say = say
    history = [{"role": "user", "content": "Weather?"}]
    message = ask(client, history, tools=[WEATHER]).choices[0].message
    history.append(message)
    for made, (_, arguments) in zip(message.tool_calls, calls_of(message), strict=True):
        told = weather_of(**arguments)
        history.append({"role": "tool", "tool_call_id": made.id, "content": told})
    assert ask(client, history, tools=[WEATHER]).choices[0].message.content == SUNNY


def test_a_call_can_be_demanded_or_forbidden(client, llm):
    llm.say = PARIS  # the grammar bends it
    named = {"type": "function", "function": {"name": "get_time"}}
    (choice,) = ask(client, tools=[WEATHER, TIME], tool_choice=named).choices
    assert calls_of(choice.message) == [("get_time", {})]
    assert choice.finish_reason == "stop"
    (choice,) = ask(client, tools=[WEATHER, TIME], tool_choice="required").choices
    assert calls_of(choice.message) == [("get_weather", {"city": "Paris"})]
    assert choice.finish_reason == "tool_calls"
    (choice,) = ask(client, tools=[WEATHER], tool_choice="none").choices
    assert (choice.message.tool_calls, choice.message.content) == (None, PARIS)


def test_typed_answers_and_strict_tools(client, llm):
    llm.say = CITY_ANSWER
    asked = {"model": "scripted", "messages": [{"role": "user", "content": "hi"}]}
    parsed = client.chat.completions.parse(**asked, response_format=City).choices[0].message
    assert parsed.parsed == PARIS_IN_NUMBERS
    with client.chat.completions.stream(**asked, response_format=City) as stream:
        final = stream.get_final_completion().choices[0].message
    assert final.parsed == PARIS_IN_NUMBERS
    anything = ask(client, response_format={"type": "json_object"}).choices[0].message
    assert json.loads(anything.content) == json.loads(CITY_ANSWER)
    llm.say = '<tool_call>\n{"name": "City", "arguments": ' + CITY_ANSWER + "}\n</tool_call>"
    tools = [openai.pydantic_function_tool(City)]
    (made,) = client.chat.completions.parse(**asked, tools=tools).choices[0].message.tool_calls
    assert made.function.parsed_arguments == PARIS_IN_NUMBERS
    one_of = {"structured_outputs": {"choice": ["yes", "no"]}}
    assert ask(client, extra_body=one_of).choices[0].message.content in ("yes", "no")


def test_reasoning_has_a_field_of_its_own(client, llm):
    llm.say = "<think>\nhm\n</think>\n\nso"
    reply = ask(client, reasoning_effort="low")
    message = reply.choices[0].message
    assert (message.content, message.reasoning_content.strip()) == ("so", "hm")
    assert reply.usage.completion_tokens_details.reasoning_tokens > 0


def test_errors_have_types_and_name_the_field(client, llm):
    llm.say = TEXT
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="other", messages=[{"role": "user", "content": "a"}])
    with pytest.raises(openai.BadRequestError) as bad:
        ask(client, temperature=9)
    assert bad.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as long:
        ask(client, "hi " * 20_000)
    assert long.value.code == "context_length_exceeded"
    image = [{"type": "image_url", "image_url": {"url": "http://x/y.png"}}]
    with pytest.raises(openai.BadRequestError, match="image_url"):
        ask(client, [{"role": "user", "content": image}])
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="scripted", input="hi")


def test_many_at_once_from_the_async_client(url, llm):
    llm.say = TEXT

    async def all_of_them():
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
            one = {"model": "scripted", "messages": [{"role": "user", "content": "hi"}]}
            return await asyncio.gather(*(client.chat.completions.create(**one) for _ in range(16)))

    replies = asyncio.run(all_of_them())
    assert {r.choices[0].message.content for r in replies} == {TEXT}
