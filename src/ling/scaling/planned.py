"""From a run of a grid to its shape, its numbers and its recipe."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..config.model import ModelConfig
from ..config.optim import OptimConfig
from ..config.recipe import CheckpointConfig, DataConfig, PretrainConfig, TrainConfig
from ..errors import InputError, UsageError
from ..presets import preset
from .grid import Grid, RunSpec
from .laws import TokenFlops, optimal_batch_tokens, optimal_lr, token_flops

BASE = "ling-nano"
"""Preset that has what a grid does not say of a shape: rotary, router, routing scale."""
# All rows that there are.
_ALL_ROWS = 1 << 30


@dataclass(frozen=True)
class Prefixes:
    """The token files of a sweep and their tokenizer."""

    train: list[str]
    valid: str
    tokenizer: str


NOWHERE = Prefixes(["-"], "-", "-")
"""In place of those of a sweep whose data is not prepared."""


@dataclass(frozen=True)
class Planned:
    """One run with everything that follows from the grid."""

    grid: Grid
    spec: RunSpec

    @property
    def name(self) -> str:
        """Of its folder."""
        return self.spec.name

    @cached_property
    def overrides(self) -> dict[str, Any]:
        """What makes `BASE` the shape of this run."""
        size, family = self.grid.sizes[self.spec.size], self.grid.families[self.spec.family]
        shape: dict[str, Any] = {
            "vocab_size": self.grid.vocab_size,
            "hidden_size": size.hidden_size,
            "num_hidden_layers": size.num_hidden_layers,
            "num_attention_heads": size.num_attention_heads,
            "num_key_value_heads": size.num_key_value_heads,
            "head_dim": size.hidden_size // size.num_attention_heads,
            "intermediate_size": round(self.grid.mlp_ratio * size.hidden_size),
            "num_nextn_predict_layers": 0,
            "initializer_range": round(self.grid.training.init_scale / size.hidden_size**0.5, 6),
            "num_experts": family.num_experts,
            "num_experts_per_tok": family.num_experts_per_tok,
            "num_shared_experts": family.num_shared_experts,
            "n_group": 1,
            "topk_group": 1,
        }
        if family.granularity is None:
            return {**shape, "first_k_dense_replace": size.num_hidden_layers}
        width = round(2 * size.hidden_size / family.granularity)
        return {
            **shape,
            "moe_intermediate_size": width,
            "moe_shared_expert_intermediate_size": width * family.num_shared_experts,
            "first_k_dense_replace": 0,
        }

    @cached_property
    def config(self) -> ModelConfig:
        """Its shape."""
        return preset(BASE).replace(**self.overrides)

    @cached_property
    def token_flops(self) -> TokenFlops:
        """Training FLOPs of a token by both counts."""
        return token_flops(self.config, self.grid.data.seq_length)

    @cached_property
    def batch_rows(self) -> int:
        """Rows per step: the tokens of the law, in whole forward passes."""
        training = self.grid.training
        wanted = training.batch_tokens or optimal_batch_tokens(self.spec.flops)
        rows = max(1, round(wanted / self.grid.data.seq_length))
        passes = math.ceil(rows / training.max_batch_rows)
        return passes * round(rows / passes)

    @property
    def batch_tokens(self) -> int:
        """Tokens per step."""
        return self.batch_rows * self.grid.data.seq_length

    @cached_property
    def steps(self) -> int:
        """As many as come nearest to the budget; `UsageError` where that is none."""
        step = self.token_flops.without_head * self.batch_tokens
        if steps := round(self.spec.flops / step):
            return steps
        raise UsageError(
            f"a step takes {step:.2g} FLOPs, more than its budget of {self.spec.flops:.2g}"
        )

    @property
    def tokens(self) -> int:
        """Tokens trained."""
        return self.steps * self.batch_tokens

    @property
    def lr(self) -> float:
        """Peak learning rate."""
        base = self.grid.training.lr or optimal_lr(self.spec.flops)
        return float(f"{base * self.spec.lr_factor:.4g}")

    @property
    def flops(self) -> float:
        """Of the run, by the laws' count."""
        return float(self.tokens * self.token_flops.without_head)

    @property
    def flops_with_head(self) -> float:
        """Of the run, with the head."""
        return float(self.tokens * self.token_flops.with_head)

    def check(self) -> None:
        """Raise `UsageError` for a shape or a recipe that cannot be."""
        try:
            self.recipe(NOWHERE)
            assert self.config
        except InputError as err:
            raise UsageError(f"run `{self.name}`: {err}") from None

    def recipe(self, data: Prefixes) -> PretrainConfig:
        """What `ling pretrain` would be given for the same run."""
        training, rows = self.grid.training, self.batch_rows
        passes = math.ceil(rows / training.max_batch_rows)
        return PretrainConfig(
            model=BASE,
            model_overrides=self.overrides,
            data=DataConfig(
                prefix=data.train,
                valid_prefix=[data.valid],
                tokenizer=data.tokenizer,
                seq_length=self.grid.data.seq_length,
            ),
            train=TrainConfig(
                steps=self.steps,
                global_batch_size=rows,
                micro_batch_size=rows // passes,
                dtype=training.dtype,
                seed=self.spec.seed,
                bias_update_rate=training.bias_update_rate,
                max_nonfinite=training.max_nonfinite,
                threads=training.threads,
                eval_rows=_ALL_ROWS,
                loggers=[],
            ),
            optim=self._optim(),
            checkpoint=CheckpointConfig(
                interval_steps=math.ceil(self.steps / training.checkpoints), keep_last=1
            ),
        )

    def _optim(self) -> OptimConfig:
        training = self.grid.training
        decay = max(1, round(training.decay_share * self.steps))
        return OptimConfig(
            lr=self.lr,
            lr_min=0.0 if training.schedule == "constant" else self.lr * training.lr_min_ratio,
            schedule=training.schedule,
            warmup_steps=round(training.warmup_share * self.steps),
            decay_steps=decay if training.schedule == "wsd" else None,
            weight_decay=training.weight_decay,
        )


def planned_runs(grid: Grid) -> list[Planned]:
    """All runs of a grid in their order; `UsageError` names one that cannot be."""
    runs = [Planned(grid, spec) for spec in grid.runs()]
    for run in runs:
        run.check()
    return runs


def run_folder(out: Path, name: str) -> Path:
    """Where a run of the sweep in `out` is."""
    return out / "runs" / name
