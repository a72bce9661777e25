"""The folder that the tests of the transformers class load, and the server that clients ask."""

from __future__ import annotations

import pytest
from app_server import served
from scripted import ScriptedLLM
from tiny_ling import write_folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ling")
    write_folder(folder)
    return folder


@pytest.fixture(scope="module")
def llm():
    """A model that says `llm.say`, several tokens a step; the prompts of agents are long."""
    with ScriptedLLM(num_drafts=3, context=16000) as llm:
        yield llm


@pytest.fixture(scope="module")
def url(llm):
    """The address of its server, as clients are given it."""
    with served(llm) as url:
        yield f"{url}/v1"
