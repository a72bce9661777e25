"""Choosing tokens in the C++ core: all rows of a step in one call."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import KernelError
from ..ops import native, native_abi
from .choice import NO_IDS, Chosen, RowChoice, failure

_WORD = (1 << 64) - 1


def native_choose(
    lib: ctypes.CDLL, scores: Tensor, choices: Sequence[RowChoice], banned: np.ndarray = NO_IDS
) -> list[Chosen]:
    """`sampler.choose` for every row of scores (float32 [rows, vocab])."""
    if scores.ndim != 2 or scores.dtype != torch.float32 or not scores.is_contiguous():
        raise KernelError("scores must be a contiguous float32 matrix")
    rows, vocab = scores.shape
    if len(choices) != rows:
        raise KernelError(f"{len(choices)} choices for {rows} rows of scores")
    widths = [0 if c.num_best is None else min(c.num_best, vocab) for c in choices]
    width = max(widths)
    ids, logprobs = np.empty((rows, width), np.int32), np.empty((rows, width), np.float32)
    given, chosen = (native_abi.ChoiceC * rows)(), (native_abi.ChosenC * rows)()
    for row, choice in zip(given, choices, strict=True):
        _fill(row, choice, vocab)
    status = lib.ling_choose(
        *(scores.data_ptr(), rows, vocab, given),
        *(banned.ctypes.data, len(banned), width, chosen, ids.ctypes.data, logprobs.ctypes.data),
    )
    native.check(lib, status)
    return [
        Chosen(c.id, failure(c.status, choice.position), c.logprob, c.rank, best[:n], values[:n])
        for c, choice, n, best, values in zip(chosen, choices, widths, ids, logprobs, strict=True)
    ]


def _fill(row: Any, choice: RowChoice, vocab: int) -> None:
    f = choice.filters
    row.inverse_temperature, row.top_p, row.least_power = f[:3]
    row.top_k, row.repetition_penalty, row.presence_penalty, row.frequency_penalty = f[3:]
    row.seed, row.position, row.given = choice.seed & _WORD, choice.position, choice.given
    row.num_best = -1 if choice.num_best is None else min(choice.num_best, vocab)
    if len(choice.seen):
        row.seen, row.counts = choice.seen.ctypes.data, choice.counts.ctypes.data
        row.num_seen = len(choice.seen)
    if len(choice.bias):
        row.bias_ids, row.bias = choice.bias_ids.ctypes.data, choice.bias.ctypes.data
        row.num_bias = len(choice.bias)
    if len(choice.excluded):
        row.excluded, row.num_excluded = choice.excluded.ctypes.data, len(choice.excluded)
    if choice.mask is not None:
        if choice.mask.dtype.itemsize != 4 or len(choice.mask) * 32 < vocab:
            raise KernelError(f"a mask of {len(choice.mask)} words for {vocab} ids")
        row.mask = choice.mask.ctypes.data
