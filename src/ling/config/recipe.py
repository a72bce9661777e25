"""The pre-training recipe: the one schema behind YAML files and command-line flags."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ..errors import UsageError
from ..text import nearest
from . import batch_ramp
from .checks import at_least, one_is_a_list
from .optim import OptimConfig
from .parallel import ParallelConfig

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

LOGGERS = ("tensorboard", "wandb", "trackio")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where training tokens come from."""

    corpus: str | None = None
    """`stdlib`, a folder or file (text, jsonl, json, parquet, also gz), or a data set on the hub
    (`hf://datasets/ORG/NAME`); prepared into `<out>/data` on first use."""
    corpus_bytes: int | None = None
    """Take about this many bytes of the corpus (spread evenly over its files)."""
    json_key: str | None = None
    """Key or parquet column with the text of a record; by default `text`, `content` or the like."""
    vocab_size: int = 4096
    """Size of the tokenizer trained for `corpus` when no `tokenizer` is given."""
    tokenizer: str | None = None
    """An existing Hugging Face tokenizer: a folder or the hub name of a model. By default that of
    the `model` folder, or the one that `ling data prepare` left beside `prefix`."""
    replace_tokenizer: bool = False
    """Train the weights of a `model` folder on ids of another tokenizer than its own."""
    prefix: list[str] = field(default_factory=list)
    """Megatron `.bin/.idx` prefixes to train on, instead of `corpus`; one, or a list."""
    weights: list[float] | None = None
    """Share of each prefix in the mixture; by default in proportion to their tokens."""
    epochs: list[float] | None = None
    """How often each prefix (or the corpus) is read at most, 0.5 for half of it; by default as
    often as the steps need. A mixture that is used up before the last step does not start."""
    packing: Literal["concatenate", "best_fit"] = "concatenate"
    """How documents fill rows: one behind the other, cut where a row ends (Megatron's order), or
    whole, those that fit a row, with padding behind them (best-fit packing)."""
    valid_prefix: list[str] = field(default_factory=list)
    """Prefixes for the held-out loss."""
    split: list[float] | None = None
    """Shares of each prefix's documents, in their order: trained on, held out, left (`999,1,0`);
    instead of `valid_prefix`."""
    seq_length: int = 1024
    """Tokens per row."""
    eod_mask_loss: bool = True
    """No loss where the input is the end-of-document token."""
    isolate_documents: bool = False
    """Mask attention, restart positions and drop targets across document borders."""

    def __post_init__(self) -> None:
        one_is_a_list(self, "prefix", "valid_prefix", "weights", "epochs", "split")
        at_least("data.seq_length", self.seq_length, 2)
        at_least("data.vocab_size", self.vocab_size, 1)
        if self.corpus_bytes is not None:
            at_least("data.corpus_bytes", self.corpus_bytes, 1)
        if bool(self.corpus) == bool(self.prefix):
            raise UsageError("give either `data.corpus` or `data.prefix`, not both and not neither")
        if self.weights is not None:
            self._check_per_prefix("weights", self.weights, len(self.prefix))
        if self.epochs is not None:
            self._check_per_prefix("epochs", self.epochs, len(self.prefix) or 1)
        if self.split is not None:
            self._check_split(self.split)

    def _check_per_prefix(self, name: str, values: list[float], count: int) -> None:
        if not count:
            raise UsageError(f"`data.{name}` needs `data.prefix`")
        if len(values) != count:
            what = f"each `data.prefix` ({count})" if self.prefix else "the corpus"
            raise UsageError(f"`data.{name}` needs one value for {what}, not {len(values)}")
        if not all(math.isfinite(v) and v > 0 for v in values):
            raise UsageError(f"`data.{name}` must be above 0")

    def _check_split(self, split: list[float]) -> None:
        if not 2 <= len(split) <= 3 or not all(math.isfinite(s) and s >= 0 for s in split):
            raise UsageError(
                f"`data.split` is {split}, expected two or three shares such as [999, 1, 0]"
            )
        if not split[0]:
            raise UsageError(f"`data.split` is {split}: nothing is left to train on")
        if self.packing != "concatenate":
            raise UsageError("`data.split` needs `data.packing: concatenate`")
        if not self.prefix or self.valid_prefix:
            raise UsageError(
                "`data.split` divides `data.prefix`; a corpus and `data.valid_prefix` have their "
                "own held-out part"
            )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The training loop."""

    LEAST_STEPS: ClassVar[int] = 1

    steps: int = 1000
    """Optimizer steps in all."""
    global_batch_size: int = 16
    """Rows per optimizer step, over all ranks."""
    rampup_batch_size: list[int] | None = None
    """Grow to `global_batch_size`: first batch, increment, and the rows over which it grows."""
    micro_batch_size: int = 4
    """Rows per forward pass on one rank."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Compute type; parameters and optimizer state stay in float32."""
    fp8: Literal["off", "blockwise"] = "off"
    """`blockwise`: products of linear layers and experts in FP8 (E4M3) with a scale for each 1×128
    tile, and for 128×128 of weights; needs `dtype: bfloat16`."""
    fp8_scales: Literal["power-of-two", "float32"] = "power-of-two"
    """Scales of `fp8: blockwise`."""
    fp8_products: Literal["auto", "emulation"] = "auto"
    """How they are computed: `auto` uses a GPU's FP8 where it has it (`ling doctor` says what it
    comes to); `emulation` has the same numerics from bfloat16 products on any device."""
    fp8_param_gather: bool = False
    """Keep weights in FP8 only, quantised again from their float32 masters after each step; ranks
    that share weights exchange their bytes."""
    fp8_transpose_on_demand: bool = False
    """Transpose FP8 weights when the backward pass needs it, instead of keeping both; products on
    CPUs keep one copy in any case."""
    fp8_pad_routing: bool = False
    """Fill each expert's rows up to a multiple of 16 by marking tokens of weight 0, instead of
    copying rows into padded ones."""
    seed: int = 42
    """Seed of initialisation and sample order."""
    grad_clip: float = 1.0
    """Largest global gradient norm; 0 turns clipping off."""
    z_loss_coef: float = 3.5e-6
    """Router z-loss coefficient."""
    mtp_loss_weight: float = 0.1
    """Weight of the MTP loss; 0 leaves the MTP layer as it is."""
    bias_update_rate: float = 1e-3
    """Step of the auxiliary-loss-free expert bias; 0 freezes it."""
    bias_update_hold_steps: int | None = None
    """Steps with this rate; by default all."""
    bias_update_decay_steps: int = 0
    """Steps over which it then falls, linearly, to `bias_update_rate_end`; 0 means at once."""
    bias_update_rate_end: float = 0.0
    """Rate behind the steps that hold and decay."""
    bias_zero_mean: bool = True
    """Keep the sum of each layer's expert bias constant."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the network is; `auto` takes a CUDA GPU where torch sees one, local rank k the k-th."""
    threads: int | None = None
    """CPU threads; by default torch's own choice."""
    eval_interval_steps: int = 0
    """Measure held-out loss every N steps; 0 means only at the end."""
    eval_rows: int = 16
    """Rows of held-out data per measurement."""
    log_interval_steps: int = 10
    """Log memory, time by rank and router bias every N steps; losses and norms at every step."""
    loggers: list[str] | None = None
    """Where numbers go besides `metrics.jsonl`: `tensorboard`, `wandb`, `trackio`, or none; by
    default TensorBoard where it is installed."""
    profile: list[int] = field(default_factory=list)
    """Steps to profile: traces, tables and memory of each rank under `<out>/profile`."""
    max_nonfinite: int = 5
    """Stop after N steps in a row without a finite loss or gradient."""
    spike_factor: float = 0.0
    """Skip a step, as one that is not finite, whose gradient norm is above this times the median of
    the last 100 steps; 0 turns it off."""
    rollback: int = 0
    """Instead of stopping after `max_nonfinite` such steps, go back to the last good checkpoint and
    leave out their rows; at most N times in a run."""
    group_timeout_s: int | None = None
    """Seconds after which a rank that waits for another gives up; by default 30 on gloo, 600 on
    NCCL."""

    def __post_init__(self) -> None:
        if isinstance(self.rampup_batch_size, tuple):  # a frozen key of `phases`, and as YAML
            object.__setattr__(self, "rampup_batch_size", list(self.rampup_batch_size))
        at_least("train.steps", self.steps, self.LEAST_STEPS)
        for name in ("global_batch_size", "micro_batch_size", "eval_rows"):
            at_least(f"train.{name}", getattr(self, name), 1)
        at_least("train.eval_interval_steps", self.eval_interval_steps, 0)
        at_least("train.max_nonfinite", self.max_nonfinite, 1)
        at_least("train.rollback", self.rollback, 0)
        if self.spike_factor:
            at_least("train.spike_factor", self.spike_factor, 1)
        at_least("train.log_interval_steps", self.log_interval_steps, 1)
        one_is_a_list(self, "loggers", "profile")
        for step in self.profile:
            at_least("train.profile", step, 1)
        for name in self.loggers or ():
            if name not in LOGGERS:
                raise UsageError(
                    f"`train.loggers` has `{name}`{nearest(name, list(LOGGERS))}; there are "
                    f"{', '.join(LOGGERS)}"
                )
        if self.fp8 != "off" and self.dtype != "bfloat16":
            raise UsageError(
                f"`train.fp8: {self.fp8}` gives bfloat16 activations and gradients: set "
                f"`train.dtype: bfloat16` instead of `{self.dtype}`, or `train.fp8: off`"
            )
        for name in ("fp8_param_gather", "fp8_transpose_on_demand", "fp8_pad_routing"):
            if getattr(self, name) and self.fp8 == "off":
                raise UsageError(
                    f"`train.{name}: true` needs products in FP8: set `train.fp8: blockwise`, or "
                    f"`train.{name}: false`"
                )
        if self.group_timeout_s is not None:
            at_least("train.group_timeout_s", self.group_timeout_s, 1)
        if self.threads is not None:
            at_least("train.threads", self.threads, 1)
        for name in ("grad_clip", "z_loss_coef", "mtp_loss_weight", "bias_update_rate"):
            at_least(f"train.{name}", getattr(self, name), 0)
        for name in ("bias_update_decay_steps", "bias_update_rate_end"):
            at_least(f"train.{name}", getattr(self, name), 0)
        if self.bias_update_hold_steps is not None:
            at_least("train.bias_update_hold_steps", self.bias_update_hold_steps, 0)
        if self.rampup_batch_size is not None:
            batch_ramp.check_ramp(self.rampup_batch_size, self.global_batch_size)
        for key, rows in self.batches().items():
            if rows % self.micro_batch_size:
                raise UsageError(
                    f"{key} = {rows} is not a multiple of `train.micro_batch_size` = "
                    f"{self.micro_batch_size}"
                )

    @property
    def _phases(self) -> tuple[batch_ramp.Phase, ...]:
        ramp = self.rampup_batch_size
        return batch_ramp.phases(None if ramp is None else tuple(ramp), self.global_batch_size)

    def batches(self) -> dict[str, int]:
        """The batch sizes of the run in rows, by what an error calls them."""
        *growing, last = self._phases
        named = {
            f"a batch of `train.rampup_batch_size` (from step {p.steps + 1})": p.batch
            for p in growing
        }
        return {"`train.global_batch_size`": last.batch, **named}

    def batch_size(self, step: int) -> int:
        """Rows of step `step`, counted from 1."""
        return batch_ramp.batch_size(self._phases, step)

    def rows(self, steps: int) -> int:
        """Rows of the first `steps` steps together."""
        return batch_ramp.rows_after(self._phases, steps)


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When checkpoints are written and which are kept."""

    interval_steps: int = 500
    """Save every N steps, and always at the end."""
    keep_last: int = 2
    """Keep the newest N; 0 keeps all."""
    keep_every_steps: int = 0
    """Keep also those of every N-th step, however old; 0 keeps none for that."""
    async_save: bool = False
    """Write checkpoints while steps continue, from a copy of weights and optimizer state in main
    memory."""

    def __post_init__(self) -> None:
        at_least("checkpoint.interval_steps", self.interval_steps, 1)
        at_least("checkpoint.keep_last", self.keep_last, 0)
        at_least("checkpoint.keep_every_steps", self.keep_every_steps, 0)
        if self.keep_every_steps % self.interval_steps:
            raise UsageError(
                f"`checkpoint.keep_every_steps` = {self.keep_every_steps} is not a multiple of "
                f"`checkpoint.interval_steps` = {self.interval_steps}, so none would be saved there"
            )


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """A pretraining recipe."""

    model: str
    """Preset name, or a folder with config.json (its weights are the start when it has them)."""
    model_overrides: dict[str, Any] = field(default_factory=dict)
    """Fields of config.json to change, such as `num_hidden_layers`."""
    data: DataConfig
    """Where training tokens come from."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """The training loop."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """AdamW and its learning-rate schedule."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """When checkpoints are written and which are kept."""
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    """How ranks share the work; see docs/concepts/training.md#ranks."""

    def __post_init__(self) -> None:
        check_sections(self.data.seq_length, self.train, self.optim, self.parallel)


def check_sections(
    length: int, train: TrainConfig, optim: OptimConfig, parallel: ParallelConfig
) -> None:
    """Refuse sections that do not fit each other; `length` is `data.seq_length`."""
    chunks, steps = 2 * parallel.cp, train.steps
    if chunks > 2 and length % chunks:
        raise UsageError(
            f"`data.seq_length` = {length} is not a multiple of 2 × `parallel.cp` = {chunks}; "
            f"set it to {math.ceil(length / chunks) * chunks}, or `parallel.cp: 1`"
        )
    if not steps:  # of a recipe in epochs, before its rows are counted
        return
    for step in train.profile:
        if step > steps:
            raise UsageError(f"`train.profile` is {step}, above `train.steps` = {steps}")
    flat = optim.flat_until(steps)
    if flat is not None and flat < 0:
        raise UsageError(
            f"`optim.decay_steps` = {optim.decay_steps} is more than the "
            f"{optim.decay_end(steps)} steps up to the end of the decay"
        )


def recipe_yaml(recipe: DataclassInstance) -> str:
    """The recipe with every key, as `recipe_file.read_recipe` takes it."""
    import yaml

    return yaml.safe_dump(dataclasses.asdict(recipe), sort_keys=False)
