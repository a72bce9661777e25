"""openai-agents over `/v1/chat/completions`; and in `test_clients_responses.py` over that."""

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

agents = pytest.importorskip("agents")
openai = pytest.importorskip("openai")
pytestmark = pytest.mark.clients


@pytest.fixture
def model(url):
    agents.set_tracing_disabled(True)
    client = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0)
    return agents.OpenAIChatCompletionsModel(model="scripted", openai_client=client)


@agents.function_tool
def get_weather(city: str) -> str:
    """Weather of a city.

    Args:
        city: Its name.
    """
    return weather_of(city)


def run(agent, text="Weather?"):
    return asyncio.run(agents.Runner.run(agent, text))


def run_streamed(agent, text="Weather?"):
    async def all_of_it():
        running = agents.Runner.run_streamed(agent, text)
        kinds = {event.type async for event in running.stream_events()}
        assert "raw_response_event" in kinds
        return running

    return asyncio.run(all_of_it())


@pytest.mark.parametrize("run", [run, run_streamed])
def test_texts(model, llm, run):
    llm.say = TEXT
    assert run(agents.Agent(name="a", model=model)).final_output == TEXT


@pytest.mark.parametrize("run", [run, run_streamed])
@pytest.mark.parametrize("say", [one_city, two_cities])
def test_an_agent_uses_its_tool(model, llm, say, run):
    llm.say = say
    agent = agents.Agent(name="a", instructions="help", model=model, tools=[get_weather])
    assert run(agent).final_output == SUNNY


def test_a_call_can_be_demanded(model, llm):
    llm.say = lambda prompt: SUNNY if "sunny in" in prompt else "I will not."
    settings = agents.ModelSettings(tool_choice="required", max_tokens=200)
    agent = agents.Agent(name="a", model=model, tools=[get_weather], model_settings=settings)
    result = run(agent)
    assert "tool_call_item" in {item.type for item in result.new_items}
    assert result.final_output == SUNNY


@pytest.mark.parametrize("run", [run, run_streamed])
def test_typed_answers(model, llm, run):
    llm.say = CITY_ANSWER
    agent = agents.Agent(name="a", model=model, output_type=City)
    assert run(agent).final_output == PARIS_IN_NUMBERS


def test_an_agent_hands_over(model, llm):
    llm.say = lambda prompt: TEXT if "be the second" in prompt else call("transfer_to_second")
    second = agents.Agent(name="second", instructions="be the second", model=model)
    result = run(agents.Agent(name="first", model=model, handoffs=[second]))
    assert (result.last_agent.name, result.final_output) == ("second", TEXT)


def test_errors_reach_the_caller(model, llm):
    llm.say = TEXT
    settings = agents.ModelSettings(temperature=9)
    with pytest.raises(openai.BadRequestError, match="temperature"):
        run(agents.Agent(name="a", model=model, model_settings=settings))
