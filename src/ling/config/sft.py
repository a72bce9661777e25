"""The recipe of `ling sft`: fine-tuning on conversations, and on pairs of answers."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from ..errors import UsageError
from ..text import nearest
from .checks import at_least, one_is_a_list
from .optim import OptimConfig
from .parallel import ParallelConfig
from .recipe import CheckpointConfig, TrainConfig, check_sections

# Kinds of matrices that can have an adapter, as `lora.targets` names them.
TARGETS = ("attention", "dense", "shared", "experts")
# The peak rate where a recipe names none: the released fine-tuning's; adapters need a larger one,
# pairs a smaller one than answers.
_LR, _ADAPTER_LR, _ADAPTER_DPO_LR = 1e-6, 1e-4, 1e-5


@dataclass(frozen=True, kw_only=True)
class ChatDataConfig:
    """Which conversations are trained on, and how they become rows."""

    files: list[str] = field(default_factory=list)
    """Files with records (jsonl, json, parquet, also gz and zst), or names in `dataset_info`."""
    dataset_info: str | None = None
    """A `dataset_info.json` of LLaMA-Factory, which says of its names where files are and what
    their columns mean."""
    format: Literal[
        "auto", "messages", "sharegpt", "alpaca", "prompt_response", "preference", "tokens"
    ] = "auto"
    """Format of the records; `auto` tells by their keys."""
    weights: list[float] | None = None
    """Share of each file in the mixture; by default each record is read once an epoch."""
    valid_files: list[str] = field(default_factory=list)
    """Records for the held-out loss."""
    valid_share: float = 0.0
    """Part of the records to hold out instead, chosen by `train.seed`."""
    max_samples: int | None = None
    """Read at most this many records of each file."""
    tokenizer: str | None = None
    """A tokenizer folder; by default that of the model."""
    template: str | None = None
    """Chat template: a file, or `megatron` for the original training's own text; by default what
    the server would take for the model."""
    thinking: bool = False
    """Render with `enable_thinking`, as a request that asks for reasoning."""
    mask_history: bool = False
    """Train only the last answer of each conversation."""
    seq_length: int = 8192
    """Tokens per row; a longer sample is `over_long`."""
    over_long: Literal["drop", "error", "cut-left", "split"] = "drop"
    """What becomes of a sample that is longer than a row; always counted and told."""
    packing: Literal["best_fit", "off", "megatron"] = "best_fit"
    """Several samples in a row that do not see each other; one a row; or the original's packing, in
    which they do."""
    split_turns: bool = False
    """Train each turn in a sample of its own where an earlier turn's reasoning disappears later."""
    skip_bad: bool = False
    """Leave out records that cannot be used, counted, instead of stopping at the first."""

    def __post_init__(self) -> None:
        one_is_a_list(self, "files", "weights", "valid_files")
        at_least("data.seq_length", self.seq_length, 2)
        if not self.files:
            raise UsageError("`data.files` is empty: name the files to train on")
        if not 0 <= self.valid_share < 1:
            raise UsageError(f"`data.valid_share` is {self.valid_share}, expected 0 up to below 1")
        if self.valid_share and self.valid_files:
            raise UsageError(
                "`data.valid_files` are held out already: give them or `data.valid_share`, not both"
            )
        if self.max_samples is not None:
            at_least("data.max_samples", self.max_samples, 1)
        if self.weights is not None:
            self._check_weights(self.weights)

    def _check_weights(self, weights: list[float]) -> None:
        if len(weights) != len(self.files):
            raise UsageError(
                f"`data.weights` needs one value for each of `data.files` ({len(self.files)}), not "
                f"{len(weights)}"
            )
        if not all(math.isfinite(w) and w > 0 for w in weights):
            raise UsageError("`data.weights` must be above 0")

    @property
    def has_held_out(self) -> bool:
        """Whether some records are not trained on."""
        return bool(self.valid_files) or self.valid_share > 0


