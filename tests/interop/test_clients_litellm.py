"""litellm on a scripted model: as an OpenAI server and as vLLM's, and its bridges to other APIs."""

from __future__ import annotations

import json
import os

import pytest
from weather_talk import (
    CITY_ANSWER,
    PARIS,
    PARIS_IN_NUMBERS,
    SUNNY,
    TEXT,
    City,
    function,
    one_city,
    two_cities,
    weather_of,
)

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it asks GitHub for prices
litellm = pytest.importorskip("litellm")
pytestmark = pytest.mark.clients

WEATHER = function("get_weather")
HI = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module", params=["openai", "hosted_vllm"])
def provider(request):
    return request.param


@pytest.fixture
def ask(url, provider):
    def completion(messages=HI, **fields):
        return litellm.completion(
            model=f"{provider}/scripted",
            api_base=url,
            api_key="none",
            messages=messages,
            num_retries=0,
            max_retries=0,
            **fields,
        )

    return completion


def test_texts_and_streams(ask, llm):
    llm.say = TEXT
    assert ask().choices[0].message.content == TEXT
    parts = [chunk.choices[0].delta.content or "" for chunk in ask(stream=True)]
    assert "".join(parts) == TEXT


@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("say", [one_city, two_cities])
def test_a_loop_of_two_turns(ask, llm, say, is_streamed):
    llm.say = say
    reply = ask(tools=[WEATHER], stream=is_streamed)
    if is_streamed:
        reply = litellm.stream_chunk_builder(list(reply))
    (choice,) = reply.choices
    assert choice.finish_reason == "tool_calls"
    history = [*HI, choice.message.model_dump()]
    for made in choice.message.tool_calls:
        told = weather_of(**json.loads(made.function.arguments))
        history.append({"role": "tool", "tool_call_id": made.id, "content": told})
    assert ask(history, tools=[WEATHER]).choices[0].message.content == SUNNY


def test_a_call_can_be_demanded(ask, llm):
    llm.say = "I will not."
    for choice in ("required", {"type": "function", "function": {"name": "get_weather"}}):
        message = ask(tools=[WEATHER], tool_choice=choice, max_tokens=200).choices[0].message
        made = message.tool_calls[0]
        assert made.function.name == "get_weather"
        assert set(json.loads(made.function.arguments)) == {"city"}


def test_typed_answers(ask, llm):
    llm.say = CITY_ANSWER
    text = ask(response_format=City).choices[0].message.content
    assert City.model_validate_json(text) == PARIS_IN_NUMBERS


def test_reasoning(ask, llm):
    llm.say = "<think>\nhm\n</think>\n\nso"
    message = ask().choices[0].message
    assert (message.content, message.reasoning_content.strip()) == ("so", "hm")


def test_errors_have_types(ask, llm):
    with pytest.raises(litellm.BadRequestError, match="temperature"):
        ask(temperature=9)
    with pytest.raises(litellm.ContextWindowExceededError):
        ask([{"role": "user", "content": "hi " * 20_000}])


def other(url):
    return {"model": "openai/scripted", "api_base": url, "api_key": "none"}


def test_plain_completions(url, llm):
    llm.say = TEXT
    assert litellm.text_completion(prompt="hi", **other(url)).choices[0].text == TEXT


def test_responses(url, llm):
    llm.say = TEXT
    response = litellm.responses(input="hi", **other(url))
    assert response.output[-1].content[0].text == TEXT
    events = list(litellm.responses(input="hi", stream=True, **other(url)))
    deltas = [e.delta for e in events if e.type == "response.output_text.delta"]
    assert "".join(deltas) == TEXT
    llm.say = PARIS
    tool = {"type": "function", **WEATHER["function"]}
    made = litellm.responses(input="hi", tools=[tool], **other(url)).output[-1]
    assert (made.type, made.name) == ("function_call", "get_weather")
