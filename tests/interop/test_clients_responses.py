"""`/v1/responses` with OpenAI's agents, on a model that says what it is told."""

from __future__ import annotations

import asyncio
import json

import openai
import pytest
from app_server import served
from pydantic import BaseModel
from scripted import ScriptedLLM

agents = pytest.importorskip("agents")

CALL = '<tool_call>\n{{"name": "{}", "arguments": {}}}\n</tool_call>'
PARIS = CALL.format("get_weather", json.dumps({"city": "Paris"}))


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


@pytest.fixture
def model(url):
    agents.set_tracing_disabled(True)
    client = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0)
    return agents.OpenAIResponsesModel(model="scripted", openai_client=client)


@agents.function_tool
def get_weather(city: str) -> str:
    """Weather of a city.

    Args:
        city: Its name.
    """
    return f"sunny in {city}"


def test_an_agent_uses_its_tool(model, llm):
    llm.say = lambda prompt: "It is sunny." if "sunny in Paris" in prompt else PARIS
    agent = agents.Agent(name="a", instructions="help", model=model, tools=[get_weather])

    async def both() -> list[str]:
        whole = await agents.Runner.run(agent, "Weather in Paris?")
        running = agents.Runner.run_streamed(agent, "Weather in Paris?")
        kinds = {event.type async for event in running.stream_events()}
        assert {"raw_response_event", "run_item_stream_event"} <= kinds
        return [whole.final_output, running.final_output]

    assert asyncio.run(both()) == ["It is sunny."] * 2


def test_an_agent_gives_typed_answers(model, llm):
    llm.say = '{"name": "Paris", "people": 2}'
    agent = agents.Agent(name="a", model=model, output_type=City)
    result = asyncio.run(agents.Runner.run(agent, "Which city?"))
    assert result.final_output == City(name="Paris", people=2)


def test_an_agent_reasons_and_hands_over(model, llm):
    def say(prompt: str) -> str:
        if "be the second" in prompt:
            return "<think>\nmy turn\n</think>\n\nHere I am."
        return CALL.format("transfer_to_second", "{}")

    llm.say = say
    second = agents.Agent(name="second", instructions="be the second", model=model)
    first = agents.Agent(name="first", model=model, handoffs=[second])
    result = asyncio.run(agents.Runner.run(first, "hi"))
    assert (result.last_agent.name, result.final_output) == ("second", "Here I am.")
    assert result.to_input_list()