@dataclass(frozen=True, kw_only=True)
class SFTTrainConfig(TrainConfig):
    """The training loop; the released fine-tuning's settings by default."""

    LEAST_STEPS: ClassVar[int] = 0

    steps: int = 0
    """Optimizer steps in all; 0 with `epochs`."""
    epochs: float = 1.0
    """How often each record is trained on, where `steps` is 0; shuffled again in each epoch."""
    global_batch_size: int = 8
    """Rows per optimizer step, over all ranks."""
    micro_batch_size: int = 1
    """Rows per forward pass on one rank."""
    seed: int = 1234
    """Seed of sample order, adapters and dropout."""
    mtp_loss_weight: float = 0.0
    """Weight of the MTP loss; 0 leaves the MTP layer as it is."""
    bias_update_rate: float = 0.0
    """Step of the auxiliary-loss-free expert bias; 0 freezes it."""
    train_router: bool = False
    """Train the router's weights too (full fine-tuning)."""
    early_stop: int = 0
    """Stop after N measurements of the held-out loss without a better one; 0 never stops."""
    show_samples: int = 2
    """Held-out prompts that are answered at each measurement, to look at."""
    show_tokens: int = 128
    """Tokens of such an answer at most."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.epochs) and self.epochs > 0) and not self.steps:
            raise UsageError(f"`train.epochs` is {self.epochs}, expected a number above 0")
        at_least("train.early_stop", self.early_stop, 0)
        at_least("train.show_samples", self.show_samples, 0)
        at_least("train.show_tokens", self.show_tokens, 1)
        if self.early_stop and not self.eval_interval_steps:
            raise UsageError(
                f"`train.early_stop` = {self.early_stop} counts measurements of the held-out loss: "
                "set `train.eval_interval_steps`"
            )


@dataclass(frozen=True, kw_only=True)
class SFTOptimConfig(OptimConfig):
    """AdamW and its learning-rate schedule."""

    lr: float = 0.0
    """Peak learning rate; 0 chooses by what is trained: 1e-6 for `method: full`, with adapters
    1e-4, and 1e-5 for pairs."""
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "constant"
    """Course of the learning rate behind the warm-up; `wsd` is constant up to its last
    `decay_steps`."""


@dataclass(frozen=True, kw_only=True)
class LoRAConfig:
    """Low-rank adapters (`method: lora` and `qlora`)."""

    targets: list[str] = field(default_factory=lambda: ["attention", "dense", "shared", "experts"])
    """Kinds of matrices that get an adapter."""
    rank: int = 16
    """Rank of adapters of attention, dense and shared matrices."""
    expert_rank: int = 4
    """Rank of adapters of routed experts."""
    alpha: float = 32.0
    """The adapter's product is scaled by alpha / rank (of each kind)."""
    rslora: bool = False
    """Scale by alpha / √rank instead."""
    dropout: float = 0.0
    """Share of an adapter's inputs that is left out while training; adapters of routed experts have
    no dropout (peft's have none either)."""
    adapter: str | None = None
    """An adapter folder to go on from, of the same matrices, ranks and scale; by default a run
    begins with no change."""

    def __post_init__(self) -> None:
        at_least("lora.rank", self.rank, 1)
        at_least("lora.expert_rank", self.expert_rank, 1)
        one_is_a_list(self, "targets")
        for name in self.targets:
            if name not in TARGETS:
                raise UsageError(
                    f"`lora.targets` has `{name}`{nearest(name, list(TARGETS))}; there are "
                    f"{', '.join(TARGETS)}"
                )
        if not self.targets:
            raise UsageError(f"`lora.targets` is empty; there are {', '.join(TARGETS)}")
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise UsageError(f"`lora.alpha` is {self.alpha}, expected a number above 0")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"`lora.dropout` is {self.dropout}, expected 0 up to below 1")

    def rank_of(self, kind: str) -> int:
        """Rank of the adapters of a kind of matrices."""
        return self.expert_rank if kind == "experts" else self.rank


@dataclass(frozen=True, kw_only=True)
class DPOConfig:
    """Direct preference optimisation (`objective: dpo`)."""

    beta: float = 0.1
    """How far the policy may go from the reference: larger keeps it nearer."""
    label_smoothing: float = 0.0
    """Share of pairs that are taken to be labelled the wrong way round."""
    sft_weight: float = 0.0
    """Weight of the loss of the chosen answer beside that of the pair."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.beta) and self.beta > 0):
            raise UsageError(f"`dpo.beta` is {self.beta}, expected a number above 0")
        if not 0 <= self.label_smoothing < 0.5:
            raise UsageError(
                f"`dpo.label_smoothing` is {self.label_smoothing}, expected 0 up to below 0.5"
            )
        at_least("dpo.sft_weight", self.sft_weight, 0)


@dataclass(frozen=True, kw_only=True)
class SFTConfig:
    """A fine-tuning recipe."""

    model: str
    """A checkpoint with weights: folder, run, or hub name."""
    model_overrides: dict[str, Any] = field(default_factory=dict)
    """Fields of config.json to change."""
    method: Literal["full", "lora", "qlora"] = "full"
    """All weights; low-rank adapters on frozen weights; or on weights frozen in integers or FP8."""
    objective: Literal["sft", "dpo"] = "sft"
    """Answers to learn, or pairs of a better and a worse one."""
    data: ChatDataConfig
    """Which conversations."""
    train: SFTTrainConfig = field(default_factory=SFTTrainConfig)
    """The training loop."""
    optim: SFTOptimConfig = field(default_factory=SFTOptimConfig)
    """AdamW and its learning-rate schedule."""
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    """Low-rank adapters."""
    dpo: DPOConfig = field(default_factory=DPOConfig)
    """Direct preference optimisation."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """When checkpoints are written and which are kept."""
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    """How ranks share the work."""

    def __post_init__(self) -> None:
        check_sections(self.data.seq_length, self.train, self.optim, self.parallel)
        if not self.optim.lr:
            optim = dataclasses.replace(self.optim, lr=self._default_lr)
            object.__setattr__(self, "optim", optim)
        if self.uses_adapter and self.train.train_router:
            raise UsageError(
                f"`train.train_router` needs `method: full`: with `method: {self.method}` all "
                "weights of the model are frozen"
            )
        if self.objective == "dpo":
            self._check_pairs()
        if self.train.early_stop and not self.data.has_held_out:
            raise UsageError(
                "`train.early_stop` needs records to measure the held-out loss on: set "
                "`data.valid_share` or `data.valid_files`"
            )

    def _check_pairs(self) -> None:
        """Raise `UsageError` for what pairs cannot have: each is a row of its own."""
        for key, is_set, why in (
            (
                "train.mtp_loss_weight",
                self.train.mtp_loss_weight > 0,
                "has no MTP loss: set it to 0",
            ),
            ("data.packing", self.data.packing == "megatron", "packs nothing: leave it out"),
            ("data.weights", self.data.weights is not None, "reads each pair once: leave it out"),
        ):
            if is_set:
                raise UsageError(f"`{key}`: `objective: dpo` {why}")

    @property
    def uses_adapter(self) -> bool:
        """Whether an adapter is trained and the weights of the model are frozen."""
        return self.method != "full"

    @property
    def _default_lr(self) -> float:
        if not self.uses_adapter:
            return _LR
        return _ADAPTER_DPO_LR if self.objective == "dpo" else _ADAPTER_LR
