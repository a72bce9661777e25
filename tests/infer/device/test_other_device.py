"""No operation mixes devices, and a decode step waits for nothing: what a CUDA graph asks for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

HELPERS = Path(__file__).parents[2] / "helpers"


def test_an_engine_on_a_device_that_is_not_the_cpu():
    env = os.environ | {"PYTHONPATH": str(HELPERS), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(HELPERS / "device_run.py")],
        env=env,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["got"] == told["want"]
    assert told["waits"] == []
    assert told["programs"] > 2
