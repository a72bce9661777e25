"""Calls and typed answers that are demanded of a real small model with random weights, which would
never make them by itself."""

from __future__ import annotations

from typing import Literal

import pytest
from app_server import served
from pydantic import BaseModel, ConfigDict, Field
from random_llm import random_llm
from weather_talk import function

openai = pytest.importorskip("openai")
pytestmark = pytest.mark.clients

NAME = "tiny"
HI = [{"role": "user", "content": "hi"}]


class Weather(BaseModel):
    """What must be said; numbers are bounded, as a model of noise ends them by chance."""

    model_config = ConfigDict(extra="forbid")
    kind: Literal["sun", "rain"]
    degrees: int = Field(ge=-99, le=99)


SCHEMA = Weather.model_json_schema()
TOOLS = [function("get_weather", SCHEMA), function("get_time", SCHEMA)]
NAMED = {"type": "function", "function": {"name": "get_weather"}}
SAMPLING = {"temperature": 1.0, "seed": 3, "max_tokens": 600}


@pytest.fixture(scope="module")
def url():
    with random_llm(speculative="ngram") as llm, served(llm, NAME) as url:
        yield f"{url}/v1"


@pytest.fixture(scope="module")
def client(url):
    return openai.OpenAI(base_url=url, api_key="none", max_retries=0)


def ask(client, **fields):
    (choice,) = client.chat.completions.create(
        model=NAME, messages=HI, **SAMPLING, **fields
    ).choices
    return choice


@pytest.mark.parametrize("seed", range(3))
def test_a_call_by_openais_client(client, seed):
    for choice in (NAMED, "required"):
        said = ask(client, tools=TOOLS, tool_choice=choice, extra_body={"seed": seed})
        for made in said.message.tool_calls:
            assert made.function.name in ("get_weather", "get_time")
            Weather.model_validate_json(made.function.arguments)
    with client.chat.completions.stream(
        model=NAME, messages=HI, tools=TOOLS, tool_choice=NAMED, **SAMPLING
    ) as stream:
        (streamed,) = stream.get_final_completion().choices
    (whole,) = ask(client, tools=TOOLS, tool_choice=NAMED).message.tool_calls
    (made,) = streamed.message.tool_calls
    assert made.function.arguments == whole.function.arguments


def test_a_typed_answer_by_openais_client(client):
    asked = {"model": NAME, "messages": HI, **SAMPLING}
    parsed = client.chat.completions.parse(**asked, response_format=Weather).choices[0].message
    assert isinstance(parsed.parsed, Weather)
    answer = client.responses.parse(model=NAME, input="hi", text_format=Weather, temperature=1)
    assert isinstance(answer.output_parsed, Weather)
    tool = {"type": "function", **TOOLS[0]["function"]}
    (made,) = client.responses.create(
        model=NAME, input="hi", tools=[tool], tool_choice="required", parallel_tool_calls=False
    ).output
    Weather.model_validate_json(made.arguments)


def test_a_call_by_anthropics_client(url):
    anthropic = pytest.importorskip("anthropic")
    client = anthropic.Anthropic(base_url=url.removesuffix("/v1"), api_key="none", max_retries=0)
    tool = {"name": "get_weather", "input_schema": SCHEMA}
    message = client.messages.create(
        model=NAME,
        max_tokens=600,
        messages=HI,
        tools=[tool],
        tool_choice={"type": "tool", "name": "get_weather"},
    )
    (made,) = message.content
    Weather.model_validate(made.input)


def test_a_typed_answer_by_langchain(url):
    langchain = pytest.importorskip("langchain_openai")
    chat = langchain.ChatOpenAI(
        base_url=url, api_key="none", model=NAME, max_retries=0, temperature=1, max_tokens=600
    )
    for method in ("json_schema", "function_calling"):
        assert isinstance(chat.with_structured_output(Weather, method=method).invoke("hi"), Weather)


def test_a_typed_answer_by_instructor(url):
    instructor = pytest.importorskip("instructor")
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
    for mode in ("TOOLS", "JSON_SCHEMA"):
        made = instructor.from_openai(client, mode=instructor.Mode[mode]).create(
            model=NAME, response_model=Weather, messages=HI, max_retries=1, **SAMPLING
        )
        assert isinstance(made, Weather)


def test_a_typed_answer_by_pydantic_ai(url):
    pydantic_ai = pytest.importorskip("pydantic_ai")
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    model = OpenAIChatModel(NAME, provider=OpenAIProvider(base_url=url, api_key="none"))
    for wanted in (Weather, pydantic_ai.NativeOutput(Weather)):
        agent = pydantic_ai.Agent(model, output_type=wanted, model_settings={"max_tokens": 600})
        assert isinstance(agent.run_sync("hi").output, Weather)
