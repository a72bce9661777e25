"""What the scripted model says to clients that ask for the weather, and the tools they offer."""

from __future__ import annotations

import json

from pydantic import BaseModel, ConfigDict

TEXT = "Grüße, 世界 ☃!"
SUNNY = "It is sunny."
CITY_ANSWER = '{"name": "Paris", "people": 2}'
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}


class City(BaseModel):
    """A typed answer."""

    model_config = ConfigDict(extra="forbid")
    name: str
    people: int


PARIS_IN_NUMBERS = City(name="Paris", people=2)


def call(tool: str, /, **arguments: object) -> str:
    """A tool call as the model writes it."""
    body = f'{{"name": "{tool}", "arguments": {json.dumps(arguments)}}}'
    return f"<tool_call>\n{body}\n</tool_call>"


PARIS, ROME = (call("get_weather", city=city) for city in ("Paris", "Rome"))


def function(name: str, parameters: dict = PARAMETERS) -> dict:
    """A tool as `/v1/chat/completions` has it."""
    described = {"name": name, "description": "Of a city", "parameters": parameters}
    return {"type": "function", "function": described}


def one_city(prompt: str) -> str:
    """Ask the tool for Paris, and answer when its result is there."""
    return SUNNY if "sunny in Paris" in prompt else PARIS


def two_cities(prompt: str) -> str:
    """The same with two calls at once."""
    both_told = "sunny in Paris" in prompt and "sunny in Rome" in prompt
    return SUNNY if both_told else f"I look.\n{PARIS}\n{ROME}"


def weather_of(city: str) -> str:
    """The tool."""
    return f"sunny in {city}"
