"""What `ling nano` is asked for: two recipes, their sizes, and what may change before a rerun."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config.kinds import Recipe, flat
from ..config.optim import OptimConfig
from ..config.recipe import CheckpointConfig, DataConfig, PretrainConfig, TrainConfig
from ..config.recipe_file import packaged_recipes, read_recipe
from ..config.sft import ChatDataConfig, SFTConfig, SFTOptimConfig, SFTTrainConfig
from ..data.packages.catalogue import default_folder
from ..errors import UsageError
from ..files.atomic import read_json
from .sources import PACKAGES, Part, nano_parts

NAME, BASE, CHAT = "ling-nano", "ling-nano-base", "ling-nano-chat"
# What was done in a folder, and with which settings.
NOTE = "nano.json"
_MOST_MINUTES, _LEAST_STEPS = 6000, 20
# Of the time that a whole run takes; most is fine-tuning.
_PRETRAIN_SHARE = 1 / 6
# Of a run whose steps are not the recipe's: a checkpoint at each percent, kept at each fifth.
_CHECKPOINTS, _KEPT = 100, 5
# Keys that decide nothing of what is made; checkpoints are the recipe's, or follow from the steps.
_FREE = (
    "train.threads",
    "train.device",
    "train.log_interval_steps",
    "train.loggers",
    "train.eval_interval_steps",
    "checkpoint.",
)


@dataclass(frozen=True)
class Plan:
    """What is made.

    `stop_after` ends the pre-training there, to compare its losses; nothing is made of it.
    """

    base: PretrainConfig
    chat: SFTConfig
    shape: str = NAME
    """The preset of the model."""
    packages: Path = dataclasses.field(default_factory=default_folder)
    names: tuple[str, ...] = PACKAGES
    parts: Callable[[Path, Path], Mapping[str, Part]] = nano_parts
    copying_steps: int = 150
    merge_last: int = 12
    conversations: int = 42_000
    held_out: int = 512
    most_bytes: int = 22_000_000
    stop_after: int | None = None

    @property
    def shares(self) -> dict[str, float]:
        """Of tokens, by the names of the parts, which are the folders of the prefixes."""
        data = self.base.data
        assert data.weights is not None
        return dict(zip((Path(p).parent.name for p in data.prefix), data.weights, strict=True))

    @property
    def tokens(self) -> int:
        """Of the whole pre-training."""
        train = self.base.train
        return train.rows(train.steps) * self.base.data.seq_length

    def settings(self) -> dict[str, Any]:
        """What a rerun has to have in common, by dotted keys."""
        return {
            **{f"base.{key}": value for key, value in _deciding(self.base)},
            **{f"chat.{key}": value for key, value in _deciding(self.chat)},
            "shape": self.shape,
            "copying_steps": self.copying_steps,
            "merge_last": self.merge_last,
            "conversations": self.conversations,
            "held_out": self.held_out,
            "stop_after": self.stop_after,
        }


def _deciding(recipe: Recipe) -> Iterator[tuple[str, Any]]:
    for key, value in flat(dataclasses.asdict(recipe)).items():
        if not key.startswith(_FREE):
            yield key, value


def require_same(before: Mapping[str, Any], now: Mapping[str, Any], where: Path) -> None:
    """Raise `UsageError` naming the first key that was another one in `before`."""
    for key in sorted({*before, *now}):
        if before.get(key) != now.get(key):
            raise UsageError(
                f"{where}: `{key}` was {before.get(key)} and is now {now.get(key)}; use another "
                "folder or the old value"
            )


def read_note(path: Path) -> dict[str, Any]:
    """What was noted in a folder; raises `UsageError` where it is damaged."""
    note = read_json(path)
    keys = ("settings", "stages")
    if not isinstance(note, dict) or not all(isinstance(note.get(key), dict) for key in keys):
        raise UsageError(f"{path}: damaged; delete it to go through the stages again")
    return note


def steps_of(out: Path, minutes: float) -> int:
    """Steps of pre-training of a run of about `minutes`: timed once, before `out` is begun."""
    from ..eval.bench import steps_within

    if not 0 < minutes <= _MOST_MINUTES:
        raise UsageError(f"`--minutes` is {minutes}, expected up to {_MOST_MINUTES}")
    if (out / NOTE).is_file():
        return int(read_note(out / NOTE)["settings"]["base.train.steps"])
    base = _base()
    rows, length = base.train.global_batch_size, base.data.seq_length
    return max(steps_within(minutes * _PRETRAIN_SHARE, NAME, rows, length), _LEAST_STEPS)


def packaged_plan(steps: int | None = None, **options: Any) -> Plan:
    """That of the packaged recipes; with another number of steps of pre-training, and as many
    times the conversations, where one is given."""
    base, chat = _base(), _chat()
    if steps is not None:
        share = steps / base.train.steps
        options = {"conversations": math.ceil(Plan.conversations * share), **options}
        base = dataclasses.replace(
            base,
            train=dataclasses.replace(base.train, steps=steps),
            checkpoint=_evenly(steps),
        )
    return Plan(base, chat, **options)


def _evenly(steps: int) -> CheckpointConfig:
    every = max(steps // _CHECKPOINTS, 1)
    return CheckpointConfig(
        interval_steps=every,
        keep_last=24,
        keep_every_steps=max(steps // _KEPT // every, 1) * every,
    )


def _base() -> PretrainConfig:
    tree = read_recipe(packaged_recipes("pretrain")[BASE])
    return PretrainConfig(
        model=tree["model"],
        data=DataConfig(**tree["data"]),
        train=TrainConfig(**tree["train"]),
        optim=OptimConfig(**tree["optim"]),
        checkpoint=CheckpointConfig(**tree["checkpoint"]),
    )


def _chat() -> SFTConfig:
    tree = read_recipe(packaged_recipes("sft")[CHAT], SFTConfig)
    return SFTConfig(
        model=tree["model"],
        data=ChatDataConfig(**tree["data"]),
        train=SFTTrainConfig(**tree["train"]),
        optim=SFTOptimConfig(**tree["optim"]),
        checkpoint=CheckpointConfig(**tree["checkpoint"]),
    )
