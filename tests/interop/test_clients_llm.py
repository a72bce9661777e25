"""The `llm` program on a scripted model, as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from weather_talk import CITY_ANSWER, SUNNY, TEXT, one_city, two_cities

pytest.importorskip("llm")
pytestmark = pytest.mark.clients

MODELS = """
- model_id: ling
  model_name: scripted
  api_base: {url}
  api_key_name: none
  supports_tools: true
  supports_schema: true
- model_id: ling-plain
  model_name: scripted
  api_base: {url}
  api_key_name: none
  completion: true
"""
TOOL = '''
def get_weather(city: str) -> str:
    """Weather of a city."""
    return f"sunny in {city}"
'''


@pytest.fixture
def program(url, tmp_path):
    (tmp_path / "extra-openai-models.yaml").write_text(MODELS.format(url=url))
    (tmp_path / "keys.json").write_text('{"none": "none"}')

    def run(*args):
        return subprocess.run(
            [sys.executable, "-m", "llm", *args],
            env={**os.environ, "LLM_USER_PATH": str(tmp_path), "PYTHONUTF8": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


def said(result):
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_texts_and_streams(program, llm):
    llm.say = TEXT
    assert said(program("-m", "ling", "--no-stream", "hi")) == TEXT
    assert said(program("-m", "ling", "hi")) == TEXT
    assert said(program("-m", "ling-plain", "--no-stream", "hi")) == TEXT


@pytest.mark.parametrize("say", [one_city, two_cities])
def test_a_tool_and_its_answer(program, llm, say):
    llm.say = say
    asked = ["-m", "ling", "--functions", TOOL, "Weather?"]
    assert said(program(*asked)).endswith(SUNNY)
    assert said(program("--no-stream", *asked)).endswith(SUNNY)


def test_a_typed_answer(program, llm):
    llm.say = CITY_ANSWER
    answer = said(program("-m", "ling", "--schema", "name str, people int", "hi"))
    assert json.loads(answer) == json.loads(CITY_ANSWER)


def test_errors_reach_the_user(program, llm):
    result = program("-m", "ling", "--no-stream", "-o", "max_tokens", "0", "hi")
    assert result.returncode != 0
    assert "max_tokens" in result.stderr
