"""A recipe on a number of GPUs: memory, traffic, seconds of a step, and what follows from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ..config.kinds import Recipe
from ..config.model import ModelConfig
from ..config.sft import SFTConfig
from ..errors import UsageError
from .compute import (
    Work,
    adapter_work,
    backward_work,
    forward_work,
    head_work,
    repeated,
    seconds,
)
from .constants import Constants
from .gpus import Gpu
from .layouts import check_fp8_sizes, check_layout
from .memory import Memory, memory
from .network import Traffic, traffic
from .schedule import Timeline, simulate
from .shape import FP32, Shape, Weight, shape_of
from .trained import longest_rows, trained_shape

# Rounds of micro-batches that a pipeline is simulated with; the time of more of them grows evenly.
_SIMULATED = 2


@dataclass(frozen=True)
class Estimate:
    """What is expected of a recipe; `step_s` is made of `compute_s` of the busiest rank, the wait
    for other stages, `exposed_s` of communication and `update_s` of the optimizer."""

    recipe: Recipe
    gpu: Gpu
    shape: Shape
    memory: list[Memory]
    traffic: list[Traffic]
    compute_s: float
    exposed_s: float
    update_s: float
    step_s: float
    bubble: float
    tokens: int
    flops_per_token: float

    @property
    def fits(self) -> bool:
        """Whether every rank has enough memory."""
        return self.peak <= self.gpu.usable_bytes

    @property
    def peak(self) -> float:
        """Bytes of the fullest rank."""
        return max(m.peak for m in self.memory)

    @property
    def tokens_per_s(self) -> float:
        """Of all ranks together."""
        return self.tokens / self.step_s

    @property
    def mfu(self) -> float:
        """Model operations a second over the bfloat16 peak of all ranks."""
        peak = self.gpu.bf16_flops * self.recipe.parallel.world
        return self.tokens_per_s * self.flops_per_token / peak

    def run_tokens(self) -> int:
        """Tokens of all steps of the recipe; 0 where only its data say how many they are."""
        train = self.recipe.train
        return train.rows(train.steps) * self.tokens // train.global_batch_size

    def gpu_hours(self) -> float:
        """GPU hours of the recipe's tokens."""
        seconds_ = self.run_tokens() / self.tokens_per_s
        return seconds_ * self.recipe.parallel.world / 3600


def check_fp8(recipe: Recipe, cfg: ModelConfig, gpu: Gpu) -> None:
    """Raise `UsageError` for FP8 products that the model's shape or the GPU cannot have; CPUs
    emulate them.
    """
    check_fp8_sizes(recipe.train, cfg)
    if recipe.train.fp8 != "off" and gpu.fp8_flops is None and gpu.device == "cuda":
        raise UsageError(
            f"`train.fp8: {recipe.train.fp8}` needs a GPU with FP8 products, which {gpu.name} does "
            "not have; set `--train.fp8 off`"
        )


def check_method(recipe: Recipe, gpu: Gpu) -> None:
    """Raise `UsageError` for a method that the GPU does not have."""
    if isinstance(recipe, SFTConfig) and recipe.method == "qlora" and gpu.device != "cpu":
        raise UsageError(
            "`method: qlora` multiplies packed weights on the CPU only: plan it with `--gpu cpu`, "
            "or set `method: lora`"
        )


