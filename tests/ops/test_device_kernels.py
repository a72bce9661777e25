"""Kernels are used where they agree with their definition, and else said to be left out."""

from __future__ import annotations

import logging

import torch

from ling.ops import device_kernels
from ling.ops.device_kernels import _agrees, chosen_product, have_triton

ONES = torch.ones(3)


def test_a_kernel_that_is_right_is_used(monkeypatch, caplog):
    monkeypatch.setattr(device_kernels, "have_triton", lambda: True)
    with caplog.at_level(logging.WARNING):
        assert _agrees("sums", lambda: (ONES * 1.01, ONES))
    assert not caplog.records


def test_one_that_is_wrong_or_does_not_compile_costs_a_line(monkeypatch, caplog):
    monkeypatch.setattr(device_kernels, "have_triton", lambda: True)

    def fails():
        raise RuntimeError("first line\nptxas does not know this GPU")

    with caplog.at_level(logging.WARNING):
        assert not _agrees("sums", lambda: (ONES * 1.2, ONES))
        assert not _agrees("sums", fails)
        assert not _agrees("sums", lambda: (ONES * float("nan"), ONES))
    wrong, broken, nan = (r.getMessage() for r in caplog.records)
    assert "no kernel for sums on this GPU" in wrong
    assert "wrong by 20.0%" in wrong
    assert "ptxas does not know this GPU" in broken
    assert "\n" not in broken
    assert "nan" in nan


def test_a_cpu_has_none_and_the_reference_can_be_asked_for(monkeypatch):
    assert chosen_product(torch.device("cpu"), fp8=False) is None
    monkeypatch.setenv("LING_KERNELS", "reference")
    assert not have_triton()
    assert not _agrees("sums", lambda: (ONES, ONES))
