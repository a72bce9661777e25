"""langchain-openai on a scripted model."""

from __future__ import annotations

import pytest
from weather_talk import (
    CITY_ANSWER,
    PARIS_IN_NUMBERS,
    SUNNY,
    TEXT,
    City,
    call,
    one_city,
    two_cities,
    weather_of,
)

langchain = pytest.importorskip("langchain_openai")
tools = pytest.importorskip("langchain_core.tools")
openai = pytest.importorskip("openai")
pytestmark = pytest.mark.clients


@tools.tool
def get_weather(city: str) -> str:
    """Weather of a city."""
    return weather_of(city)


@pytest.fixture(scope="module", params=[False, True], ids=["chat", "responses"])
def chat(url, request):
    return langchain.ChatOpenAI(
        base_url=url,
        api_key="none",
        model="scripted",
        max_retries=0,
        use_responses_api=request.param,
    )


def test_texts_streams_and_batches(chat, llm):
    llm.say = TEXT
    assert chat.invoke("hi").text == TEXT
    assert "".join(chunk.text for chunk in chat.stream("hi")) == TEXT
    assert [m.text for m in chat.batch(["hi", "ho"])] == [TEXT, TEXT]
    assert chat.invoke("hi").usage_metadata["output_tokens"] > 0


@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("say", [one_city, two_cities])
def test_a_loop_of_two_turns(chat, llm, say, is_streamed):
    llm.say = say
    bound = chat.bind_tools([get_weather])
    history = [("user", "Weather?")]
    if is_streamed:
        message = None
        for chunk in bound.stream(history):
            message = chunk if message is None else message + chunk
    else:
        message = bound.invoke(history)
    expected = ["Paris"] if say is one_city else ["Paris", "Rome"]
    assert [c["args"]["city"] for c in message.tool_calls] == expected
    history += [message, *(get_weather.invoke(made) for made in message.tool_calls)]
    assert bound.invoke(history).text == SUNNY


def test_a_call_can_be_demanded(chat, llm):
    llm.say = "I will not."
    for choice in ("get_weather", "required"):
        bound = chat.bind_tools([get_weather], tool_choice=choice)
        made = bound.invoke("hi", max_tokens=200).tool_calls[0]
        assert made["name"] == "get_weather"
        assert "city" in made["args"]


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
def test_typed_answers(chat, llm, method):
    called = call("City", name="Paris", people=2)
    llm.say = called if method == "function_calling" else CITY_ANSWER
    assert chat.with_structured_output(City, method=method).invoke("hi") == PARIS_IN_NUMBERS


def test_errors_reach_the_caller(chat, llm):
    with pytest.raises(openai.BadRequestError, match="temperature"):
        chat.invoke("hi", temperature=9)


def test_plain_completions(url, llm):
    llm.say = TEXT
    plain = langchain.OpenAI(base_url=url, api_key="none", model="scripted", max_retries=0)
    assert plain.invoke("hi") == TEXT
    assert "".join(plain.stream("hi")) == TEXT
