"""Launch scripts of Megatron-LM trainings as recipes.

Where a script leaves an argument out, its recipe has Megatron-LM's default, and not ours.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..checkpoint.megatron.args import config_from_args
from ..config import batch_ramp
from ..config.model import ModelConfig
from ..config.optim import OptimConfig
from ..config.parallel import ParallelConfig
from ..config.recipe import CheckpointConfig, DataConfig, PretrainConfig, TrainConfig
from ..errors import ConfigError, UsageError
from ..presets import PRESETS, preset
from .arguments import ARGUMENTS
from .commands import Note
from .launch import Given, given, program_name
from .script import Script

# Fields of a model that a training chooses, whatever checkpoint it begins from.
_OF_A_TRAINING = {
    "--max-position-embeddings": "max_position_embeddings",
    "--rotary-base": "rope_theta",
    "--init-method-std": "initializer_range",
    "--mtp-num-layers": "num_nextn_predict_layers",
}
_DEFAULTS = {
    "train.z_loss_coef": 0.0,
    "train.bias_update_rate": 1e-3,
    "train.bias_zero_mean": False,
    "train.mtp_loss_weight": 0.1,
    "train.grad_clip": 1.0,
    "train.seed": 1234,
    "train.eval_interval_steps": 1000,
    "data.eod_mask_loss": False,
    "optim.weight_decay": 0.01,
    "optim.beta1": 0.9,
    "optim.beta2": 0.999,
    "optim.lr_min": 0.0,
    "checkpoint.keep_last": 0,
}
_MUST_BE = {
    "--normalization": "RMSNorm",
    "--position-embedding-type": "rope",
    "--attention-dropout": 0.0,
    "--hidden-dropout": 0.0,
    "--expert-tensor-parallel-size": 1,
    "--fp8-format": "e4m3",
    "--fp8-recipe": "blockwise",
}
_SCHEDULES = {"constant": "constant", "linear": "linear", "cosine": "cosine", "WSD": "wsd"}
_SHAPES = {
    "linear": "linear",
    "cosine": "cosine",
    "minus_sqrt": "one-minus-sqrt",
    "exponential": "exponential",
}
_OPTIMIZERS = {"adam": "adamw", "adamw-bnb-8bit": "adamw8bit"}
_SECTIONS: dict[str, Any] = {
    "data": DataConfig,
    "train": TrainConfig,
    "optim": OptimConfig,
    "checkpoint": CheckpointConfig,
    "parallel": ParallelConfig,
}


@dataclasses.dataclass
class Translation:
    """A recipe by its keys, checked; what was left out or chosen, and whether it fine-tunes."""

    tree: dict[str, Any]
    notes: list[Note]
    sft: bool


def translate(paths: Sequence[str | Path], notes: list[Note] | None = None) -> Translation:
    """The recipe of a launch script, or of several that are read in turn with one set of variables.

    What is left out or chosen is added to `notes` as it is found, so that it is known where an
    error follows. Raises `UsageError` for files that are no scripts, and for arguments that
    contradict each other or that a Ling model cannot have.
    """
    script = Script(notes=[] if notes is None else notes)
    for path in paths:
        script.read(path)
    args = given(script)
    name = program_name(args.program)
    sft = "--sft" in args or any("sft" in n or "finetune" in n for n in (name, *_names(paths)))
    _check_fixed(args)
    tree = _Builder(args, sft).tree()
    try:
        sections = {name: kind(**tree.get(name, {})) for name, kind in _SECTIONS.items()}
        PretrainConfig(model=tree["model"], model_overrides=tree["model_overrides"], **sections)
    except UsageError as err:
        raise UsageError(f"{paths[-1]}: its arguments make no recipe: {err}") from None
    _note_unused(args, tree)
    return Translation(tree, args.notes, sft)


def _names(paths: Sequence[str | Path]) -> list[str]:
    return [Path(path).name for path in paths]


def _check_fixed(args: Given) -> None:
    values = args.values  # a check is no use of an argument
    for name, value in _MUST_BE.items():
        if values.get(name, value) != value:
            raise args.error(name, f" is {values.get(name)}; Ling is trained with {value}")
    if "--fp16" in values:
        raise args.error("--fp16", " is not possible here; `--bf16` is")
    for one, other in (
        ("--train-iters", "--train-samples"),
        ("--lr-decay-iters", "--lr-decay-samples"),
        ("--lr-wsd-decay-iters", "--lr-wsd-decay-samples"),
    ):
        if one in values and other in values:
            raise args.error(other, f" contradicts `{one}`: give one of them")


def _note_unused(args: Given, tree: dict[str, Any]) -> None:
    """A line for each argument that became nothing, and that has none yet."""
    for name, value in args.values.items():
        key = ARGUMENTS[name].key
        if name in args.read or ARGUMENTS[name].why or name in _OF_A_TRAINING:
            continue
        if key.startswith("model."):
            args.note(name, " is left out: the model is that of `--load`")
            continue
        section, _, field = key.partition(".")
        if not key or tree.get(section, {}).get(field) != value:
            args.note(name, " is left out: without effect beside the other arguments")


class _Builder:
    """Makes the keys of a recipe, section by section."""

    def __init__(self, args: Given, sft: bool) -> None:
        self.args, self.sft = args, sft
        self.keys: dict[str, Any] = dict(_DEFAULTS)
        for name, value in args.values.items():
            key = ARGUMENTS[name].key
            if key and not key.startswith("model."):
                self.keys[key] = value

    def need(self, name: str) -> Any:
        if name not in self.args:
            raise UsageError(f"the script gives no `{name}`, which a recipe needs")
        return self.args.get(name)

    def tree(self) -> dict[str, Any]:
        """All keys as a recipe file has them, in its order."""
        for name in ("--seq-length", "--micro-batch-size", "--lr"):
            self.need(name)
        tree: dict[str, Any] = self.model()
        self.parallel()
        self.train()
        self.optim()
        self.data()
        for section, kind in _SECTIONS.items():
            names = [f.name for f in dataclasses.fields(kind)]
            part = {n: self.keys[f"{section}.{n}"] for n in names if f"{section}.{n}" in self.keys}
            if part:
                tree[section] = part
        return tree

    # ---- sections ------------------------------------------------------------------------------

    def model(self) -> dict[str, Any]:
        args = self.args
        config = None if "--num-layers" not in args and "--load" in args else _config(args)
        chosen = {field: args.get(name) for name, field in _OF_A_TRAINING.items() if name in args}
        if not args.get("--moe-router-enable-expert-bias"):
            self.keys["train.bias_update_rate"] = 0.0
        if "--load" in args:
            return {"model": args.get("--load"), "model_overrides": chosen}
        assert config is not None
        name, different = _nearest(config)
        where = Note("model", f"no `--load` is known: random weights of `{name}`")
        args.notes.append(where)
        return {"model": name, "model_overrides": {**different, **chosen}}

    def parallel(self) -> None:
        args = self.args
        tensor = args.get("--tensor-model-parallel-size", 1)
        cp = tensor * args.get("--context-parallel-size", 1)
        pp, ep = (self.keys.setdefault(f"parallel.{k}", 1) for k in ("pp", "ep"))
        if min(tensor, cp, pp, ep) < 1:
            raise UsageError("the script has a degree of parallelism below 1")
        if tensor > 1:
            name = "--tensor-model-parallel-size"
            args.note(name, f" is left out here: its {tensor} ranks become `parallel.cp`")
        shards = ep // math.gcd(ep, cp)
        if args.ranks is None:
            what = f"ranks are not known: the fewest, {shards * cp * pp}, are taken"
            args.notes.append(Note("parallel", what))
        elif args.ranks % (cp * pp):
            raise UsageError(
                f"the script starts {args.ranks} ranks, which {cp * pp} (pipeline {pp} x tensor "
                f"and context {cp}) does not divide: change `--nproc-per-node` or these"
            )
        else:
            shards = args.ranks // (cp * pp)
        self.keys |= {"parallel.dp_shard": shards, "parallel.cp": cp}
        self.keys["parallel.recompute"] = self.recompute()

    def recompute(self) -> str:
        args = self.args
        flag = "--recompute-activations"  # Megatron-LM's short form of `selective`
        chosen = "selective" if flag in args else "none"
        granularity = args.get("--recompute-granularity", chosen)
        if granularity == "full":
            return "full"
        modules = args.get("--recompute-modules", ["core_attn"])
        if granularity != "selective":
            return "none"
        forms = ("--recompute-modules", "--recompute-granularity", flag)
        name = next(form for form in forms if form in args)
        for module in modules:
            if module != "moe":
                args.note(name, f" `{module}` is left out: experts alone can be")
        return "moe" if "moe" in modules else "none"

    def train(self) -> None:
        args, keys = self.args, self.keys
        ranks = keys["parallel.dp_shard"]
        keys.setdefault("train.global_batch_size", keys["train.micro_batch_size"] * ranks)
        keys["train.steps"] = self.steps()
        keys["train.dtype"] = "bfloat16" if "--bf16" in args else "float32"
        keys["train.fp8"] = self.fp8()
        evaluations = args.get("--eval-iters", 100)
        if evaluations:
            keys["train.eval_rows"] = evaluations * keys["train.global_batch_size"]
        else:
            keys["train.eval_interval_steps"] = 0

    def fp8(self) -> str:
        if "--fp8-format" not in self.args:
            return "off"
        if "--fp8-recipe" not in self.args:
            what = " without `--fp8-recipe` scales by tensor in Megatron-LM: blockwise is taken"
            self.args.note("--fp8-format", what)
        return "blockwise"

    def steps(self) -> int:
        if "--train-samples" not in self.args:
            return int(self.need("--train-iters"))
        return self.steps_of(self.args.get("--train-samples"))

    def steps_of(self, samples: int) -> int:
        """Megatron-LM's number of steps for that many rows."""
        batch = self.keys["train.global_batch_size"]
        if batch < 1:
            raise self.args.error("--global-batch-size", f" is {batch}, expected at least 1")
        ramp = self.keys.get("train.rampup_batch_size")
        if ramp is None:
            return int(samples // batch)
        batch_ramp.check_ramp(ramp, batch)
        last = batch_ramp.phases(tuple(ramp), batch)[-1]
        # It counts one step more where the ramp ends with the rows of a step.
        extra = last.rows <= ramp[2]
        rest = samples - last.rows - extra * batch
        return last.steps + extra + max(rest, 0) // batch

    def optim(self) -> None:
        args, keys = self.args, self.keys
        steps = keys["train.steps"]
        style = args.get("--lr-decay-style", "linear")
        if style not in _SCHEDULES:
            raise args.error("--lr-decay-style", f" is {style}; there are {', '.join(_SCHEDULES)}")
        keys["optim.schedule"] = _SCHEDULES[style]
        end = self.decay_end(steps)
        if end != steps and style != "constant":
            keys["optim.decay_end_step"] = end
        if style == "WSD":
            shape = args.get("--lr-wsd-decay-style", "exponential")
            if shape not in _SHAPES:
                raise args.error("--lr-wsd-decay-style", f" is {shape}, not one of {list(_SHAPES)}")
            keys["optim.decay_shape"] = _SHAPES[shape]
            keys["optim.decay_steps"] = self.decay_steps()
        self.warm_up(end)
        name = args.get("--optimizer", "adam")
        if name not in _OPTIMIZERS:
            raise args.error("--optimizer", f" is {name}; there are {', '.join(_OPTIMIZERS)}")
        keys["optim.name"] = _OPTIMIZERS[name]

    def decay_end(self, steps: int) -> int:
        if "--lr-decay-samples" in self.args:
            return self.steps_of(self.args.get("--lr-decay-samples"))
        return int(self.args.get("--lr-decay-iters", steps))

    def decay_steps(self) -> int:
        """Of a decay at the end, where the batch has its full size."""
        if "--lr-wsd-decay-samples" in self.args:
            rows = self.args.get("--lr-wsd-decay-samples")
            return int(rows // self.keys["train.global_batch_size"])
        return int(self.need("--lr-wsd-decay-iters"))

    def warm_up(self, decay_end: int) -> None:
        args = self.args
        forms = ("--lr-warmup-iters", "--lr-warmup-samples", "--lr-warmup-fraction")
        used = [name for name in forms if args.get(name)]
        if len(used) > 1:
            raise args.error(used[1], f" contradicts `{used[0]}`: give one of them")
        if args.get("--lr-warmup-samples"):
            self.keys["optim.warmup_samples"] = args.get("--lr-warmup-samples")
            return
        steps = args.get("--lr-warmup-iters", 0)
        fraction = args.get("--lr-warmup-fraction", 0)
        if not 0 <= fraction <= 1:
            raise args.error("--lr-warmup-fraction", f" is {fraction}, expected 0 to 1")
        if fraction:
            steps = int(fraction * decay_end)
        self.keys["optim.warmup_steps"] = steps

    def data(self) -> None:
        args, keys = self.args, self.keys
        resets = [n for n in ("--reset-position-ids", "--reset-attention-mask") if n in args]
        if len(resets) == 1:
            args.note(resets[0], " is left out: positions and mask are reset together or not")
        keys["data.isolate_documents"] = len(resets) == 2
        if "--tokenizer-model" in args:
            keys["data.tokenizer"] = args.get("--tokenizer-model")
        paths = args.get("--train-data-path") or args.get("--data-path")
        if not paths:
            paths = ["data/train"]
            args.notes.append(Note("data", "no data path is known: `data/train` stands for it"))
        if self.sft:
            keys["data.corpus"] = paths[-1]
            keys.pop("data.split", None)
            return
        weights, prefixes = _blend(paths)
        keys["data.prefix"] = prefixes
        if weights is not None:
            keys["data.weights"] = weights
        if "--train-data-path" in args:
            keys["data.valid_prefix"] = _blend(args.get("--valid-data-path", []))[1]
            keys.pop("data.split", None)
        else:
            keys.setdefault("data.split", [969.0, 30.0, 1.0])


def _blend(paths: Sequence[str]) -> tuple[list[float] | None, list[str]]:
    """Weights and prefixes of `0.3 A 0.7 B`, or of prefixes alone."""
    try:
        weights = [float(text) for text in paths[::2]]
    except ValueError:
        return None, list(paths)
    return (weights, list(paths[1::2])) if len(paths) % 2 == 0 and paths else (None, list(paths))


def _config(args: Given) -> ModelConfig:
    """The shape that the arguments describe."""
    names = [name for name in args.values if ARGUMENTS[name].key.startswith("model.")]
    values = {ARGUMENTS[name].key.removeprefix("model."): args.values[name] for name in names}
    if "--load" not in args:
        args.read.update(names)
    for flag in ("group_query_attention", "qk_layernorm", "add_qkv_bias"):
        values.setdefault(flag, False)
    values["add_bias_linear"] = "disable_bias_linear" not in values
    values["mtp_loss_scaling_factor"] = args.get("--mtp-loss-scaling-factor", 0.1)
    tied = "untie_embeddings_and_output_weights" not in values
    layers = values.get("mtp_num_layers", 0)
    try:
        return config_from_args(values, tied=tied, mtp_layers=layers)
    except ConfigError as err:
        raise UsageError(f"the script describes no Ling 2.0 model: {err}") from None


def _nearest(config: ModelConfig) -> tuple[str, dict[str, Any]]:
    """The preset with the fewest other fields, and these."""

    def different(name: str) -> dict[str, Any]:
        of = preset(name)
        fields = (f.name for f in dataclasses.fields(ModelConfig) if f.name != "dtype")
        return {f: getattr(config, f) for f in fields if getattr(config, f) != getattr(of, f)}

    name = min(PRESETS, key=lambda n: len(different(n)))
    return name, different(name)
