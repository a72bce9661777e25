"""smolagents on a scripted model: agents that call tools, and agents that write code."""

from __future__ import annotations

import pytest
from weather_talk import CITY_ANSWER, SUNNY, TEXT, City, call, weather_of

smolagents = pytest.importorskip("smolagents")
openai = pytest.importorskip("openai")
pytestmark = pytest.mark.clients

PARIS = call("get_weather", city="Paris")
HI = [{"role": "user", "content": "hi"}]


@smolagents.tool
def get_weather(city: str) -> str:
    """Weather of a city.

    Args:
        city: Its name.
    """
    return weather_of(city)


@pytest.fixture(scope="module")
def model(url):
    return smolagents.OpenAIModel(
        model_id="scripted", api_base=url, api_key="none", client_kwargs={"max_retries": 0}
    )


def test_texts_and_streams(model, llm):
    llm.say = TEXT
    assert model.generate(HI).content == TEXT
    assert "".join(d.content or "" for d in model.generate_stream(HI)) == TEXT


def final_after_weather(first):
    """A function from the prompt: `first`, then the answer as smolagents wants it."""

    def say(prompt):
        told = "sunny in Paris" in prompt
        return call("final_answer", answer=SUNNY) if told else first

    return say


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("first", [PARIS, f"{PARIS}\n{call('get_weather', city='Rome')}"])
def test_an_agent_that_calls_tools(model, llm, first, stream):
    llm.say = final_after_weather(first)
    agent = smolagents.ToolCallingAgent(
        [get_weather], model, max_steps=3, verbosity_level=0, stream_outputs=stream
    )
    assert agent.run("Weather?") == SUNNY


def test_its_first_call_is_forced(model, llm):
    """These agents ask with `tool_choice: "required"`: talk becomes a call, by grammar."""
    llm.say = "I will not."
    message = model.generate(HI, tools_to_call_from=[get_weather], max_tokens=200)
    made, *_ = message.tool_calls  # several may be made
    assert made.function.name == "get_weather"


def test_an_agent_that_writes_code(model, llm):
    code = 'Thought: look.\n<code>\nfinal_answer(get_weather("Paris"))\n</code>'
    llm.say = code
    agent = smolagents.CodeAgent([get_weather], model, max_steps=2, verbosity_level=0)
    assert agent.run("Weather?") == "sunny in Paris"


def test_a_typed_answer(model, llm):
    llm.say = CITY_ANSWER
    schema = {"name": "City", "schema": City.model_json_schema(), "strict": True}
    wanted = {"type": "json_schema", "json_schema": schema}
    message = model.generate(HI, response_format=wanted)
    assert City.model_validate_json(message.content).name == "Paris"


def test_errors_reach_the_caller(model, llm):
    with pytest.raises(openai.BadRequestError, match="temperature"):
        model.generate(HI, temperature=9)
