"""LLaMA-Factory's training files (`llamafactory-cli train FILE.yaml`) as recipes of `ling sft`.

Where a file leaves a key out, its recipe has LLaMA-Factory's default, and not ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from ..config.recipe import LOGGERS, CheckpointConfig
from ..config.recipe_file import read_yaml
from ..config.sft import (
    ChatDataConfig,
    DPOConfig,
    LoRAConfig,
    SFTConfig,
    SFTOptimConfig,
    SFTTrainConfig,
)
from ..data.conversations.records import read_records
from ..errors import UsageError
from ..text import as_json, nearest
from .llama_factory_keys import IGNORED, REFUSED

_TEMPLATES = ("bailing_v2", "bailing")
_SCHEDULES: dict[str, Literal["linear", "cosine", "constant"]] = {
    "linear": "linear",
    "cosine": "cosine",
    "constant": "constant",
    "constant_with_warmup": "constant",
}
_ADAMW = ("adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw_apex_fused")
_ADAMW_8BIT = ("adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit")
_KINDS: dict[str, tuple[str, ...]] = {
    "all": ("attention", "dense", "shared", "experts"),
    **dict.fromkeys(("query_key_value", "dense"), ("attention",)),
    **dict.fromkeys(("gate_proj", "up_proj", "down_proj"), ("dense", "shared", "experts")),
}
_NEVER = 10**9
Value = TypeVar("Value", int, float, str, bool)


class LlamaFactory(NamedTuple):
    """A recipe, the folder that the run writes (None where the file names none), and what of the
    file was left out or read in a special way."""

    recipe: SFTConfig
    out: str | None
    notes: list[str]


def is_llama_factory(tree: object) -> bool:
    """Whether what a YAML file holds is a training file of LLaMA-Factory."""
    return isinstance(tree, Mapping) and "model_name_or_path" in tree and "model" not in tree


def read_llama_factory(path: str | Path) -> LlamaFactory:
    """The recipe of a training file.

    Raises `UsageError` for keys that LLaMA-Factory does not have, and for what `ling sft` does
    not train; a share of steps for warm-up, and a number of records to hold out, read the data.
    """
    keys = _Keys(path, read_yaml(path))
    keys.either("model_revision", "main", ("main",))
    data, train = _data(keys), _train(keys)
    recipe = SFTConfig(
        model=keys.required("model_name_or_path"),
        method=_method(keys),
        objective=keys.either("stage", "sft", ("sft", "dpo")),
        data=data,
        train=train,
        optim=_optim(keys, data, train),
        lora=_lora(keys),
        dpo=_dpo(keys),
        checkpoint=_checkpoint(keys),
    )
    out = keys.get("output_dir", "") or None
    keys.check()
    return LlamaFactory(recipe, out, keys.notes)


class _Keys:
    """The values of a file by key, null ones absent; remembers which were asked for."""

    def __init__(self, path: str | Path, tree: Any) -> None:
        if not is_llama_factory(tree):
            raise UsageError(f"{path}: expected LLaMA-Factory's keys, such as `model_name_or_path`")
        self._path, self._tree = path, {k: v for k, v in tree.items() if v is not None}
        self._given, self._known = list(tree), {"bf16", "fp16", "pure_bf16"}
        self.notes: list[str] = []
        for key in REFUSED & self._tree.keys():
            if self._tree[key]:
                raise self.error(f"`{key}` is not supported by `ling sft`; remove it")

    def error(self, reason: str) -> UsageError:
        return UsageError(f"{self._path}: {reason}")

    def raw(self, key: str) -> Any:
        """A value as it is, None where there is none."""
        self._known.add(key)
        return self._tree.get(key)

    def get(self, key: str, default: Value) -> Value:
        """A value of the type of its default; YAML takes `1e-6` for a text."""
        value = self.raw(key)
        if value is None:
            return default
        try:
            if isinstance(default, bool) != isinstance(value, bool):
                raise ValueError
            if isinstance(default, str) and not isinstance(value, str):
                raise ValueError
            read = type(default)(value)
            if isinstance(default, int) and read != float(value):
                raise ValueError
        except (TypeError, ValueError, OverflowError):
            kind = {bool: "true or false", int: "a whole number", float: "a number"}
            expected = kind.get(type(default), "a text")
            raise self.error(f"`{key}` is {as_json(value)}, expected {expected}") from None
        return read

    def required(self, key: str) -> str:
        """A text that must be there."""
        value = self.get(key, "")
        if not value:
            raise self.error(f"no `{key}`")
        return value

    def either(self, key: str, default: str, known: tuple[str, ...]) -> Any:
        """One of the texts that `ling sft` knows."""
        value = self.get(key, default)
        if value not in known:
            raise self.error(f"`{key}: {value}` is not supported, only {' or '.join(known)}")
        return value

    def texts(self, key: str) -> list[str]:
        """A list, or names with commas between them."""
        value = self.raw(key)
        if isinstance(value, str):
            value = [name.strip() for name in value.split(",")]
        if not isinstance(value, list):
            value = [] if value is None else [value]
        return [str(name) for name in value if name != ""]

    def check(self) -> None:
        """Raise for a key that LLaMA-Factory does not have; name those that are ignored."""
        known = self._known | REFUSED | IGNORED
        for key in self._given:
            if key not in known:
                raise self.error(f"no key `{key}`{nearest(str(key), sorted(known))}")
        ignored = [f"`{key}`" for key in self._given if key in IGNORED]
        if ignored:
            self.notes.append(f"ignored: {', '.join(ignored)}")


def _method(keys: _Keys) -> Literal["full", "lora", "qlora"]:
    method = keys.either("finetuning_type", "lora", ("full", "lora"))
    if not keys.get("quantization_bit", 0):
        return "full" if method == "full" else "lora"
    if method == "full":
        raise keys.error("`quantization_bit` needs `finetuning_type: lora`")
    keys.notes.append(
        "`quantization_bit` is `method: qlora`: the model must be a folder in int4, int8 or FP8, "
        "as `ling convert` writes"
    )
    return "qlora"


def _data(keys: _Keys) -> ChatDataConfig:
    template = keys.get("template", "")
    if template not in ("", *_TEMPLATES):
        raise keys.error(f"`template: {template}` is not Ling's; expected {_TEMPLATES[0]}")
    files, valid = keys.texts("dataset"), keys.texts("eval_dataset")
    if not files:
        raise keys.error("no `dataset`")
    folder = keys.get("dataset_dir", "data")
    if folder.startswith("REMOTE:"):
        raise keys.error("`dataset_dir` on a hub is not supported; copy `dataset_info.json` here")
    online = folder == "ONLINE"
    data = ChatDataConfig(
        files=[f"hf://datasets/{name}" for name in files] if online else files,
        valid_files=[f"hf://datasets/{name}" for name in valid] if online else valid,
        dataset_info=None if online else str(Path(folder) / "dataset_info.json"),
        weights=_weights(keys, len(files)),
        max_samples=keys.get("max_samples", 0) or None,
        mask_history=keys.get("mask_history", False),
        seq_length=keys.get("cutoff_len", 2048),
        packing=_packing(keys),
    )
    keys.notes.append(
        f"samples longer than {data.seq_length} tokens are left out (`data.over_long`), where "
        "LLaMA-Factory cuts them"
    )
    return _held_out(keys, data)


def _weights(keys: _Keys, count: int) -> list[float] | None:
    strategy = keys.get("mix_strategy", "concat")
    shares = keys.texts("interleave_probs")
    if strategy == "concat":
        return None
    try:
        weights = [float(share) for share in shares] or [1 / count] * count
    except ValueError:
        raise keys.error(f"`interleave_probs` is {as_json(shares)}, expected numbers") from None
    if len(weights) != count:
        raise keys.error(f"`interleave_probs` are {len(weights)}, but `dataset` has {count} names")
    return weights


def _packing(keys: _Keys) -> Literal["best_fit", "off"]:
    neat, packing = keys.get("neat_packing", False), keys.get("packing", False)
    if packing and not neat:
        keys.notes.append("`packing` isolates samples here, as `neat_packing` does")
    return "best_fit" if packing or neat else "off"


def _held_out(keys: _Keys, data: ChatDataConfig) -> ChatDataConfig:
    size = keys.get("val_size", 0.0)
    if not size:
        return data
    share = size if size < 1 else size / _num_records(data)
    if not 0 < share < 1:
        raise keys.error(f"`val_size` is {size:g}: nothing is left to train on")
    return replace(data, valid_share=share)


def _num_records(data: ChatDataConfig) -> int:
    return max(sum(1 for _ in read_records(data)), 1)


def _train(keys: _Keys) -> SFTTrainConfig:
    micro = keys.get("per_device_train_batch_size", 8)
    accumulated = keys.get("gradient_accumulation_steps", 1)
    return SFTTrainConfig(
        steps=max(keys.get("max_steps", -1), 0),
        epochs=keys.get("num_train_epochs", 3.0),
        micro_batch_size=micro,
        global_batch_size=micro * accumulated,
        seed=keys.get("seed", 42),
        grad_clip=keys.get("max_grad_norm", 1.0),
        eval_interval_steps=_eval_interval(keys),
        log_interval_steps=max(int(keys.get("logging_steps", 500.0)), 1),
        early_stop=keys.get("early_stopping_steps", 0),
        loggers=_loggers(keys),
    )


def _eval_interval(keys: _Keys) -> int:
    strategy = keys.get("eval_strategy", keys.get("evaluation_strategy", "no"))
    steps = keys.get("eval_steps", keys.get("logging_steps", 500.0))
    if strategy == "steps" and steps >= 1:
        return int(steps)
    if strategy != "no":
        keys.notes.append("held-out loss is measured at the end; set `train.eval_interval_steps`")
    return 0


def _loggers(keys: _Keys) -> list[str] | None:
    given = keys.texts("report_to")
    if not given or given == ["all"]:
        return None
    left = [name for name in given if name not in (*LOGGERS, "none")]
    if left:
        keys.notes.append(f"`report_to`: {', '.join(left)} is not supported")
    return [name for name in given if name in LOGGERS]


def _checkpoint(keys: _Keys) -> CheckpointConfig:
    strategy, steps = keys.get("save_strategy", "steps"), keys.get("save_steps", 500.0)
    if strategy == "epoch" or steps < 1:
        keys.notes.append(
            "checkpoints are written every 500 steps; set `checkpoint.interval_steps`"
        )
        steps = 500
    interval = _NEVER if strategy == "no" else int(steps)
    return CheckpointConfig(interval_steps=interval, keep_last=keys.get("save_total_limit", 0))


def _optim(keys: _Keys, data: ChatDataConfig, train: SFTTrainConfig) -> SFTOptimConfig:
    name = keys.get("optim", "adamw_torch")
    if name not in (*_ADAMW, *_ADAMW_8BIT):
        raise keys.error(f"`optim: {name}` is not supported, only {_ADAMW[0]} and {_ADAMW_8BIT[0]}")
    schedule = keys.get("lr_scheduler_type", "linear")
    if schedule not in _SCHEDULES:
        known = ", ".join(_SCHEDULES)
        raise keys.error(f"`lr_scheduler_type: {schedule}` is not supported, only {known}")
    if keys.raw("lr_scheduler_kwargs"):
        raise keys.error("`lr_scheduler_kwargs` is not supported; use `optim` of a recipe")
    return SFTOptimConfig(
        name="adamw" if name in _ADAMW else "adamw8bit",
        lr=keys.get("learning_rate", 5e-5),
        schedule=_SCHEDULES[schedule],
        weight_decay=keys.get("weight_decay", 0.0),
        beta1=keys.get("adam_beta1", 0.9),
        beta2=keys.get("adam_beta2", 0.999),
        eps=keys.get("adam_epsilon", 1e-8),
        **_warmup(keys, schedule, data, train),
    )


def _warmup(
    keys: _Keys, schedule: str, data: ChatDataConfig, train: SFTTrainConfig
) -> dict[str, Any]:
    """Warm-up in steps, or in rows where a share of all steps is given and epochs are counted."""
    steps, share = keys.get("warmup_steps", 0.0), keys.get("warmup_ratio", 0.0)
    if schedule == "constant":  # has no warm-up there
        return {}
    if steps >= 1:
        return {"warmup_steps": int(steps)}
    share = steps or share
    if not share:
        return {}
    if train.steps:
        return {"warmup_steps": math.ceil(share * train.steps)}
    if data.packing != "off":
        keys.notes.append("`warmup_ratio` of packed rows is not known: set `optim.warmup_steps`")
        return {}
    rows = _num_records(data) * (1 - data.valid_share) * train.epochs
    return {"warmup_samples": max(math.ceil(share * rows), 1)}


def _lora(keys: _Keys) -> LoRAConfig:
    rank = keys.get("lora_rank", 8)
    targets: list[str] = []
    for name in keys.texts("lora_target") or ["all"]:
        if name not in _KINDS:
            raise keys.error(
                f"`lora_target` has `{name}`, which Ling models do not have"
                f"{nearest(name, list(_KINDS))}; there are {', '.join(_KINDS)}"
            )
        targets += [kind for kind in _KINDS[name] if kind not in targets]
    return LoRAConfig(
        targets=targets,
        rank=rank,
        expert_rank=rank,
        alpha=keys.get("lora_alpha", 0.0) or 2.0 * rank,
        rslora=keys.get("use_rslora", False),
        dropout=keys.get("lora_dropout", 0.0),
    )


def _dpo(keys: _Keys) -> DPOConfig:
    keys.either("pref_loss", "sigmoid", ("sigmoid",))
    return DPOConfig(
        beta=keys.get("pref_beta", 0.1),
        label_smoothing=keys.get("dpo_label_smoothing", 0.0),
        sft_weight=keys.get("pref_ftx", 0.0),
    )
