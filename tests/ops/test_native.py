from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ling.errors import KernelError
from ling.ops import native
from ling.ops.doctor import doctor
from ling.ops.formats import FORMATS, linear_int8

CSRC = Path(__file__).parents[2] / "csrc"
needs_library = pytest.mark.skipif(
    native.library() is None, reason="the kernel library is not built (no C++ compiler)"
)


@pytest.mark.parametrize("fmt", FORMATS.values(), ids=FORMATS)
def test_quantisation_error_is_within_its_bound(fmt):
    w = torch.randn(256, 512)
    error = (fmt.dequantise(*fmt.quantise(w)) - w).norm() / w.norm()
    assert error < fmt.max_nrmse


@needs_library
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 33, 63), (3, 100, 65), (17, 64, 256), (2, 512, 2048)]
)
def test_native_product_equals_the_oracle_bit_for_bit(shape):
    T, N, K = shape
    q, scale = FORMATS["int8_channel"].quantise(torch.randn(N, K))
    x = torch.randn(T, K)
    call = native.bind_linear_int8(q, scale)
    assert torch.equal(call(x), linear_int8(x, q, scale))
    torch.set_num_threads(1)
    assert torch.equal(call(x), linear_int8(x, q, scale))


@needs_library
@pytest.mark.parametrize("isa", ["generic", "avx2", "avx512vnni", ""])
def test_every_level_gives_the_same_integers(isa):
    code = (
        "import torch; from ling.ops import native, formats as f\n"
        "q, s = f.quantise_int8_rows(torch.randn(70, 130)); x = torch.randn(3, 130)\n"
        "assert torch.equal(native.bind_linear_int8(q, s)(x), f.linear_int8(x, q, s))\n"
        "print(native.isa())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "LING_ISA": isa},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    levels = ["generic", "avx2", "avx512vnni"]
    assert levels.index(done.stdout.strip()) <= levels.index(isa or "avx512vnni")


@needs_library
def test_unknown_isa_is_an_error():
    done = subprocess.run(
        [sys.executable, "-c", "from ling.ops import native; native.isa()"],
        env={**os.environ, "LING_ISA": "mmx"},
        capture_output=True,
        text=True,
    )
    assert "LING_ISA must be" in done.stderr


@needs_library
def test_wrong_arguments_raise():
    q, scale = FORMATS["int8_channel"].quantise(torch.randn(4, 8))
    call = native.bind_linear_int8(q, scale)
    for bad in (torch.randn(8), torch.randn(2, 9), torch.ones(2, 8, dtype=torch.long)):
        with pytest.raises(KernelError):
            call(bad)
    for weights in (q.float(), q.t(), torch.full((4, 8), -128, dtype=torch.int8)):
        with pytest.raises(KernelError):
            native.bind_linear_int8(weights, scale)


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
def test_kernels_are_clean_under_sanitizers(tmp_path):
    sources = [
        CSRC / n
        for n in ("dispatch.cpp", "threads.cpp", "test_kernels.cpp", "generic/gemv_int8.cpp")
    ]
    flags = [
        "-std=c++17",
        "-g",
        "-O1",
        "-fsanitize=address,undefined",
        "-Wall",
        "-Wextra",
        "-Werror",
        f"-I{CSRC}",
    ]
    binary = tmp_path / "kernels"
    subprocess.run(["g++", *flags, *map(str, sources), "-o", str(binary)], check=True, timeout=120)
    done = subprocess.run([str(binary)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "generic: ok"), done.stderr


def test_doctor_says_what_is_in_use_and_finds_one_openmp_runtime():
    report = doctor()
    assert report["int8 product"].startswith(("native/", "reference (library not built"))
    assert len(report["openmp"].split(", ")) == 1
