"""AdamW with moments of one byte per element (`ops.adam8` has the arithmetic)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from ..checkpoint.dcp.local import local_part
from ..errors import RunError
from ..ops import adam8, moments8
from ..ops.adam8 import LEAST, Moments, Scalars


class AdamW8bit(torch.optim.Optimizer):
    """AdamW whose moments take two bytes of memory per parameter instead of eight.

    As bitsandbytes' AdamW8bit: codes of one byte with a float32 scale per 256 elements of what this
    process has of a parameter (`to_local()` of a sharded one), in the order of memory; shards of
    fewer than `LEAST` elements keep float32. Weight decay comes after the step, on its result,
    where torch's AdamW has it before. An element whose gradient is not finite keeps its value, and
    its moments become 0.

    Parameters and gradients are float32 without gaps; another gradient is a `RunError`.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)
        self.register_load_state_dict_post_hook(_make_bytes)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        shards: dict[torch.device, list[moments8.Shard]] = {}
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._step(p, group, shards)
        for found in shards.values():
            moments8.step(found)
        return loss

    def _step(
        self, p: Tensor, group: dict[str, Any], shards: dict[torch.device, list[moments8.Shard]]
    ) -> None:
        """Update a small shard, or add a larger one to those of its device."""
        state = self.moments(p)
        state["step"] += 1
        numbers = _scalars(int(state["step"]), group)
        p_N, g_N = flat(p), flat(p.grad)
        if "exp_avg" in state:
            adam8.advance(p_N, g_N, state["exp_avg"], state["exp_avg_sq"], numbers)
        else:
            packed = Moments(*(state[name] for name in Moments._fields))
            shards.setdefault(p_N.device, []).append((p_N, g_N, packed, numbers))

    def moments(self, p: Tensor) -> dict[str, Tensor]:
        """The state of a parameter, zeros before its first step: `step`, then the fields of
        `Moments`, or `exp_avg` and `exp_avg_sq` (N float32) of a small shard.
        """
        state: dict[str, Tensor] = self.state[p]
        if not state:
            p_N = flat(p)
            state["step"] = torch.zeros(())  # on the CPU, where it is read in every step
            if p_N.numel() < LEAST:
                state.update(exp_avg=torch.zeros_like(p_N), exp_avg_sq=torch.zeros_like(p_N))
            else:
                state.update(_zeros(p_N)._asdict())
        return state


def flat(p: Any) -> Tensor:
    """What this process has of a parameter or its gradient, [N], in the order of memory."""
    part = local_part(p).detach()
    if part.dtype != torch.float32 or not part.is_contiguous():
        raise RunError(
            f"8-bit AdamW takes float32 without gaps; a parameter of shape {list(p.shape)} or its "
            f"gradient is {part.dtype} with strides {part.stride()}"
        )
    return part.view(-1)


def _scalars(step: int, group: dict[str, Any]) -> Scalars:
    return adam8.scalars(
        step, float(group["lr"]), group["betas"], group["eps"], group["weight_decay"]
    )


def _zeros(p_N: Tensor) -> Moments:
    scales = torch.zeros(2, adam8.num_blocks(len(p_N)), device=p_N.device)
    codes = [torch.full_like(p_N, code, dtype=torch.uint8) for code in adam8.ZERO_CODE]
    return Moments(codes[0], scales[0].clone(), codes[1], scales[1].clone())


def _make_bytes(optimizer: torch.optim.Optimizer) -> None:
    """torch loads every state in its parameter's type, and shape of codes stays."""
    for state in optimizer.state.values():
        for name in ("codes1", "codes2"):
            if name in state:
                state[name] = state[name].to(torch.uint8)
