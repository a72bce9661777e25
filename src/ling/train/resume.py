"""What may differ between a run and its continuation, and what a run keeps to tell.

The recipe of a run is in its `config.yaml`, the identity of its data and of the weights it began
from in each checkpoint's `state.json`: paths may change, what they hold may not.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..checkpoint.run_folder import checkpoints, find_checkpoint, step_of
from ..config.kinds import Recipe, default_of, flat
from ..config.optim import OptimConfig
from ..config.recipe import PretrainConfig, recipe_yaml
from ..config.sft import SFTConfig
from ..data.tokenizer import Tokenizer
from ..errors import UsageError
from ..files.atomic import write_atomic
from ..hub import resolve_model
from ..presets import PRESETS

# Of larger files than all blocks together, that many blocks are hashed, evenly spaced.
_BLOCK_BYTES, _MAX_BLOCKS = 1 << 20, 256

# Keys that decide the rows, their order and where their loss counts; a checkpoint keeps them.
_ROW_KEYS = (
    "train.seed",
    "train.global_batch_size",
    "train.rampup_batch_size",
    "data.seq_length",
    "data.weights",
    "data.epochs",
    "data.packing",
    "data.split",
    "data.eod_mask_loss",
    "data.isolate_documents",
)
# Keys that change nothing of steps before a decay that ends a run.
_DECAY_KEYS = (
    "train.steps",
    "optim.schedule",
    "optim.lr_min",
    "optim.decay_steps",
    "optim.decay_shape",
    "optim.decay_end_step",
)
# Keys that change neither what is learned nor in which order, but for `_NOTES` and `optim.name`, of
# whose change the log tells when the moments are taken up. Epochs only decide `train.steps`. The
# other keys of `data` are paths and how they were prepared: their tokens are compared instead.
_FREE_KEYS = (
    "optim.name",
    "train.device",
    "train.threads",
    "train.micro_batch_size",
    "train.fp8",
    "train.fp8_scales",
    "train.fp8_param_gather",
    "train.fp8_transpose_on_demand",
    "train.fp8_pad_routing",
    "train.eval_interval_steps",
    "train.eval_rows",
    "train.log_interval_steps",
    "train.loggers",
    "train.profile",
    "train.group_timeout_s",
    "train.max_nonfinite",
    "train.rollback",
    "train.spike_factor",
    "train.epochs",
    "train.early_stop",
    "train.show_samples",
    "train.show_tokens",
)
_ROUNDING = "weights and optimizer continue, steps from here on round products otherwise"
_NOTES = {
    "train.micro_batch_size": "rows keep their order, losses change slightly where rows have "
    "unequal numbers of trained tokens",
    "train.fp8": _ROUNDING,
    "train.fp8_scales": _ROUNDING,
}


def check_recipe(recipe: Recipe, out: Path, log: Callable[[str], None]) -> None:
    """Refuse a recipe that differs from the one the run was started with, naming the key.

    What decides the rows is left to `data_change`, and `model` to `check_start`: the checkpoint
    knows better; what `train.steps` has to do with to `check_steps` where epochs decide them.
    """
    before = saved_recipe(out)
    if before is None:
        return
    if (of_tuning := "method" in before) != isinstance(recipe, SFTConfig):
        other = "sft" if of_tuning else "pretrain"
        raise UsageError(f"{out}: a run of `ling {other}`; use another --out")
    for key, was, is_now in _changes(recipe, before):
        if _compared_elsewhere(key) or (key in _DECAY_KEYS and not recipe.train.steps):
            continue
        if key in _DECAY_KEYS and _decay_is_ahead(recipe, before, out):
            continue
        # Fine-tuning weighs all trained tokens of a step alike.
        if key in _NOTES and not (of_tuning and key == "train.micro_batch_size"):
            log(f"`{key}` was {was} and is now {is_now}: {_NOTES[key]}")
        if key not in _FREE_KEYS and not key.startswith(("checkpoint.", "parallel.")):
            raise UsageError(f"{out}: {_changed(key, was, is_now)}")


def check_steps(recipe: Recipe, out: Path) -> None:
    """The rest of `check_recipe`, once epochs have become `train.steps`."""
    before = saved_recipe(out)
    for key, was, is_now in _changes(recipe, before) if before else ():
        if key in _DECAY_KEYS and not _decay_is_ahead(recipe, before or {}, out):
            raise UsageError(f"{out}: {_changed(key, was, is_now)}")


def _changes(recipe: Recipe, before: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Keys that differ, what they were and what they are."""
    now = flat(dataclasses.asdict(recipe))
    for key in sorted(set(before) | set(now)):
        was, is_now = before.get(key, default_of(key, type(recipe))), now.get(key)
        if was != is_now:
            yield key, was, is_now


def _decay_is_ahead(recipe: Recipe, before: dict[str, Any], out: Path) -> bool:
    """Whether the steps done had the peak rate, before and after the change of the decay."""
    saved = checkpoints(out)
    done = step_of(saved[-1]) if saved else 0
    keys = ("schedule", "decay_steps", "decay_end_step")
    kind = type(recipe)
    old = OptimConfig(**{k: before.get(f"optim.{k}", default_of(f"optim.{k}", kind)) for k in keys})
    if old.schedule == recipe.optim.schedule == "constant":
        return True  # no step's rate depends on which is the last, were it already behind
    ends = (
        old.flat_until(before.get("train.steps", default_of("train.steps", kind))),
        recipe.optim.flat_until(recipe.train.steps),
    )
    return all(until is not None and done <= until for until in ends)


def _compared_elsewhere(key: str) -> bool:
    return key == "model" or key in _ROW_KEYS or key.startswith("data.")


