"""Noise of training as a function of the seed and the token that it is for.

It does not depend on ranks, micro-batches or recomputation, and a resumed run repeats it.
Legend: B rows · S positions · T tokens that the network computes now · K channels.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from .batches import Batch

# Constants of splitmix64's mixing, as torch's signed numbers.
_M1, _M2, _STEP = (
    n - (1 << 64) for n in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0x9E3779B97F4A7C15)
)
_BITS = 31


class TokenNumbers:
    """The number of each token that the network computes now: that of its row in the run, and its
    place there. None outside of training, where there is no noise.
    """

    def __init__(self) -> None:
        self.now_T: Tensor | None = None

    @contextlib.contextmanager
    def of(self, batch: Batch, cut: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """While a micro-batch is computed, of which `cut` gives the tokens of this rank."""
        B, S = batch.tokens_BS.shape
        rows = torch.arange(batch.first_row, batch.first_row + B, device=batch.tokens_BS.device)
        places = torch.arange(S, device=rows.device)
        with self._being(cut((rows[:, None] << 32) + places)):
            yield

    @contextlib.contextmanager
    def _being(self, numbers_T: Tensor | None) -> Iterator[None]:
        before, self.now_T = self.now_T, numbers_T
        try:
            yield
        finally:
            self.now_T = before

    def kept(self, forward: Any) -> Any:
        """`forward` with the tokens of now, whenever it is called: a backward pass that computes
        again may come after other micro-batches.
        """
        numbers_T = self.now_T

        def again(*args: Any) -> Any:
            with self._being(numbers_T):
                return forward(*args)

        return again


class Dropout:
    """Sets a share of a matrix's inputs to 0 while training, and scales the others up.

    Which ones is a function of `key` (seed and matrix), token and channel.
    """

    def __init__(self, share: float, key: str, tokens: TokenNumbers) -> None:
        self.share, self.tokens = share, tokens
        digest = hashlib.sha256(key.encode()).digest()
        self.key = int.from_bytes(digest[:8], "little", signed=True)

    def __call__(self, x_TK: Tensor) -> Tensor:
        numbers_T = self.tokens.now_T
        if numbers_T is None:
            return x_TK
        bits_TK = random_bits(numbers_T, x_TK.shape[1], self.key)
        dropped_TK = bits_TK < int(self.share * (1 << _BITS))
        return x_TK.masked_fill(dropped_TK, 0).mul_(1 / (1 - self.share))


def random_bits(numbers_T: Tensor, channels: int, key: int) -> Tensor:
    """bits_TK: 31 random bits of each token and channel, int64 of at least 0."""
    token_T = _mixed(_mixed(numbers_T) ^ key)
    channel_K = torch.arange(1, channels + 1, device=numbers_T.device) * _STEP
    return _mixed(token_T[:, None] + channel_K) & ((1 << _BITS) - 1)


def _mixed(x: Tensor) -> Tensor:
    """splitmix64's: every bit of the result depends on every bit of `x`."""
    x = (x ^ _shifted(x, 30)) * _M1
    x = (x ^ _shifted(x, 27)) * _M2
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, by: int) -> Tensor:
    """To the right, zeros from the left: torch's own shift repeats the sign."""
    return (x >> by) & ((1 << (64 - by)) - 1)
