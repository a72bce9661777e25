"""Steps of training at full width with few layers; the difference of depths is a layer's time.

A step here is forward and backward of one micro-batch of one row. The optimizer, whose work is the
same for each parameter, is measured once. One GPU has all 256 experts of a layer, which no layout
of the published figures has; the last measurements have the share of a rank of EP 8 instead, in
all 20 layers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ling.config.model import ModelConfig
from ling.config.optim import OptimConfig
from ling.config.parallel import ParallelConfig
from ling.config.recipe import DataConfig, PretrainConfig, TrainConfig
from ling.model.ling import Ling
from ling.model.size import flops_per_token
from ling.plan.memory import memory
from ling.plan.shape import shape_of
from ling.train.batches import Batch
from ling.train.forward import LingForTraining
from ling.train.objectives.pretrain import Pretraining
from ling.train.optim import build_optimizer
from ling.train.parallel.apply import parallelise
from ling.train.state import TrainState
from ling.train.step import train_step

from .shapes import LAYERS, LING, LLAMA, QWEN3, rank_of_ep8, shape
from .stage import Stage, Values
from .timing import Clock

DEPTHS = (2, 4)


@dataclass(frozen=True)
class Setting:
    """What is measured."""

    model: str
    layers: int
    seq_length: int
    fp8: bool = False
    mtp: bool = False
    recompute: str = "none"
    ep8_share: bool = False

    @property
    def name(self) -> str:
        """One line that no other setting has."""
        parts = [self.model, f"{self.layers} layers", f"seq {self.seq_length}"]
        parts += ["FP8" if self.fp8 else "bf16", *["MTP"] * self.mtp]
        parts += [f"recompute {self.recompute}"] * (self.recompute != "none")
        return ", ".join(parts + ["a rank of EP 8"] * self.ep8_share)

    def config(self, tiny: bool) -> ModelConfig:
        """The model."""
        if self.ep8_share:
            return rank_of_ep8(self.layers, tiny=tiny, mtp=self.mtp)
        return shape(self.model, self.layers, tiny=tiny, mtp=self.mtp)

    def recipe(self, device: Any) -> PretrainConfig:
        """As a run would say it; its data are random tokens."""
        return PretrainConfig(
            model=LING,
            data=DataConfig(prefix=["unread"], seq_length=self.seq_length),
            train=TrainConfig(
                global_batch_size=1,
                micro_batch_size=1,
                fp8="blockwise" if self.fp8 else "off",
                device=device,
            ),
            optim=OptimConfig(lr=1e-4),
            parallel=ParallelConfig(recompute=self.recompute),  # type: ignore[arg-type]
        )


def settings(tiny: bool) -> Iterator[Setting]:
    """All, the most wanted first: time may end before."""
    for seq_length in (64,) if tiny else (4096, 8192):
        for fp8 in (False, True):
            for layers in DEPTHS:
                for mtp in (False, True):
                    yield Setting(LING, layers, seq_length, fp8, mtp)
                yield Setting(QWEN3, layers, seq_length, fp8)
                if not tiny:
                    yield Setting(LLAMA, layers, seq_length, fp8)
        for fp8 in (False, True):
            for layers in DEPTHS:
                yield Setting(LING, layers, seq_length, fp8, True, "moe")
    for fp8 in (False, True):
        for mtp in (False, True):
            depth = 3 if tiny else LAYERS[LING]
            yield Setting(LING, depth, 64 if tiny else 8192, fp8, mtp, ep8_share=True)


def run(stage: Stage) -> None:
    """All measurements of the stage."""
    clock = Clock(stage.device, tiny=stage.tiny)
    first = Setting(LING, DEPTHS[0], 64 if stage.tiny else 4096)
    for fp8 in (False, True):
        setting = dataclasses.replace(first, fp8=fp8, mtp=True)
        stage.check(f"whole step: {setting.name}", whole_step, stage, setting, clock, needs_s=6)
    for setting in settings(stage.tiny):
        fields = dataclasses.asdict(setting)
        name = setting.name
        stage.check(name, micro_step, stage, setting, clock, limit_s=60, needs_s=4, **fields)


# ---- measurements ------------------------------------------------------------------------------


def micro_step(stage: Stage, setting: Setting, clock: Clock) -> Values:
    """Seconds of forward and backward of one row, and the most memory that it took."""
    recipe, cfg = setting.recipe(stage.device.type), setting.config(stage.tiny)
    held = allocated(stage)
    network = made_network(recipe, cfg, stage.device)
    weight_bytes = allocated(stage) - held
    objective = Pretraining(recipe.train.mtp_loss_weight, recipe.train.z_loss_coef)
    batch = random_batch(cfg, setting.seq_length).to(stage.device)
    seen: list[torch.Tensor] = []

    def work() -> None:
        network.zero_grad(set_to_none=True)
        total = objective.losses(network, batch).total
        total.backward()
        seen.append(total.detach())

    seconds = clock.seconds(work, repeats=5, warmup=2)
    rate = setting.seq_length / seconds
    return {
        "seconds_each": seconds,
        "tokens_per_s": rate,
        "flops_per_s": rate * flops_per_token(cfg, setting.seq_length),
        "weight_bytes": weight_bytes,
        **peak(stage, held),
        "equal": bool(torch.stack(seen).isfinite().all()),
    }


def whole_step(stage: Stage, setting: Setting, clock: Clock) -> Values:
    """A step with clipping and optimizer; its memory beside what the report says before it."""
    recipe, cfg = setting.recipe(stage.device.type), setting.config(stage.tiny)
    held = allocated(stage)
    network = made_network(recipe, cfg, stage.device)
    state = TrainState(network, build_optimizer(network.ling, recipe.optim), stage.device)
    objective = Pretraining(recipe.train.mtp_loss_weight, recipe.train.z_loss_coef)
    batch = random_batch(cfg, setting.seq_length)

    def step() -> Any:
        return train_step(state, objective, [batch], recipe.train, recipe.optim)

    losses = [step().losses["loss"] for _ in range(3)]
    seconds = clock.seconds(step, repeats=5, warmup=1)
    update = clock.seconds(lambda: update_alone(state), repeats=5, warmup=1)
    parameters = sum(p.numel() for p in network.parameters())
    report = memory(shape_of(cfg, setting.seq_length), recipe, stage.device.type)[0]
    return {
        "seconds_each": seconds,
        "update_seconds_each": update,
        "parameters": parameters,
        "losses": losses,
        "reported_bytes": report.peak,
        "reported": report.kinds(),
        **peak(stage, held),
        "equal": losses[-1] < losses[0],
    }


def update_alone(state: TrainState) -> None:
    """The optimizer's part of a step, with zeros as gradients."""
    for p in state.model.parameters():
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    state.optimizer.step()