def estimate(
    cfg: ModelConfig,
    recipe: Recipe,
    gpu: Gpu,
    constants: Constants,
    *,
    shape: Shape | None = None,
    held: list[Memory] | None = None,
    per_micro_batch: bool = True,
) -> Estimate:
    """Raises `UsageError` for a layout that cannot exist, or FP8 where there is none.

    `shape` and `held`, the memory of its ranks, are counted here unless they are given.
    """
    check_layout(recipe.parallel, recipe.train, cfg, recipe.parallel.world)
    check_fp8(recipe, cfg, gpu)
    check_method(recipe, gpu)
    shape, rows = shape or shape_of(cfg, recipe.data.seq_length), longest_rows(recipe)
    timer = _Timer(shape, recipe, gpu, constants)
    sent = traffic(shape, rows, gpu, per_micro_batch=per_micro_batch)
    open_s = sum(t.seconds(gpu, constants) for t in sent if not t.hidden)
    hidden_s = sum(t.seconds(gpu, constants) for t in sent if t.hidden)
    micro = timer.micro
    _, compute_s, bubble = timer.pipeline(open_s / micro)
    # What is hidden takes no time as long as computation goes on beside it; without a GPU there is
    # nothing that could send meanwhile.
    beside = compute_s * (micro if per_micro_batch else 1) / micro
    exposed = open_s + (hidden_s if gpu.device == "cpu" else max(0.0, hidden_s - beside))
    waiting = (compute_s + open_s) * bubble / (1 - bubble)
    update = timer.update()
    return Estimate(
        recipe,
        gpu,
        shape,
        held or memory(shape, rows, gpu.device),
        sent,
        compute_s,
        exposed,
        update,
        compute_s + exposed + waiting + update,
        bubble,
        recipe.train.global_batch_size * rows.data.seq_length,
        timer.flops_per_token(),
    )


def timeline(found: Estimate, constants: Constants) -> Timeline:
    """The passes of the first micro-batches of a pipeline."""
    timer = _Timer(found.shape, found.recipe, found.gpu, constants)
    open_s = sum(t.seconds(found.gpu, constants) for t in found.traffic if not t.hidden)
    return timer.pipeline(open_s / timer.micro)[0]


