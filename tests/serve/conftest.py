"""A client of an app on the stand-in model."""

import pytest
from fake_llm import NAME, FakeLLM
from fastapi.testclient import TestClient

from ling.serve.app import create_app


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    """All of them."""


@pytest.fixture
def llm() -> FakeLLM:
    return FakeLLM()


@pytest.fixture
def client(llm):
    with TestClient(create_app(llm, served_model_name=NAME)) as client:
        yield client
    client.app.state.service.close()
