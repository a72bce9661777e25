"""`ling bench`: speed as paired ratios, with the hardware limit measured in the same run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..config.optim import OptimConfig
from ..config.recipe import TrainConfig
from ..model.ling import Ling, from_config
from ..model.moe import Experts
from ..model.size import flops_per_token
from ..model.swap import swap
from ..ops import reference
from ..ops.cores import FreeCores, load_in_words
from ..presets import preset
from ..train.batches import Batch
from ..train.device import CPU, choose_device, synchronize
from ..train.forward import LingForTraining
from ..train.heap import keep_freed_memory
from ..train.objectives.pretrain import Pretraining
from ..train.optim import build_optimizer
from ..train.progress import gemm_peak
from ..train.state import TrainState
from ..train.step import train_step
from ..train.threads import Threads

ROWS, LENGTH = 8, 512


class ExpertLoop(nn.Module):
    """The baseline: experts one after the other under plain autograd, as upstream's code has it."""

    def __init__(self, base: Experts) -> None:
        super().__init__()
        for e in range(base.gate_proj.shape[0]):
            for name in ("gate_proj", "up_proj", "down_proj"):
                weight = nn.Parameter(getattr(base, name)[e].detach().clone())
                self.register_parameter(f"{name}_{e}", weight)
        self.num_experts = base.gate_proj.shape[0]

    def forward(self, x_TD: Tensor, ids_TA: Tensor, weights_TA: Tensor) -> Tensor:
        T, A = ids_TA.shape
        x_ND = x_TD.repeat_interleave(A, dim=0)
        y_ND = torch.empty_like(x_ND)
        flat = ids_TA.flatten()
        for e in range(self.num_experts):
            parts = (getattr(self, f"{n}_{e}") for n in ("gate_proj", "up_proj", "down_proj"))
            y_ND[flat == e] = reference.swiglu(x_ND[flat == e], *parts)
        return (y_ND.view(T, A, -1).float() * weights_TA[..., None]).sum(1).to(x_TD.dtype)


def train(model: str, pairs: int) -> dict[str, Any]:
    """Training steps of `model` against the same trainer with the expert loop, in turn."""
    cfg = preset(model)
    device = choose_device("auto")
    plain, loop = (from_config(cfg, seed=0, device=str(device)) for _ in range(2))
    swap(loop, _with_expert_loop)
    ours, theirs = stepper(plain, ROWS, LENGTH), stepper(loop, ROWS, LENGTH)
    peak = gemm_peak(torch.bfloat16, 2048 if device == CPU else None, device=device)
    times: list[tuple[float, float]] = []
    cores = FreeCores()
    for k in range(pairs + 1):  # the first pair warms up
        first, second = (ours, theirs) if k % 2 == 0 else (theirs, ours)
        a, b = _timed(first, device), _timed(second, device)
        times.append((a, b) if k % 2 == 0 else (b, a))
    load = load_in_words(cores.taken(), len(cores.cores))
    seconds = statistics.median(a for a, _ in times[1:])
    ratio = statistics.median(b / a for a, b in times[1:])
    rate = ROWS * LENGTH / seconds
    share = rate * flops_per_token(cfg, LENGTH) / peak
    line = (
        f"{model}: {rate:,.0f} tokens/s, {share:.1%} of the bf16 GEMM peak "
        f"({peak / 1e9:.0f} GFLOP/s), {ratio:.2f} x the expert loop; {load}"
    )
    return {
        "model": model, "tokens_per_s": rate, "share_of_peak": share, "peak_gflops": peak / 1e9,
        "ratio": ratio, "ratios": [b / a for a, b in times[1:]], "threads": torch.get_num_threads(),
        "load": load, "line": line,
    }  # fmt: skip


def _with_expert_loop(name: str, module: nn.Module) -> nn.Module | None:
    return ExpertLoop(module) if isinstance(module, Experts) else None


def stepper(
    model: Ling, rows: int, length: int, optim: OptimConfig | None = None
) -> Callable[[], None]:
    """A function that takes one training step in bfloat16 on `rows` random rows of `length`."""
    keep_freed_memory()  # as a run does
    model.compute_dtype = torch.bfloat16
    train = TrainConfig(global_batch_size=rows, micro_batch_size=rows)
    optim = optim or OptimConfig(schedule="constant")
    optimizer = build_optimizer(model, optim)
    state = TrainState(LingForTraining(model), optimizer, next(model.parameters()).device)
    objective = Pretraining(train.mtp_loss_weight, train.z_loss_coef)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, model.config.vocab_size, (rows, length + 1), generator=generator)
    batch = Batch(ids[:, :-1], ids[:, 1:], torch.ones(rows, length))

    def step() -> None:
        train_step(state, objective, [batch], train, optim)

    return step


def steps_within(minutes: float, model: str, rows: int, length: int) -> int:
    """How many training steps of a preset fit into `minutes` on this machine, by timing ten."""
    step, times = stepper(from_config(preset(model), seed=0), rows, length), []
    with Threads(print) as threads:
        for _ in range(10):
            begin = time.perf_counter()
            step()
            times.append(time.perf_counter() - begin)
            threads.adapt()
    # The first step compiles kernels. A tenth is left for checkpoints and reports.
    return int(minutes * 60 * 0.9 / min(times[1:]))


def _timed(step: Callable[[], None], device: torch.device) -> float:
    synchronize(device)
    start = time.perf_counter()
    step()
    synchronize(device)
    return time.perf_counter() - start
