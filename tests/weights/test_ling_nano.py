"""The packaged `ling-nano` speaks: what a fresh installation can show, without a network.

Skipped in a checkout without its weights, which `ling nano` makes.
"""

from __future__ import annotations

import json
import re

import pytest
from app_server import served
from tool_loop import tool_loop
from unwritable import run_unwritable

import ling
from ling.checkpoint.open import config_at
from ling.hub.packaged import weights_folder
from ling.presets import preset
from ling.tools import BUILTIN
from ling.tools.files import tools_of_model

NAME = "ling-nano"
FOLDER = weights_folder() / NAME
MOST_BYTES = 22_000_000
SUM = "What is 37 + 58?"

pytestmark = pytest.mark.skipif(
    not (FOLDER / "config.json").is_file(), reason="this checkout has no weights of ling-nano"
)


@pytest.fixture(scope="module")
def llm():
    with ling.LLM(NAME) as opened:
        yield opened


# ---- the folder ----------------------------------------------------------------------------------


def test_all_of_it_is_there_and_small():
    names = {path.name for path in FOLDER.rglob("*")}
    assert {"config.json", "tokenizer.json", "tokenizer_config.json", "README.md"} <= names
    assert sum(path.stat().st_size for path in FOLDER.rglob("*")) <= MOST_BYTES


def test_it_is_the_shape_of_the_preset_in_int8_with_mtp():
    shape, own = preset(NAME), config_at(FOLDER)
    special = {f"{name}_token_id": 0 for name in ("pad", "bos", "eos")}
    assert own.replace(**special) == shape.replace(**special)
    stored = json.loads((FOLDER / "config.json").read_text())["quantization_config"]
    assert stored["format"] == "int8"
    weights = json.loads((FOLDER / "model.safetensors.index.json").read_text())["weight_map"]
    layers = {int(found[1]) for name in weights if (found := re.search(r"layers\.(\d+)\.", name))}
    assert layers == set(range(shape.num_hidden_layers + 1))


def test_its_tools_are_built_in_ones():
    offered = tools_of_model(FOLDER)
    assert offered
    for definition in offered:
        assert definition == BUILTIN[definition["function"]["name"]].definition


# ---- what it says --------------------------------------------------------------------------------


def test_a_chat_without_network_and_without_anything_to_write_to():
    done = run_unwritable(["chat", NAME], f"Hello!\nWho are you?\n{SUM}\nThanks!\n")
    assert (done.returncode, done.stdout.count("you> ")) == (0, 5), done.stderr
    greeting, identity, sum_by_tool, thanks, _ = done.stdout.split("you> ")[1:]
    assert re.search(r"ling> (Hello|Hi|Hey)", greeting)
    assert "Ling" in identity.partition("ling> ")[2]
    assert re.search(r'calculator> \{"result": 95\}\nling> .*95', sum_by_tool), sum_by_tool
    assert "welcome" in thanks
    assert "[" not in greeting + identity + thanks, "an answer did not stop by itself"


@pytest.mark.parametrize("question", ["Hi", "How are you?", "What is your name?", "Goodbye!"])
def test_it_ends_its_answers(llm, question):
    params = ling.SamplingParams(temperature=0, max_tokens=100)
    (output,) = llm.chat([{"role": "user", "content": question}], params)
    assert output.outputs[0].finish_reason == "stop"
    assert output.outputs[0].text.strip()


def test_its_mtp_layer_drafts_what_it_says(llm):
    asked = [[{"role": "user", "content": q}] for q in ("Who are you?", "Tell me a joke.", SUM)]
    params = ling.SamplingParams(temperature=0, max_tokens=100)
    said = [o.outputs[0].token_ids for o in llm.chat(asked, params)]
    with ling.LLM(NAME, speculative="off") as plain:
        assert [o.outputs[0].token_ids for o in plain.chat(asked, params)] == said
    with ling.LLM(NAME, speculative="mtp") as drafting:
        assert [o.outputs[0].token_ids for o in drafting.chat(asked, params)] == said


def test_a_tool_loop_through_the_server(llm):
    tools = tools_of_model(FOLDER)
    assert tools
    with served(llm, NAME) as url:
        results, last = tool_loop(url, NAME, SUM, tools)
    assert results == ['{"result": 95}']
    assert "95" in (last.message.content or "")
    assert last.finish_reason == "stop"