def made_network(recipe: PretrainConfig, cfg: ModelConfig, device: torch.device) -> LingForTraining:
    """As `train.network` makes it, with random weights from the device itself: gigabytes of them
    would take the CPU minutes."""
    with torch.device("meta"):
        network = LingForTraining(Ling(cfg))
    network.ling.compute_dtype = torch.bfloat16
    network = parallelise(recipe, None, network)
    network.to_empty(device=device)
    network.ling.init_weights(torch.Generator(device).manual_seed(0))
    return network.train()


def random_batch(cfg: ModelConfig, seq_length: int) -> Batch:
    """One row."""
    ids = torch.randint(0, cfg.vocab_size, (1, seq_length + 1), generator=torch.Generator())
    return Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), torch.ones(1, seq_length))


def allocated(stage: Stage) -> int:
    """Bytes of tensors on a GPU now; 0 elsewhere."""
    return torch.cuda.memory_allocated(stage.device) if stage.cuda else 0


def peak(stage: Stage, held: int) -> Values:
    """Most bytes of tensors beyond those that were held, and of the allocator in all."""
    if not stage.cuda:
        return {}
    return {
        "peak_bytes": torch.cuda.max_memory_allocated(stage.device) - held,
        "reserved_bytes": torch.cuda.max_memory_reserved(stage.device),
    }
