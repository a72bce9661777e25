"""schemathesis makes requests of the published schema, and wrong ones: all its default checks.

`SCHEMATHESIS_EXAMPLES` requests an operation (200), the same ones in every run.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from app_server import served
from random_llm import random_llm

pytest.importorskip("schemathesis")
pytestmark = pytest.mark.clients

NAME = "tiny"
EXAMPLES = os.environ.get("SCHEMATHESIS_EXAMPLES", "200")
OPTIONS = ["--seed", "1", "--max-examples", EXAMPLES, "--generation-database", "none"]
OPTIONS += ["--no-color", "--request-timeout", "60", "--continue-on-failure"]
RUN = "from schemathesis.cli import schemathesis; schemathesis()"
"""A program of the environment's Python, wherever its scripts are."""


def test_nothing_is_found(tmp_path):
    with random_llm(context=192) as llm, served(llm, NAME) as url:
        done = subprocess.run(
            [sys.executable, "-c", RUN, "run", f"{url}/openapi.json", *OPTIONS],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stdout + done.stderr
