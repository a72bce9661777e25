"""Which FP8 products a device gets, and what is said where it has none."""

from __future__ import annotations

import importlib.util

import pytest
import torch
import torch.nn.functional as F

from ling.errors import KernelError, UsageError
from ling.ops import fp8_choice, native
from ling.ops.fp8_choice import choose

CUDA = torch.device("cuda")


@pytest.fixture
def gpu(monkeypatch):
    """A function that makes torch see a GPU, with Triton or without."""
    found = importlib.util.find_spec

    def make(capability, cuda="12.9", triton=True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "NVIDIA A100")
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(fp8_choice, "failed_trial", lambda device: None)
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda n: (triton or None) if n == "triton" else found(n)
        )

    return make


def test_a_cpu_emulates(monkeypatch):
    assert choose(torch.device("cpu")).name == "emulation"
    monkeypatch.setattr(native, "library", lambda: None)
    assert fp8_choice.described() == "emulation (on a CPU, in torch)"


def test_a_core_that_cannot_be_used_is_no_core(monkeypatch):
    def broken():
        raise KernelError("another version")

    monkeypatch.setattr(native, "library", broken)
    assert fp8_choice.described() == "emulation (on a CPU, in torch)"


def test_hopper_multiplies_by_cublas(gpu):
    gpu((9, 0))
    assert choose(CUDA).name == "scaled_mm"
    assert "Triton" in fp8_choice.described()


@pytest.mark.parametrize(
    ("capability", "cuda", "why"),
    [((9, 0), "12.8", "built for CUDA 12.8"), ((10, 0), "13.0", "this GPU is 10")],
)
def test_without_scales_of_blocks_in_cublas_our_kernels_multiply(gpu, capability, cuda, why):
    gpu(capability, cuda)
    choice = choose(CUDA)
    assert choice.name == "triton"
    assert why in choice.reason


def test_where_cublas_fails_our_kernels_multiply(gpu, monkeypatch):
    gpu((9, 0))
    monkeypatch.setattr(fp8_choice, "failed_trial", lambda device: "it fails")
    assert str(choose(CUDA)) == "triton (it fails)"


def test_a_trial_shows_errors_and_wrong_sums(monkeypatch):
    def fails(*args):
        raise NotImplementedError("needs cublasLt\n>= 12.9")

    def sums(value):
        return lambda a, b, *args: torch.full((len(a), b.shape[1]), value)

    trial = fp8_choice.failed_trial.__wrapped__
    for scaled_mm, found in (
        (fails, "`F.scaled_mm` fails: needs cublasLt >= 12.9"),
        (sums(127.0), "`F.scaled_mm` gives wrong sums"),
        (sums(128.0), None),
    ):
        monkeypatch.setattr(F, "scaled_mm", scaled_mm)
        assert trial(torch.device("cpu")) == found


def test_a_torch_without_scaled_mm_has_our_kernels(gpu, monkeypatch):
    gpu((9, 0))
    monkeypatch.delattr(F, "scaled_mm")
    assert choose(CUDA).name == "triton"


def test_without_triton_a_gpu_emulates(gpu):
    gpu((9, 0), triton=False)
    assert choose(CUDA).name == "emulation"
    assert "pip install triton" in choose(CUDA).reason


def test_a_gpu_without_fp8_is_refused_unless_the_emulation_is_wanted(gpu):
    gpu((8, 0))
    with pytest.raises(UsageError, match=r"9\.0 .*NVIDIA A100 has 8\.0.* off`.* emulation`") as err:
        choose(CUDA)
    assert "\n" not in str(err.value)
    assert fp8_choice.described().startswith("refused: ")
    assert choose(CUDA, "emulation").name == "emulation"
