"""instructor's ways to typed answers, on a scripted model."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pytest
from weather_talk import CITY_ANSWER, PARIS_IN_NUMBERS, TEXT, City, call

instructor = pytest.importorskip("instructor")
openai = pytest.importorskip("openai")
pytestmark = pytest.mark.clients

HI = [{"role": "user", "content": "hi"}]


def called(prompt: str) -> str:
    """A call of the tool that instructor has made of the model."""
    return call(re.search(r'"name": ?"(\w*City)"', prompt)[1], name="Paris", people=2)


CALLED = call("City", name="Paris", people=2)
SAID = {
    "TOOLS": called,
    "TOOLS_STRICT": called,
    "JSON": CITY_ANSWER,
    "JSON_SCHEMA": CITY_ANSWER,
    "MD_JSON": f"```json\n{CITY_ANSWER}\n```",
    "RESPONSES_TOOLS": called,
}


def made(url, mode):
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
    return instructor.from_openai(client, mode=instructor.Mode[mode])


@pytest.mark.parametrize("mode", SAID)
def test_typed_answers(url, llm, mode):
    llm.say = SAID[mode]
    city = made(url, mode).create(model="scripted", response_model=City, messages=HI, max_retries=1)
    assert city.model_dump() == PARIS_IN_NUMBERS.model_dump()


@pytest.mark.parametrize("mode", ["TOOLS", "JSON", "JSON_SCHEMA"])
def test_partial_answers_as_they_come(url, llm, mode):
    llm.say = SAID[mode]
    parts = list(made(url, mode).create_partial(model="scripted", response_model=City, messages=HI))
    last = parts[-1]
    assert (last.name, last.people) == ("Paris", 2)


def test_parallel_tools(url, llm):
    llm.say = f"{CALLED}\n{call('City', name='Rome', people=3)}"
    client = made(url, "PARALLEL_TOOLS")
    cities = list(client.create(model="scripted", response_model=Iterable[City], messages=HI))
    assert [c.name for c in cities] == ["Paris", "Rome"]


def test_a_wrong_answer_is_asked_again(url, llm):
    """A loop of two turns: the second has the first call, and what was wrong, in its history."""
    wrong = call("Old", name="Paris", people=2)

    class Old(City):
        """A city whose people are checked by the client alone."""

        def model_post_init(self, _):
            if self.people < 3:
                raise ValueError("too few people")

    llm.say = lambda prompt: call("Old", name="Rome", people=3) if "too few" in prompt else wrong
    city = made(url, "TOOLS").create(
        model="scripted", response_model=Old, messages=HI, max_retries=2
    )
    assert city.name == "Rome"


def test_a_call_is_forced_where_the_model_would_only_talk(url, llm):
    llm.say = TEXT
    city = made(url, "TOOLS").create(
        model="scripted", response_model=City, messages=HI, max_retries=1, max_tokens=200
    )
    assert isinstance(city, City)


def test_errors_reach_the_caller(url, llm):
    with pytest.raises(Exception, match="temperature"):
        made(url, "TOOLS").create(
            model="scripted", response_model=City, messages=HI, max_retries=1, temperature=9
        )
