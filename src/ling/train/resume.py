"""What may differ between a run and its continuation, and what a run keeps to tell.

The recipe of a run is in its `config.yaml`, the identity of its data and of the weights it began
from in each checkpoint's `state.json`: paths may change, what they hold may not.
"""

from __future__ import annotations

import dataclasses
import hashlib
import typing
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..checkpoint.run_folder import checkpoints, find_checkpoint
from ..config.optim import OptimConfig
from ..config.recipe import PretrainConfig, recipe_yaml
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
# whose change the log tells when the moments are taken up. The other keys of `data` are paths and
# how they were prepared: their tokens are compared instead.
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
)
_ROUNDING = "weights and optimizer continue, steps from here on round products otherwise"
_NOTES = {
    "train.micro_batch_size": "rows keep their order, losses change slightly where rows have "
    "unequal numbers of trained tokens",
    "train.fp8": _ROUNDING,
    "train.fp8_scales": _ROUNDING,
}


def check_recipe(recipe: PretrainConfig, out: Path, log: Callable[[str], None]) -> None:
    """Refuse a recipe that differs from the one the run was started with, naming the key.

    What decides the rows is left to `data_change`, and `model` to `check_start`: the checkpoint
    knows better.
    """
    before = saved_recipe(out)
    if before is None:
        return
    now = _flat(dataclasses.asdict(recipe))
    for key in sorted(set(before) | set(now)):
        was, is_now = before.get(key, _default(key)), now.get(key)
        if was == is_now or _compared_elsewhere(key):
            continue
        if key in _DECAY_KEYS and _decay_is_ahead(recipe, before, out):
            continue
        if key in _NOTES:
            log(f"`{key}` was {was} and is now {is_now}: {_NOTES[key]}")
        if key not in _FREE_KEYS and not key.startswith(("checkpoint.", "parallel.")):
            raise UsageError(f"{out}: {_changed(key, was, is_now)}")


def _decay_is_ahead(recipe: PretrainConfig, before: dict[str, Any], out: Path) -> bool:
    """Whether the steps done had the peak rate, before and after the change of the decay."""
    saved = checkpoints(out)
    done = int(saved[-1].name.removeprefix("step-")) if saved else 0
    keys = ("schedule", "decay_steps", "decay_end_step")
    old = OptimConfig(**{k: before.get(f"optim.{k}", _default(f"optim.{k}")) for k in keys})
    flat = (
        old.flat_until(before.get("train.steps", _default("train.steps"))),
        recipe.optim.flat_until(recipe.train.steps),
    )
    return all(until is not None and done <= until for until in flat)


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
        return _flat(yaml.safe_load(path.read_text("utf-8")))
    except (yaml.YAMLError, AttributeError, UnicodeDecodeError):
        raise UsageError(f"{path}: unreadable; use another --out") from None


def save_recipe(recipe: PretrainConfig, out: Path) -> None:
    """Keep the resolved recipe; called once everything it names has been opened and compared."""
    write_atomic(out / "config.yaml", recipe_yaml(recipe))


# ---- data --------------------------------------------------------------------------------------


def data_state(
    recipe: PretrainConfig, prefixes: Sequence[str], tokenizer: Tokenizer | None
) -> dict[str, Any]:
    """What decides which row comes when, by name; each checkpoint keeps it beside its position.

    `rows` are the numbers of rows that orders were laid out for, one order after the other.
    """
    flat = _flat(dataclasses.asdict(recipe))
    keys = {key: flat[key] for key in _ROW_KEYS}
    if len(prefixes) == 1:
        keys["data.weights"] = None  # any share of a single one is all of it
    return {
        **keys,
        "tokenizer": None if tokenizer is None else tokenizer.vocabulary_hash,
        "files": fingerprints(prefixes),
        "rows": [recipe.train.rows(recipe.train.steps)],
    }


def fingerprints(prefixes: Iterable[str]) -> list[str]:
    """A short hash of the token files of each prefix."""
    return [_fingerprint((Path(f"{p}.idx"), Path(f"{p}.bin"))) for p in prefixes]


def data_change(before: dict[str, Any], now: dict[str, Any], prefixes: Sequence[str]) -> str | None:
    """The first difference of two `data_state`s in words; None: the position still counts."""
    for key in _ROW_KEYS:
        one_file = key == "data.weights" and len(prefixes) == 1
        was = before.get(key, _default(key))
        if was != now[key] and not one_file:
            return f"`{key}` was {was} in this run and is now {now[key]}"
    old, new = before["files"], now["files"]
    if len(old) != len(new):
        return f"`data.prefix` had {len(old)} entries in this run and has now {len(new)}"
    for prefix, was, is_now in zip(prefixes, old, new, strict=True):
        if was != is_now:
            return f"the files of {prefix} changed since this run read them"
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
    steps = saved.get("train.steps", _default("train.steps"))
    return [steps * before["train.global_batch_size"]]


# ---- model -------------------------------------------------------------------------------------


def start_of(model: str) -> str:
    """What a run begins from: the name of a preset, or a hash of what a folder holds."""
    if model in PRESETS:
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


# ---- dotted keys -------------------------------------------------------------------------------


def _default(key: str) -> Any:
    """What a recipe means that was written before `key` existed."""
    at: Any = PretrainConfig
    for part in key.split("."):
        field = next((f for f in dataclasses.fields(at) if f.name == part), None)
        if field is None:
            return None
        if field.default is not dataclasses.MISSING:
            return field.default
        kind, factory = typing.get_type_hints(at)[part], field.default_factory
        if not dataclasses.is_dataclass(kind):
            return factory() if callable(factory) else None
        at = kind
    return None


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
