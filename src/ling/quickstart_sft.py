"""`ling quickstart --sft`: the model of the quickstart learns to chat and to call tools."""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .config.recipe import CheckpointConfig
from .config.recipe_file import packaged_recipes, read_recipe
from .config.sft import ChatDataConfig, SFTConfig, SFTOptimConfig, SFTTrainConfig
from .data.conversations.home import NAME, training_and_held_out
from .eval.tool_talk import Score, measure
from .files.atomic import make_folder, write_atomic
from .finetune import finetune, result_folder
from .llm import LLM
from .text import one_line


@dataclass(frozen=True)
class Size:
    """How much is made, trained on and asked."""

    requests: int = 3600
    held_out: int = 50
    steps: int = 0
    """0 takes the recipe's epochs."""


_ROWS = {
    "stopped": "ends its turns",
    "right_tool": "calls the right tool",
    "exact": "with the right arguments",
    "answered": "answers the result",
    "right_answer": "in the right words",
    "free_exact": "with the right number",
    "named": "gives its name when asked",
}


def quickstart_sft(out: str | Path, size: Size = Size()) -> int:
    """Fine-tune `<out>/model`, made by `quickstart`, on a home's conversations; returns the exit
    code.

    Data, run and result are under `<out>/sft`. An interrupted run goes on where it was.
    """
    out, start = Path(out), time.monotonic()
    folder = make_folder(out / "sft")
    print(f"[1/4] data: lights, a clock, a timer, and who is asked -> {folder}")
    train, valid = write_data(folder, size)
    recipe = _recipe(out, train, valid, size.steps)
    records = [json.loads(line) for line in valid.read_text("utf-8").splitlines()]
    print(f"[2/4] {len(records)} held-out prompts before")
    before = _measured(out / "model", records)
    print(f"[3/4] fine-tuning all weights -> {folder / 'run'}")
    code = finetune(recipe, folder / "run")
    if code:
        return code
    model = result_folder(recipe, folder / "run")
    print("[4/4] the same prompts after")
    after = _measured(model, records)
    _show(before, after)
    print(f"\ndone in {(time.monotonic() - start) / 60:.1f} minutes. What to try next:")
    print(f"  ling chat {model}")
    print(f"  ling serve {model}")
    print(f"  ling convert {model} {folder / 'int4'} --to int4")
    print(f"  ling report {folder / 'run'}")
    return 0


def write_data(folder: Path, size: Size) -> tuple[Path, Path]:
    """The records to train on and those that are held out, as files."""
    paths = folder / "train.jsonl", folder / "valid.jsonl"
    made = training_and_held_out(requests=size.requests, held_out=size.held_out)
    for path, records in zip(paths, made, strict=True):
        write_atomic(path, (json.dumps(record) + "\n" for record in records))
    return paths


def _recipe(out: Path, train: Path, valid: Path, steps: int) -> SFTConfig:
    """The packaged recipe on this folder's files."""
    tree: dict[str, Any] = read_recipe(packaged_recipes("sft")["nano-sft"], SFTConfig)
    data = ChatDataConfig(**tree["data"])
    return SFTConfig(
        model=str(out / "model"),
        data=dataclasses.replace(data, files=[str(train)], valid_files=[str(valid)]),
        train=SFTTrainConfig(**tree["train"], steps=steps),
        optim=SFTOptimConfig(**tree["optim"]),
        checkpoint=CheckpointConfig(**tree["checkpoint"]),
    )


def _measured(model: Path, records: list[dict[str, Any]]) -> Score:
    with LLM(model) as llm:
        return measure(llm, records, NAME)


def _show(before: Score, after: Score) -> None:
    print(f"\n{'of the prompts, the model':28} before   after")
    for name, words in _ROWS.items():
        print(f"{words:28} {before.share(name):6.0%}  {after.share(name):6.0%}")
    talk = next((t for t in after.talks if t.right_answer), after.talks[0])
    _say(("user", talk.asked), ("assistant", talk.said))
    if talk.answer:
        _say(("tool", talk.result), ("assistant", talk.answer))
    first = after.introductions[0]
    _say(("user", first.asked), ("assistant", first.said))


def _say(*said: tuple[str, str]) -> None:
    for who, text in said:
        print(f"{who + ':':10} {one_line(text)}")
