"""The moments of an optimizer as checkpoints have them: float32 under the names of plain AdamW.

So a run may go on with the other of `optim.name`. Moments of one byte are dequantised where they
are written and quantised where they are read. Beside them a checkpoint has the scales of each
shard: with these the codes are those that were saved, and a resumed run equals the uninterrupted
one. The largest value of a block would not do, since no code stands for -1. Another layout of
ranks has other blocks, and takes its scales from the values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..checkpoint.dcp.local import Deferred, local_box, local_part
from ..errors import DCPError
from ..ops import adam8, moments8
from .adam8 import AdamW8bit

# Each moment, its fields of `ops.adam8.Moments`, and whether it has negative values.
_MOMENTS = (
    ("exp_avg", "codes1", "absmax1", True),
    ("exp_avg_sq", "codes2", "absmax2", False),
)


def stored_as(optimizer: torch.optim.Optimizer) -> str:
    """What moments are in memory, for the log of a run that is resumed."""
    is_packed = isinstance(optimizer, AdamW8bit)
    return f"8-bit in blocks of {adam8.BLOCK}" if is_packed else "float32"


def change(before: dict[str, Any], optimizer: torch.optim.Optimizer) -> str | None:
    """How moments are taken up that were something else in memory when they were saved."""
    was, now = before.get("moments", "float32"), stored_as(optimizer)
    if was == now:
        return None
    how = "taken up in float32" if now == "float32" else "quantised again"
    return f"moments were {was} and are now {now} (`optim.name`): {how}"


def moment_tensors(
    optimizer: torch.optim.Optimizer, name: str, p: Tensor
) -> dict[str, Tensor | Deferred]:
    """The moments of parameter `name` by their keys, scales of 8-bit ones before their values."""
    if isinstance(optimizer, AdamW8bit):
        return _packed(optimizer.moments(p), name, p)
    state = optimizer.state[p]
    if not state:  # before the first step
        state.update(
            step=torch.zeros((), device=p.device),
            exp_avg=torch.zeros_like(p),
            exp_avg_sq=torch.zeros_like(p),
        )
    return {f"optimizer.{key}.{name}": state[key] for key in ("step", "exp_avg", "exp_avg_sq")}


def is_scales(key: str) -> bool:
    """Whether a key is one of scales, which a checkpoint may lack."""
    return key.startswith("optimizer.") and key.split(".")[1].endswith(f"_absmax{adam8.BLOCK}")


def _packed(state: dict[str, Tensor], name: str, p: Tensor) -> dict[str, Tensor | Deferred]:
    step = state["step"]
    found: dict[str, Tensor | Deferred] = {
        f"optimizer.step.{name}": Deferred(step, (step,), _same, _copier(step, signed=False))
    }
    shape = local_part(p).shape
    box = "+".join(".".join(map(str, numbers)) for numbers in local_box(p))
    for moment, codes, absmax, signed in _MOMENTS:
        key = f"optimizer.{moment}.{name}"
        if moment in state:
            values = state[moment].view(shape)
            found[key] = Deferred(p, (values,), _same, _copier(values, signed=signed))
            continue
        part = _Moment(state[codes], state[absmax], signed)
        sources = (state[absmax],)
        # The box of the shard: only the same blocks have the same scales.
        scales = f"optimizer.{moment}_absmax{adam8.BLOCK}.{name}@{box}"
        found[scales] = Deferred(state[absmax], sources, _same, part.take_scales)
        found[key] = Deferred(p, (state[codes], *sources), part.make(shape), part.take)
    return found


def _same(values: Tensor) -> Tensor:
    return values


def _copier(to: Tensor, *, signed: bool) -> Callable[[Tensor], None]:
    def copy(values: Tensor) -> None:
        _check(values, signed=signed)
        to.copy_(values)

    return copy


def _check(values: Tensor, *, signed: bool) -> None:
    """One such value, or scale, would make numbers of a whole block wrong without a word."""
    if not values.isfinite().all():
        raise DCPError("has values that are not finite")
    if not signed and (values < 0).any():
        raise DCPError("has values below 0")


class _Moment:
    """One moment of one byte per element, while a checkpoint is written or read."""

    def __init__(self, codes_N: Tensor, absmax_B: Tensor, signed: bool) -> None:
        self._codes, self._absmax, self._signed = codes_N, absmax_B, signed
        self._has_scales = False

    def make(self, shape: torch.Size) -> Callable[..., Tensor]:
        signed = self._signed
        return lambda c, a: moments8.dequantise(c, a, signed=signed).view(shape)

    def take_scales(self, absmax_B: Tensor) -> None:
        _check(absmax_B, signed=False)
        self._absmax.copy_(absmax_B)
        self._has_scales = True

    def take(self, values: Tensor) -> None:
        _check(values, signed=self._signed)
        x_N = values.to(self._codes.device, torch.float32).reshape(-1)
        given = self._absmax if self._has_scales else None
        if given is not None and (adam8.largest(x_N) > given).any():
            raise DCPError("has values above the scales that the checkpoint has for them")
        codes_N, absmax_B = moments8.quantise(x_N, signed=self._signed, absmax_B=given)
        self._codes.copy_(codes_N)
        self._absmax.copy_(absmax_B)
