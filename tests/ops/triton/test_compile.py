"""The kernels compile for Hopper, where no GPU is needed for that, to the instructions they are
written for. Triton's interpreter would accept code that the compiler does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed: pip install triton")

HELPER = Path(__file__).parents[2] / "helpers" / "compile_triton.py"


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """By kernel, how often its machine code has an instruction, and its shared memory."""
    folder = tmp_path_factory.mktemp("triton")
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    env |= {"TRITON_CACHE_DIR": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(HELPER)], env=env, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_products_use_the_tensor_cores_of_hopper_and_copy_ahead(compiled):
    for name in ("_product", "_weight_gradient"):
        assert compiled[name]["wgmma.mma_async"] > 0, name
        assert compiled[name]["cp.async"] > 0, name
        assert compiled[name]["shared"] <= 227 << 10, name


def test_quantising_casts_by_an_instruction_and_divides_exactly(compiled):
    for name in ("_rows", "_columns", "_blocks"):
        assert compiled[name]["cvt.rn.satfinite.e4m3x2"] > 0, name
        assert compiled[name]["div.rn.f32"] > 0, name
        assert compiled[name]["div.full"] == compiled[name]["ftz"] == 0, name


def test_adamw_rounds_every_operation_by_itself(compiled):
    code = compiled["_step"]
    assert code["div.rn.f32"] > 0
    assert code["sqrt.rn.f32"] > 0
    assert code["div.full"] == code["ftz"] == code["fma.rn.f32"] == 0


def test_bytes_are_transposed_sixteen_at_a_time(compiled):
    assert compiled["_transpose"]["ld.global.v4"] > 0
    assert compiled["_transpose"]["st.global.v4"] > 0
