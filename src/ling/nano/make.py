"""`ling nano`: how `ling-nano` is made, in stages; `OUT/nano.json` knows which of them are done.

A stage that was interrupted goes on where it was, one that is done is left as it is; the card is
completed each time.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ..convert.plan import convert
from ..errors import RunError, UsageError
from ..files.atomic import files_below, make_folder, read_json, write_atomic
from ..finetune import finetune, result_folder
from ..infer.sampling_defaults import FILE as SAMPLING_FILE
from ..presets import preset
from ..text import nearest, size
from ..tools.files import write_tools
from ..train.loop import run
from ..train.merge import merge
from ..train.progress import tell
from .card import write_card
from .checkpoints import held_out_of
from .corpus import prepare_corpus
from .course import write_start
from .held_out import held_out_parts
from .plan import NOTE, Plan, read_note, require_same
from .sources import Split, dialogues

STAGES = ("start", "fetch", "corpus", "pretrain", "merge", "sft", "pack", "card")
# What is in the card's file is not measured again, and what was deleted from it is.
_AGAIN = ("card",)
Facts = dict[str, Any]


class Stopped(Exception):
    """A signal ended a run, which is saved; `code` is the exit code."""

    def __init__(self, code: int) -> None:
        self.code = code


def nano(
    out: str | Path, plan: Plan, stages: Iterable[str] = STAGES, log: Callable[[str], None] = tell
) -> int:
    """Make what `plan` says in `out`, only these stages of it; returns the exit code.

    Raises `UsageError` naming the setting that differs from those `out` was begun with, or the
    stage that has to come first.
    """
    wanted = _known(stages)
    making = Making(make_folder(Path(out)), plan, log)
    try:
        for name in wanted:
            making.do(name)
            if name == "pretrain" and plan.stop_after is not None:
                log(f"stopped after {plan.stop_after} steps: {making.out / 'pretrain'}")
                return 0
    except Stopped as stopped:
        return stopped.code
    return 0


def _known(stages: Iterable[str]) -> list[str]:
    wanted = list(stages)
    for name in wanted:
        if name not in STAGES:
            known = ", ".join(STAGES)
            raise UsageError(f"no stage `{name}`{nearest(name, list(STAGES))}; there are {known}")
    return [name for name in STAGES if name in wanted]


class Making:
    """The stages in one folder: `data`, `start`, `pretrain`, `base`, `sft` and `model`."""

    def __init__(self, out: Path, plan: Plan, log: Callable[[str], None]) -> None:
        self.out, self.plan, self.log = out, plan, log
        self.base = _placed(plan, out)
        self.chat = dataclasses.replace(
            plan.chat,
            model=str(out / "base"),
            data=dataclasses.replace(
                plan.chat.data,
                files=[str(out / "sft" / "train.jsonl")],
                valid_files=[str(out / "sft" / "valid.jsonl")],
            ),
        )
        self.note = self._opened()

    def _opened(self) -> Facts:
        path, settings = self.out / NOTE, json.loads(json.dumps(self.plan.settings()))
        if not path.is_file():
            return {"settings": settings, "stages": {}}
        note = read_note(path)
        require_same(note["settings"], settings, self.out)
        return note

    def do(self, name: str) -> None:
        """One stage, unless it is done."""
        done, number = self.note["stages"], STAGES.index(name)
        where = f"[{number + 1}/{len(STAGES)}] {name}"
        if name in done and name not in _AGAIN:
            self.log(f"{where}: done before")
            return
        missing = next((s for s in STAGES[:number] if s not in done), None)
        if missing is not None:
            raise UsageError(f"{self.out}: stage `{name}` needs `{missing}`, which is not done")
        self.log(where)
        start = time.monotonic()
        facts: Facts = getattr(self, f"_{name}")()
        if name == "pretrain" and self.plan.stop_after is not None:
            return  # there is more to do
        done[name] = {**facts, "seconds": round(time.monotonic() - start, 1)}
        write_atomic(self.out / NOTE, json.dumps(self.note, indent=1) + "\n")

    @property
    def _data(self) -> Path:
        return self.out / "data"

    # ---- the stages --------------------------------------------------------------------------

    def _start(self) -> Facts:
        target, plan = self.out / "start", self.plan
        if target.exists():  # of a try that ended before it was noted
            shutil.rmtree(target)
        loss = write_start(
            preset(plan.shape), target, plan.copying_steps, plan.base.train.seed, self.log
        )
        return {"steps": plan.copying_steps, "copying_loss": loss}

    def _fetch(self) -> Facts:
        from ..data.packages.fetch import fetch

        fetch(self.plan.names, self.plan.packages, self.log)
        notes = (read_json(self.plan.packages / f"{name}.json") for name in self.plan.names)
        return {"packages": dict(zip(self.plan.names, notes, strict=True))}

    def _corpus(self) -> Facts:
        plan, folder = self.plan, make_folder(self._data)
        ready = prepare_corpus(
            plan.parts(plan.packages, folder),
            plan.shares,
            plan.tokens,
            plan.base.data.vocab_size,
            folder,
            self.log,
        )
        return {"parts": {name: prepared.stats for name, prepared in ready.items()}}

    def _pretrain(self) -> Facts:
        recipe, limit = self.base, self.plan.stop_after
        if limit is not None:
            train = dataclasses.replace(recipe.train, steps=min(limit, recipe.train.steps))
            recipe = dataclasses.replace(recipe, train=train)
        self._finished(run(recipe, self.out / "pretrain", self.log))
        return {"steps": recipe.train.steps}

    def _merge(self) -> Facts:
        target = self.out / "base"
        if target.exists():  # of a try that ended before it was noted
            shutil.rmtree(target)
        names = merge(
            self.out / "pretrain",
            target,
            last=self.plan.merge_last,
            interval=self.base.checkpoint.interval_steps,
        )
        self.log(f"merged {names[0]} to {names[-1]} into {target}")
        losses = {
            name: score.loss for name, score in held_out_of(target, held_out_parts(self._data))
        }
        for name, loss in losses.items():
            self.log(f"held out, {name}: {loss:.3f} nats per token")
        return {"from": names, "losses": losses}

    def _sft(self) -> Facts:
        make_folder(self.out / "sft")
        self._write_conversations("train", self.plan.conversations, self.chat.data.files[0])
        self._write_conversations("held_out", self.plan.held_out, self.chat.data.valid_files[0])
        self._finished(finetune(self.chat, self.out / "sft" / "run", self.log))
        return {"conversations": self.plan.conversations}

    def _write_conversations(self, split: Split, count: int, path: str) -> None:
        """Others than the base was trained on: another seed."""
        made = itertools.islice(dialogues(self.plan.packages, split, seed=1), count)
        write_atomic(Path(path), (json.dumps(record) + "\n" for record in made))

    def _pack(self) -> Facts:
        source = result_folder(self.chat, self.out / "sft" / "run")
        target = self.out / "model"
        convert(source, target, to="int8", overwrite=target.exists())
        _add_settings(target)
        total = sum(path.stat().st_size for path in files_below(target).values())
        if total > self.plan.most_bytes:
            raise RunError(
                f"{target}: {size(total)}, more than the {size(self.plan.most_bytes)} that fit "
                "into the package"
            )
        self.log(f"{target}: int8 with MTP, {size(total)}")
        return {"bytes": total}

    def _card(self) -> Facts:
        return write_card(self.out, self.log)

    def _finished(self, code: int) -> None:
        if code:
            raise Stopped(code)


def _add_settings(folder: Path) -> None:
    """Which tools `ling chat` offers the model, and that it is asked greedily, as for its card."""
    write_tools(folder)
    path = folder / SAMPLING_FILE
    given = {**read_json(path), "temperature": 0.0}
    write_atomic(path, json.dumps(given, indent=2) + "\n")


def _placed(plan: Plan, out: Path) -> Any:
    """The recipe of the base with its paths under `out`."""
    data = plan.base.data
    return dataclasses.replace(
        plan.base,
        model=str(out / plan.base.model),
        data=dataclasses.replace(
            data,
            prefix=[str(out / p) for p in data.prefix],
            valid_prefix=[str(out / p) for p in data.valid_prefix],
            tokenizer=None if data.tokenizer is None else str(out / data.tokenizer),
        ),
    )