class _Timer:
    """Seconds of one micro-batch in each layer, and what a schedule makes of them."""

    def __init__(self, shape: Shape, recipe: Recipe, gpu: Gpu, constants: Constants) -> None:
        self.shape, self.recipe = trained_shape(shape, recipe), recipe
        self.gpu, self.constants = gpu, constants
        layout, train = recipe.parallel, recipe.train
        length = longest_rows(recipe).data.seq_length  # both documents of a row
        self.tokens = train.micro_batch_size * length // layout.cp
        self.micro = train.global_batch_size // (train.micro_batch_size * layout.dp)
        self.forward = forward_work(self.shape, layout.ep)
        self.frozen = isinstance(recipe, SFTConfig) and recipe.uses_adapter

    def seconds(self, work: Work) -> float:
        """Of a micro-batch on one rank."""
        cfg, train = self.shape.config, self.recipe.train
        rows = self.tokens * cfg.num_experts_per_tok * self.recipe.parallel.ep
        each = rows / max(cfg.num_experts, 1)
        fp8 = train.fp8 != "off"
        return self.tokens * seconds(work, self.gpu, self.constants, fp8=fp8, expert_rows=each)

    def _layers(self) -> list[tuple[float, float]]:
        """Forward and backward pass of each layer; equal ones are computed once."""
        found: dict[int, tuple[float, float]] = {}
        for layer, (forward, backward) in zip(self.shape.layers, self._work(), strict=True):
            if id(layer) not in found:
                again = repeated(layer, forward, self.shape, self.recipe.parallel.recompute)
                found[id(layer)] = self.seconds(forward), self.seconds(backward + again)
        return [found[id(layer)] for layer in self.shape.layers]

    def _work(self) -> Iterator[tuple[Work, Work]]:
        """Of a token in each layer: forward pass and backward pass."""
        for layer, base in zip(self.shape.layers, self.forward, strict=True):
            adapters = adapter_work(layer, self.shape.config)
            backward = backward_work(base, frozen=self.frozen)
            yield base + adapters, backward + adapters.times(2)

    def _head(self) -> tuple[Work, Work]:
        """Of a token in the head, as if all were trained."""
        work = head_work(self.shape)
        return work, backward_work(work, frozen=self.frozen)

    def flops_per_token(self) -> float:
        """Operations of a token, without those that are computed again."""
        if not isinstance(self.recipe, SFTConfig):
            return self.shape.flops_per_token
        return sum(work.operations for pair in (*self._work(), self._head()) for work in pair)

    def pipeline(self, open_s: float) -> tuple[Timeline, float, float]:
        """The passes of some micro-batches; seconds of the busiest rank in a step; waiting share.

        `open_s` of communication are spread over the passes of a micro-batch.
        """
        layout, main = self.recipe.parallel, self.shape.num_main
        layers, head = self._layers(), self._head()
        stages = [list(s) for s in self.shape.stages(layout.stages)]
        stages[-1] += range(main, len(layers))
        forward = [sum(layers[n][0] for n in s) for s in stages]
        backward = [sum(layers[n][1] for n in s) for s in stages]
        forward[-1] += self.seconds(head[0])
        backward[-1] += self.seconds(head[1])
        each = [sum(forward[r :: layout.pp]) + sum(backward[r :: layout.pp]) for r in self._ranks]
        compute = self.micro * max(each)
        if layout.pp == 1:
            return simulate(1, 1, 1, forward, backward), compute, 0.0
        count = self._count()
        part = open_s / layout.pp_stages_per_rank / 3
        timeline = simulate(
            layout.pp,
            layout.pp_stages_per_rank,
            count,
            [f + part for f in forward],
            [b + 2 * part for b in backward],
        )
        busiest = count * (max(each) + open_s)
        # Micro-batches beyond those simulated add work and no wait.
        wait = timeline.seconds - busiest
        total = self.micro * (max(each) + open_s)
        return timeline, compute, wait / (total + wait)

    @property
    def _ranks(self) -> range:
        return range(self.recipe.parallel.pp)

    def _count(self) -> int:
        """Micro-batches to simulate: all, or as many as fill the ranks in turn."""
        return min(self.micro, _SIMULATED * self.recipe.parallel.pp)

    def update(self) -> float:
        """Seconds in which the optimizer reads and writes weights, gradients and moments."""
        layout = self.recipe.parallel
        experts, dense = self._trained(experts=True), self._trained(experts=False)
        own = dense / (layout.dp_shard * layout.cp) + experts / (layout.expert_shards * layout.ep)
        states = 8 if self.recipe.optim.name == "adamw" else 2
        moved = own / layout.pp * (3 * FP32 + 2 * states)
        bandwidth = self.constants.copy_bytes_per_s or self.gpu.memory_bytes_per_s
        return moved / (self.constants.stream_share * bandwidth)

    def _trained(self, *, experts: bool) -> int:
        """Numbers of all trained stacks of experts, or of all other trained weights."""
        shape = self.shape
        ends = (shape.embedding, shape.norm, *([shape.head] if shape.head else []))

        def count(weights: Iterable[Weight]) -> int:
            return sum(w.size for w in weights if w.is_experts == experts and not w.frozen)

        return sum(count(layer.weights) for layer in shape.layers) + count(ends)


def as_json(found: Estimate) -> dict[str, Any]:
    """An estimate as `ling plan --json` prints it."""
    layout = found.recipe.parallel
    return {
        "gpu": found.gpu.name,
        "gpus": layout.world,
        "parallel": layout_keys(found),
        "micro_batch_size": found.recipe.train.micro_batch_size,
        "fits": found.fits,
        "usable_bytes": found.gpu.usable_bytes,
        "peak_bytes": found.peak,
        "memory": [{"ranks": [m.rank, m.last], **m.kinds(), "peak": m.peak} for m in found.memory],
        "traffic": {t.name: t.bytes for t in found.traffic},
        "step_s": found.step_s,
        "compute_s": found.compute_s,
        "communication_s": found.exposed_s,
        "update_s": found.update_s,
        "bubble": found.bubble,
        "tokens_per_s": found.tokens_per_s,
        "mfu": found.mfu,
        "run_tokens": found.run_tokens() or None,
        "gpu_hours": found.gpu_hours() or None,
    }


def layout_keys(found: Estimate) -> dict[str, Any]:
    """The keys of the recipe's `parallel` section."""
    return dataclasses.asdict(found.recipe.parallel)
