"""A fine-tuning from a recipe to the folder that is served: `ling sft`.

The folder has what training rendered with: tokenizer, chat template, and the ids that end a turn,
so that a server stops where the model learned to.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .checkpoint.adapter.write import write_adapter
from .checkpoint.dcp.folder import DCPFolder
from .checkpoint.hf.config import read_config
from .checkpoint.open import tokenizer_folder
from .checkpoint.run_folder import MANIFEST, checkpoints, kept
from .config.sft import SFTConfig
from .convert.plan import convert
from .data.tokenizer import Tokenizer
from .errors import RunError
from .files.atomic import atomic_folder, read_json
from .hub import resolve_model
from .model.adapter import Adapter
from .train.after_held_out import AfterHeldOut
from .train.answers import ShowAnswers
from .train.best import KeepBest
from .train.loop import run
from .train.lora.adapter import adapter_in
from .train.parallel.group import leads
from .train.progress import tell

Log = Callable[[str], None]
# In a result: what it was made from.
NOTE = "finetuning.json"


def finetune(
    recipe: SFTConfig, out: Path, log: Log = tell, *, allow_data_reset: bool = False
) -> int:
    """Train as `train.loop.run` does, then write `<out>/model` or `<out>/adapter`; returns the exit
    code.

    The result is that of the checkpoint with the lowest held-out loss, of the last one where
    nothing is held out. A run that had ended before is left as it is, and its result too.
    """
    after: list[AfterHeldOut] = [KeepBest(recipe.train.early_stop), ShowAnswers()]
    code = run(recipe, out, log, allow_data_reset=allow_data_reset, after_held_out=after)
    if code == 0 and leads():
        write_result(recipe, out, log)
    return code


def result_folder(recipe: SFTConfig, out: Path) -> Path:
    """Where the result of a run is."""
    return out / ("adapter" if recipe.uses_adapter else "model")


def write_result(recipe: SFTConfig, out: Path, log: Log) -> None:
    """Write what is served, unless it is there already, and say how to serve it."""
    checkpoint = kept(out) or next(reversed(checkpoints(out)), None)
    if checkpoint is None:
        raise RunError(f"{out}: no checkpoint is left to write a result from")
    target, note = result_folder(recipe, out), _note(recipe, checkpoint)
    if _is_there(target, note):
        log(f"{target}: there already, of {checkpoint.name}")
    else:
        write = _write_adapter if recipe.uses_adapter else _write_model
        write(recipe, checkpoint, target)
        (target / NOTE).write_text(json.dumps(note, indent=1) + "\n", "utf-8")
        log(f"{target}: of {checkpoint.name}")
    for line in _next(recipe, out, target):
        log(line)


def _note(recipe: SFTConfig, checkpoint: Path) -> dict[str, Any]:
    return {
        "model": recipe.model,
        "method": recipe.method,
        "objective": recipe.objective,
        "checkpoint": checkpoint.name,
        "manifest": hashlib.sha256((checkpoint / MANIFEST).read_bytes()).hexdigest(),
    }


def _is_there(target: Path, note: dict[str, Any]) -> bool:
    return (target / NOTE).is_file() and read_json(target / NOTE) == note


def _write_model(recipe: SFTConfig, checkpoint: Path, target: Path) -> None:
    """All weights in the released layout, as `ling convert` writes it."""
    convert(checkpoint, target, overwrite=target.exists())


def _write_adapter(recipe: SFTConfig, checkpoint: Path, target: Path) -> None:
    cfg, lora = read_config(checkpoint), recipe.lora
    folder = tokenizer_folder(checkpoint)
    with atomic_folder(target, replace=target.exists()) as tmp:
        write_adapter(
            tmp,
            _adapter(recipe, checkpoint),
            cfg,
            alpha=lora.alpha,
            rslora=lora.rslora,
            base=recipe.model,
            dropout=lora.dropout,
        )
        if folder is not None:
            Tokenizer.from_folder(folder).save(tmp)


def _adapter(recipe: SFTConfig, checkpoint: Path) -> Adapter:
    """What a checkpoint of an adapter's run holds."""
    with contextlib.closing(DCPFolder(checkpoint)) as held:
        trained = [name for name in held.tensors if name.startswith("model.")]
        tensors = {name.removeprefix("model."): held.tensor(name) for name in trained}
    return adapter_in(tensors, read_config(checkpoint), recipe.lora)


# ---- what to do with it ------------------------------------------------------------------------


def _next(recipe: SFTConfig, out: Path, target: Path) -> list[str]:
    """How to serve it, in one line; and what to know where the base has another template."""
    folder = shlex.quote(str(target))
    if not recipe.uses_adapter:
        return [f"next: ling serve {folder} (or `ling chat {folder}`)"]
    base, named = shlex.quote(recipe.model), shlex.quote(f"{_name(out)}={target}")
    # Nothing can be added to integers: the weights that they were made of it can.
    into = "ORIGINAL" if recipe.method == "qlora" else base
    lines = [
        f"next: ling serve {base} --lora {named} (or merge it: `ling convert {into} OUT --merge "
        f"{folder}`)"
    ]
    if _template(target) != _template_of_base(recipe.model):
        lines.append(
            f"note: {recipe.model} has another chat template than this was trained with; serve the "
            f"merged folder with {shlex.quote(str(target / 'chat_template.jinja'))} in it"
        )
    return lines


def _name(out: Path) -> str:
    """That of the run's folder as requests can have it."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", out.resolve().name).lstrip("-._")[:128] or "tuned"


def _template(folder: Path) -> str | None:
    return Tokenizer.from_folder(folder).chat_template


def _template_of_base(model: str) -> str | None:
    folder = tokenizer_folder(resolve_model(model))
    return None if folder is None else _template(folder)