def _changed(key: str, was: Any, now: Any) -> str:
    advice = "use another --out or the old value"
    if key in _DECAY_KEYS:
        advice = (
            "a cosine schedule spreads its decay over all steps, so those done would have had "
            f"other learning rates, as would those of a decay that has begun; {advice}, or train "
            "with `optim.schedule: constant`, or `wsd`"
        )
    return f"`{key}` was {was} in this run and is now {now}; {advice}"


def saved_recipe(out: Path) -> dict[str, Any] | None:
    """The recipe of the run in `out` by dotted keys; None where there is none yet."""
    path = out / "config.yaml"
    if not path.exists():
        return None
    try:
        return flat(yaml.safe_load(path.read_text("utf-8")))
    except (yaml.YAMLError, AttributeError, UnicodeDecodeError):
        raise UsageError(f"{path}: unreadable; use another --out") from None


def save_recipe(recipe: Recipe, out: Path) -> None:
    """Keep the resolved recipe; called once everything it names has been opened and compared."""
    write_atomic(out / "config.yaml", recipe_yaml(recipe))


# ---- data --------------------------------------------------------------------------------------


def data_state(
    recipe: PretrainConfig, files: list[str], tokenizer: Tokenizer | None
) -> dict[str, Any]:
    """What decides which row comes when, by name; each checkpoint keeps it beside its position.

    `files` are the `fingerprints` of the prefixes, `rows` the numbers of rows that orders were laid
    out for, one order after the other.
    """
    values = flat(dataclasses.asdict(recipe))
    keys = {key: values[key] for key in _ROW_KEYS}
    if len(files) == 1:
        keys["data.weights"] = None  # any share of a single one is all of it
    return {
        **keys,
        "tokenizer": None if tokenizer is None else tokenizer.vocabulary_hash,
        "files": files,
        "rows": [recipe.train.rows(recipe.train.steps)],
    }


def fingerprints(prefixes: Iterable[str]) -> list[str]:
    """A short hash of the token files of each prefix."""
    return [_fingerprint((Path(f"{p}.idx"), Path(f"{p}.bin"))) for p in prefixes]


def data_change(before: dict[str, Any], now: dict[str, Any], prefixes: Sequence[str]) -> str | None:
    """The first difference of two `data_state`s in words; None: the position still counts."""
    one_file = len(prefixes) == 1
    keys = [key for key in _ROW_KEYS if not (one_file and key == "data.weights")]
    changed = key_change(before, now, keys, PretrainConfig)
    if changed is not None:
        return changed
    old, new = before["files"], now["files"]
    if len(old) != len(new):
        return f"`data.prefix` had {len(old)} entries in this run and has now {len(new)}"
    for prefix, was, is_now in zip(prefixes, old, new, strict=True):
        if was != is_now:
            return f"the files of {prefix} changed since this run read them"
    return tokenizer_change(before, now)


def key_change(
    before: dict[str, Any], now: dict[str, Any], keys: Iterable[str], kind: type
) -> str | None:
    """The first of the keys of a `kind` of recipe that is another one in `now`, in words."""
    for key in keys:
        was = before.get(key, default_of(key, kind))
        if was != now[key]:
            return f"`{key}` was {was} in this run and is now {now[key]}"
    return None


def tokenizer_change(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """Whether two tokenizers differ that are both known, in words."""
    if None not in (before.get("tokenizer"), now["tokenizer"]) and (
        before["tokenizer"] != now["tokenizer"]
    ):
        return "the tokenizer is another than that of this run"
    return None


def rows_before(before: dict[str, Any], out: Path) -> list[int]:
    """The `rows` of a saved `data_state`; older versions had one order for all steps."""
    if "rows" in before:
        return list(before["rows"])
    saved = saved_recipe(out) or {}
    steps = saved.get("train.steps", default_of("train.steps"))
    return [steps * before["train.global_batch_size"]]


# ---- model -------------------------------------------------------------------------------------


def start_of(model: str, *, is_weights: bool = False) -> str:
    """What a run begins from: the name of a preset, or a hash of what a folder holds; a name that
    means weights is never a preset's."""
    if model in PRESETS and not is_weights:
        return model
    path = resolve_model(model)
    if path.is_file():
        return _fingerprint([path])
    folder = find_checkpoint(path) or path
    weights = [p for p in folder.rglob("*") if p.suffix in (".safetensors", ".distcp")]
    return _fingerprint(sorted(weights) or [folder / "config.json"])


def check_start(before: dict[str, Any], start: str, model: str, out: Path) -> None:
    """Refuse to go on from another model than the run began from; `before` is its progress."""
    saved = (saved_recipe(out) or {}).get("model", model)
    same = before["start"] == start if before.get("start") else _same_place(saved, model)
    if not same:
        raise UsageError(f"{out}: {_changed('model', saved, model)}")


def _same_place(a: str, b: str) -> bool:
    return a == b or (Path(a).exists() and Path(a).resolve() == Path(b).resolve())


def _fingerprint(paths: Iterable[Path]) -> str:
    """A short hash of sizes and contents; evenly spaced parts stand for very large files."""
    digest = hashlib.sha256()
    for path in paths:
        size = path.stat().st_size
        digest.update(b"%d:" % size)
        blocks = min(-(-size // _BLOCK_BYTES), _MAX_BLOCKS)
        with path.open("rb") as file:
            for i in range(blocks):
                file.seek(i * max(size - _BLOCK_BYTES, 0) // max(blocks - 1, 1))
                digest.update(file.read(_BLOCK_BYTES))
    return digest.hexdigest()[:16]
