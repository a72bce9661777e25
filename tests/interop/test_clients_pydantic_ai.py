"""pydantic-ai over chat and Responses, on a scripted model."""

from __future__ import annotations

import asyncio

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

pydantic_ai = pytest.importorskip("pydantic_ai")
pytestmark = pytest.mark.clients


@pytest.fixture(params=["chat", "responses"])
def model(url, request):
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
    from pydantic_ai.providers.openai import OpenAIProvider

    kind = {"chat": OpenAIChatModel, "responses": OpenAIResponsesModel}[request.param]
    return kind("scripted", provider=OpenAIProvider(base_url=url, api_key="none"))


def run(agent, text="Weather?"):
    return asyncio.run(agent.run(text)).output


def run_streamed(agent, text="Weather?"):
    async def all_of_it():
        async with agent.run_stream(text) as running:
            return await running.get_output()

    return asyncio.run(all_of_it())


@pytest.mark.parametrize("run", [run, run_streamed])
def test_texts(model, llm, run):
    llm.say = TEXT
    assert run(pydantic_ai.Agent(model)) == TEXT


@pytest.mark.parametrize("say", [one_city, two_cities])
def test_an_agent_uses_its_tool(model, llm, say):
    llm.say = say
    agent = pydantic_ai.Agent(model, instructions="help")

    @agent.tool_plain
    def get_weather(city: str) -> str:
        """Weather of a city."""
        return weather_of(city)

    assert run(agent) == SUNNY


@pytest.mark.parametrize("run", [run, run_streamed])
def test_typed_answers_as_a_tool(model, llm, run):
    llm.say = call("final_result", name="Paris", people=2)
    assert run(pydantic_ai.Agent(model, output_type=City)) == PARIS_IN_NUMBERS


def test_typed_answers_by_schema(model, llm):
    llm.say = CITY_ANSWER
    agent = pydantic_ai.Agent(model, output_type=pydantic_ai.NativeOutput(City))
    assert run(agent) == PARIS_IN_NUMBERS


def test_a_typed_answer_is_forced_where_the_model_would_only_talk(model, llm):
    """An agent with an output type demands a call of some tool."""
    llm.say = TEXT
    agent = pydantic_ai.Agent(model, output_type=City, model_settings={"max_tokens": 300})
    assert isinstance(run(agent), City)


def test_errors_reach_the_caller(model, llm):
    agent = pydantic_ai.Agent(model, model_settings={"top_p": 9})
    with pytest.raises(pydantic_ai.ModelHTTPError, match="top_p"):
        run(agent)
