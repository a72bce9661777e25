"""Shared test helpers."""

from __future__ import annotations

import os

# Kernels for GPUs run in Triton's interpreter, which must be asked for before anything imports it.
os.environ.setdefault("TRITON_INTERPRET", "1")

from pathlib import Path

import pytest
import torch

FIXTURES = Path(__file__).parent / "fixtures"

pytest_plugins = ["checkpoints", "packaged_models"]
"""Fixtures of tests/helpers, which several rooms use."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="write tests/golden again where it differs"
    )


@pytest.fixture(autouse=True)
def _two_threads():
    torch.set_num_threads(2)
    torch.manual_seed(0)


@pytest.fixture
def one_thread(_two_threads):
    """A tiny model gains nothing from a second thread and loses much on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture
def fixtures() -> Path:
    return FIXTURES
