"""The decode kernels compile for Hopper, where no GPU is needed for that. Triton's interpreter
would accept code that the compiler does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed: pip install triton")

HELPER = Path(__file__).parents[2] / "helpers" / "compile_decode.py"


def test_kernels_have_the_instructions_they_are_written_for(tmp_path):
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    env |= {"TRITON_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(HELPER)], env=env, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    compiled = json.loads(done.stdout)
    assert compiled["part"]["mma"] > 0
    for name in ("part", "plain", "fp8"):
        assert compiled[name]["ld.global.v4"] > 0, name
    for name, facts in compiled.items():
        assert facts["shared"] <= 227 << 10, name
    assert compiled["fp8"]["cvt.rn.f16x2.e4m3x2"] > 0
