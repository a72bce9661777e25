"""A sweep as a grid: budgets × sizes × families, and the runs that it comes to."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from ..config.checks import at_least
from ..errors import UsageError
from ..text import nearest, shown


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """The part of a shape that families share."""

    hidden_size: int
    """Width; heads times the size of a head."""
    num_hidden_layers: int
    """Layers."""
    num_attention_heads: int
    """Query heads."""
    num_key_value_heads: int
    """Key and value heads."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """What a token meets behind attention: an MLP (no experts), or experts."""

    num_experts: int = 0
    """Routed experts; 0 is a dense family."""
    num_experts_per_tok: int = 0
    """Routed experts of a token."""
    num_shared_experts: int = 0
    """Experts that all tokens use."""
    granularity: float | None = None
    """2 × hidden size / expert width."""

    def __post_init__(self) -> None:
        if bool(self.num_experts) != (self.granularity is not None):
            raise UsageError("`num_experts` and `granularity` go together")
        if self.granularity is not None and not self.granularity > 0:
            raise UsageError(f"`granularity` is {self.granularity}, expected a number above 0")

    def mlp_ratio(self, dense: float) -> float:
        """Width that a token uses, in hidden sizes; `dense` is that of the dense family."""
        if self.granularity is None:
            return dense
        return (self.num_experts_per_tok + self.num_shared_experts) * 2 / self.granularity


@dataclass(frozen=True, kw_only=True, slots=True)
class GridData:
    """The text of all runs: prepared once with a tokenizer and a held-out part, or token files."""

    corpus: list[str] = field(default_factory=list)
    """`stdlib`, packages that `ling data fetch` brings, files and folders."""
    corpus_bytes: int | None = None
    """Take about this many bytes of the corpus."""
    valid_fraction: float = 0.005
    """Share of the documents that is held out; all of it is scored."""
    prefix: list[str] = field(default_factory=list)
    """Token files to train on, instead of `corpus`."""
    valid_prefix: str | None = None
    """Token files to score."""
    tokenizer: str | None = None
    """Tokenizer of the token files."""
    seq_length: int = 256
    """Tokens per row."""

    def __post_init__(self) -> None:
        if bool(self.corpus) == bool(self.prefix):
            raise UsageError("give either `data.corpus` or `data.prefix`, not both and not neither")
        if bool(self.prefix) != bool(self.valid_prefix):
            raise UsageError("`data.prefix` and `data.valid_prefix` go together")
        if self.prefix and not self.tokenizer:
            raise UsageError("`data.prefix` needs `data.tokenizer`, which knows where texts end")
        at_least("data.seq_length", self.seq_length, 1)
        if self.corpus_bytes is not None:
            at_least("data.corpus_bytes", self.corpus_bytes, 1)
        if not 0 < self.valid_fraction < 1:
            raise UsageError(
                f"`data.valid_fraction` is {self.valid_fraction}, expected a number between 0 and 1"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class GridTraining:
    """What all runs share but learning rate, batch and steps."""

    lr: float | None = None
    """Peak learning rate; by default the published law's at the budget."""
    batch_tokens: int | None = None
    """Tokens per step; by default the published law's at the budget."""
    max_batch_rows: int = 128
    """Rows per forward pass at most."""
    schedule: Literal["constant", "cosine", "wsd"] = "wsd"
    """Course of the learning rate behind its warm-up."""
    warmup_share: float = 0.02
    """Of the steps, with a learning rate that rises."""
    decay_share: float = 0.2
    """Of the steps, with a learning rate that falls (`wsd`)."""
    lr_min_ratio: float = 0.1
    """Last learning rate of `wsd` and `cosine`, as a share of the peak."""
    weight_decay: float = 0.1
    """Decoupled decay of matrices."""
    bias_update_rate: float = 1e-3
    """Step of the expert bias."""
    init_scale: float = 0.8
    """Initial weights have a standard deviation of this over the root of the width."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Compute type."""
    threads: int = 1
    """CPU threads of a run."""
    max_nonfinite: int = 5
    """A run diverged after this many steps in a row without a finite loss or gradient."""
    checkpoints: int = 10
    """How often a run saves."""

    def __post_init__(self) -> None:
        for name in ("max_batch_rows", "threads", "max_nonfinite", "checkpoints"):
            at_least(f"training.{name}", getattr(self, name), 1)
        for name in ("lr", "batch_tokens", "init_scale"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"`training.{name}` is {value}, expected a number above 0")
        for name in ("warmup_share", "decay_share", "lr_min_ratio"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"`training.{name}` is {getattr(self, name)}, expected 0 to 1")
        if self.schedule == "wsd" and self.warmup_share + self.decay_share > 1:
            raise UsageError(
                f"`training.warmup_share` = {self.warmup_share} and `training.decay_share` = "
                f"{self.decay_share} are more than all steps"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Extra:
    """More runs of one budget and size: other seeds, other learning rates."""

    budget: str
    """One of `budgets`."""
    size: str
    """One of `sizes`."""
    families: list[str] = field(default_factory=list)
    """Of `families`; by default all."""
    seeds: list[int] = field(default_factory=list)
    """By default that of the grid."""
    lr_factors: list[float] = field(default_factory=list)
    """Multiples of the learning rate; by default 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOut:
    """Runs that fits are not to see; what is not given means all."""

    budget: str | None = None
    """One of `budgets`."""
    size: str | None = None
    """One of `sizes`."""
    family: str | None = None
    """One of `families`."""


class RunSpec(NamedTuple):
    """One run of a grid."""

    budget: str
    size: str
    family: str
    seed: int
    lr_factor: float
    held_out: bool

    @property
    def name(self) -> str:
        """Its folder: `1e14-m-1of32`, and what differs from the grid's main runs."""
        parts = [budget_name(self.budget), self.size, self.family.replace("/", "of")]
        parts += [f"lr{self.lr_factor:g}"] * (self.lr_factor != 1)
        return "-".join([*parts, f"seed{self.seed}"])

    @property
    def flops(self) -> float:
        """The budget."""
        return float(self.budget)

    @property
    def meaning(self) -> tuple[object, ...]:
        """What is equal where a run is there twice; a budget may be written in two ways."""
        return self.flops, self.size, self.family, self.seed, self.lr_factor


def budget_name(budget: str) -> str:
    """`1e14`, which `1.0e+14` is too."""
    digits, _, exponent = f"{float(budget):e}".partition("e")
    return f"{float(digits):g}e{int(exponent)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """A sweep."""

    budgets: dict[str, list[str]]
    """Compute (M × D of the published laws, head not counted) and the sizes that it is spent on."""
    sizes: dict[str, Size]
    """Shapes by name, the smallest first."""
    families: dict[str, Family]
    """`dense`, and mixtures of experts by the share of experts that a token uses, as `1/32`."""
    data: GridData
    """The text of all runs."""
    training: GridTraining = field(default_factory=GridTraining)
    """What all runs share."""
    vocab_size: int = 2048
    """Ids of tokenizer and model."""
    mlp_ratio: float = 2.0
    """Width of the dense MLP, in hidden sizes; experts must come to the same."""
    seed: int = 1
    """Of initial weights and order of data."""
    extra: list[Extra] = field(default_factory=list)
    """More runs."""
    held_out: list[HeldOut] = field(default_factory=list)
    """Runs that fits are not to see."""

    def __post_init__(self) -> None:
        for name, shape in self.sizes.items():
            _check_size(name, shape)
        for budget, sizes in self.budgets.items():
            _check_budget(budget)
            for size in sizes:
                _check_name(f"budgets.{budget}", size, self.sizes)
        for n, more in enumerate(self.extra):
            _check_name(f"extra[{n}].budget", more.budget, self.budgets)
            _check_name(f"extra[{n}].size", more.size, self.sizes)
            for family in more.families:
                _check_name(f"extra[{n}].families", family, self.families)
            for factor in more.lr_factors:
                if not factor > 0:
                    key = f"extra[{n}].lr_factors"
                    raise UsageError(f"`{key}` has {factor}, expected numbers above 0")
        for n, some in enumerate(self.held_out):
            for key, known in (("budget", self.budgets), ("size", self.sizes)):
                _check_optional(f"held_out[{n}].{key}", getattr(some, key), known)
            _check_optional(f"held_out[{n}].family", some.family, self.families)
        self._check_families()

    def _check_families(self) -> None:
        for name, family in self.families.items():
            ratio = family.mlp_ratio(self.mlp_ratio)
            if abs(ratio - self.mlp_ratio) > 1e-9:
                raise UsageError(
                    f"`families.{name}`: a token uses experts of {ratio:g} hidden sizes, the dense "
                    f"MLP has `mlp_ratio` = {self.mlp_ratio:g}: families of one size would have "
                    "different active sizes"
                )
            if not name.replace("/", "").isalnum():
                raise UsageError(f"`families` has {shown(name)}, expected `dense` or a share")

    def runs(self) -> list[RunSpec]:
        """All runs, the cheapest budget first, its main runs before the others; each once.

        `UsageError` for two that would have one folder.
        """
        found: dict[str, RunSpec] = {}
        for budget in sorted(self.budgets, key=float):
            for run in (*self._main(budget), *self._more(budget)):
                first = found.setdefault(run.name, run)
                if first.meaning != run.meaning:
                    raise UsageError(
                        f"two runs have the name `{run.name}`: rename a size or family"
                    )
        return list(found.values())

    def _main(self, budget: str) -> Iterator[RunSpec]:
        for size in self.sizes:
            if size in self.budgets[budget]:
                for family in self.families:
                    yield self._run(budget, size, family, self.seed, 1.0)

    def _more(self, budget: str) -> Iterator[RunSpec]:
        for more in self.extra:
            if float(more.budget) != float(budget):
                continue
            for family in more.families or self.families:
                for seed in more.seeds or [self.seed]:
                    for factor in more.lr_factors or [1.0]:
                        yield self._run(budget, more.size, family, seed, factor)

    def _run(self, budget: str, size: str, family: str, seed: int, factor: float) -> RunSpec:
        given = {"budget": budget, "size": size, "family": family}
        held_out = any(
            all(getattr(some, key) in (None, value) for key, value in given.items())
            for some in self.held_out
        )
        return RunSpec(budget, size, family, seed, factor, held_out)


def _check_size(name: str, shape: Size) -> None:
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UsageError(f"`sizes` has {shown(name)}, expected a name of letters and digits")
    for key in ("hidden_size", "num_attention_heads"):
        at_least(f"sizes.{name}.{key}", getattr(shape, key), 1)
    if shape.hidden_size % shape.num_attention_heads:
        raise UsageError(
            f"`sizes.{name}.hidden_size` = {shape.hidden_size} is not a multiple of "
            f"`num_attention_heads` = {shape.num_attention_heads}"
        )


def _check_budget(budget: str) -> None:
    try:
        flops = float(budget)
    except ValueError:
        flops = 0.0
    if not 0 < flops < float("inf"):
        raise UsageError(f"`budgets` has {shown(budget)}, expected FLOPs such as 1e14")


def _check_optional(key: str, name: str | None, known: Mapping[str, object]) -> None:
    if name is not None:
        _check_name(key, name, known)


def _check_name(key: str, name: str, known: Mapping[str, object]) -> None:
    if name not in known:
        raise UsageError(
            f"`{key}` names {shown(name)}{nearest(name, list(known))}; there are {', '.join(known)}"
        )
