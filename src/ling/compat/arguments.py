"""Megatron-LM's arguments by name: what each is in a recipe, or why it is nothing there."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, NamedTuple

_MAX_LAYERS = 10_000


def _list(text: str) -> Any:
    """`[0]*1+[1]*3` and `[0,1,1]` as Megatron's `--moe-layer-freq` takes them, or a number."""
    if text.lstrip("-").isdecimal():
        return int(text)
    found: list[int] = []
    for term in text.replace(" ", "").replace("(", "").replace(")", "").split("+"):
        row, _, times = term.partition("*")
        count = int(times or "1")
        numbers = [int(n) for n in json.loads(row)]
        if len(found) + len(numbers) * max(count, 0) > _MAX_LAYERS:
            raise ValueError
        found += numbers * count
    return found


def _split(text: str) -> list[float]:
    parts = [float(part) for part in text.split(",")]
    if not all(map(math.isfinite, parts)):
        raise ValueError
    return parts


class Argument(NamedTuple):
    """How an argument is read, and what becomes of it.

    `read` is None for a bare flag. `key` is a recipe's, `model.NAME` an argument of a Megatron
    checkpoint (`checkpoint/megatron/args.py`), "" for what `megatron.py` has rules for; `why` says
    why an argument is left out.
    """

    read: Callable[[str], Any] | None
    key: str = ""
    why: str = ""
    several: bool = False


def _left_out(
    why: str, *names: str, read: Callable[[str], Any] | None = None
) -> dict[str, Argument]:
    return {name: Argument(read, why=why) for name in names}


_TO_RECIPE = {
    "--micro-batch-size": Argument(int, "train.micro_batch_size"),
    "--global-batch-size": Argument(int, "train.global_batch_size"),
    "--rampup-batch-size": Argument(int, "train.rampup_batch_size", several=True),
    "--seq-length": Argument(int, "data.seq_length"),
    "--weight-decay": Argument(float, "optim.weight_decay"),
    "--adam-beta1": Argument(float, "optim.beta1"),
    "--adam-beta2": Argument(float, "optim.beta2"),
    "--adam-eps": Argument(float, "optim.eps"),
    "--clip-grad": Argument(float, "train.grad_clip"),
    "--lr": Argument(float, "optim.lr"),
    "--min-lr": Argument(float, "optim.lr_min"),
    "--seed": Argument(int, "train.seed"),
    "--moe-z-loss-coeff": Argument(float, "train.z_loss_coef"),
    "--moe-router-bias-update-rate": Argument(float, "train.bias_update_rate"),
    "--mtp-loss-scaling-factor": Argument(float, "train.mtp_loss_weight"),
    "--fp8-recipe": Argument(str, "train.fp8"),
    "--split": Argument(_split, "data.split"),
    "--save-interval": Argument(int, "checkpoint.interval_steps"),
    "--eval-interval": Argument(int, "train.eval_interval_steps"),
    "--expert-model-parallel-size": Argument(int, "parallel.ep"),
    "--pipeline-model-parallel-size": Argument(int, "parallel.pp"),
}
_FLAGS = {
    "--fp8-param-gather": "train.fp8_param_gather",
    "--moe-router-padding-for-fp8": "train.fp8_pad_routing",
    "--moe-router-padding-for-quantization": "train.fp8_pad_routing",
    "--bias-zero-mean-update": "train.bias_zero_mean",
    "--eod-mask-loss": "data.eod_mask_loss",
    "--async-save": "checkpoint.async_save",
}
_RULES: dict[str, Callable[[str], Any] | None] = {
    "--train-iters": int,
    "--train-samples": int,
    "--lr-decay-style": str,
    "--lr-decay-iters": int,
    "--lr-decay-samples": int,
    "--lr-warmup-iters": int,
    "--lr-warmup-samples": int,
    "--lr-warmup-fraction": float,
    "--lr-wsd-decay-style": str,
    "--lr-wsd-decay-iters": int,
    "--lr-wsd-decay-samples": int,
    "--optimizer": str,
    "--tensor-model-parallel-size": int,
    "--context-parallel-size": int,
    "--recompute-granularity": str,
    "--recompute-activations": None,
    "--eval-iters": int,
    "--load": str,
    "--tokenizer-model": str,
    "--fp8-format": str,
    "--reset-position-ids": None,
    "--reset-attention-mask": None,
    "--bf16": None,
    "--fp16": None,
    "--sft": None,
}
_MODEL: dict[str, Callable[[str], Any] | None] = {
    "--num-layers": int,
    "--hidden-size": int,
    "--ffn-hidden-size": int,
    "--num-attention-heads": int,
    "--num-query-groups": int,
    "--group-query-attention": None,
    "--kv-channels": int,
    "--qk-layernorm": None,
    "--max-position-embeddings": int,
    "--vocab-size": int,
    "--make-vocab-size-divisible-by": int,
    "--rotary-base": float,
    "--rotary-percent": float,
    "--norm-epsilon": float,
    "--init-method-std": float,
    "--mtp-num-layers": int,
    "--num-experts": int,
    "--moe-ffn-hidden-size": int,
    "--moe-shared-expert-intermediate-size": int,
    "--moe-layer-freq": _list,
    "--moe-router-topk": int,
    "--moe-router-num-groups": int,
    "--moe-router-group-topk": int,
    "--moe-router-score-function": str,
    "--moe-router-enable-expert-bias": None,
    "--moe-router-topk-scaling-factor": float,
    "--moe-router-dtype": str,
    "--use-rope-scaling": None,
    "--add-qkv-bias": None,
    "--disable-bias-linear": None,
    "--untie-embeddings-and-output-weights": None,
}
ARGUMENTS: dict[str, Argument] = {
    **_TO_RECIPE,
    **{name: Argument(None, key) for name, key in _FLAGS.items()},
    **{name: Argument(read) for name, read in _RULES.items()},
    **{
        name: Argument(read, "model." + name[2:].replace("-", "_")) for name, read in _MODEL.items()
    },
    "--data-path": Argument(str, several=True),
    "--recompute-modules": Argument(str, several=True),
    "--train-data-path": Argument(str, several=True),
    "--valid-data-path": Argument(str, several=True),
    **_left_out("always so here", "--moe-grouped-gemm", "--swiglu", "--attention-softmax-in-fp32"),
    **_left_out("always so here", "--cross-entropy-loss-fusion", "--overlap-param-gather"),
    **_left_out("always so here", "--overlap-grad-reduce", "--use-distributed-optimizer"),
    **_left_out("always so here", "--no-load-optim", "--no-load-rng", "--log-throughput"),
    **_left_out("always so here: training begins at step 0", "--finetune"),
    **_left_out("always so here", "--position-embedding-type", "--normalization", read=str),
    **_left_out("always so here", "--dataloader-type", "--ckpt-format", "--log-interval", read=str),
    **_left_out(
        "rows travel by torch.distributed's all-to-all",
        *("--moe-enable-deepep", "--moe-permute-fusion"),
    ),
    **_left_out(
        "rows travel by torch.distributed's all-to-all", "--moe-token-dispatcher-type", read=str
    ),
    **_left_out(
        "kernels are chosen by torch",
        *("--use-flash-attn", "--no-masked-softmax-fusion", "--moe-router-fusion"),
        *("--no-rope-fusion", "--apply-rope-fusion"),
    ),
    **_left_out(
        "kernels are chosen by torch",
        *("--transformer-impl", "--attention-backend", "--cross-entropy-fusion-impl"),
        read=str,
    ),
    **_left_out("part of tensor parallel, which is left out", "--sequence-parallel"),
    **_left_out(
        "`parallel.recompute` says it all",
        *("--recompute-method", "--recompute-num-layers"),
        read=str,
    ),
    **_left_out(
        "Ling models have no dropout", "--attention-dropout", "--hidden-dropout", read=float
    ),
    **_left_out(
        "without effect in the original: only MLA layers read it",
        "--rotary-scaling-factor",
        read=float,
    ),
    **_left_out("experts are spread whole", "--expert-tensor-parallel-size", read=int),
    **_left_out("Python's own garbage collection stays on", "--manual-gc"),
    **_left_out("Python's own garbage collection stays on", "--manual-gc-interval", read=int),
    **_left_out("read from the tokenizer's folder", "--tokenizer-type", read=str),
    **_left_out("rows are causal; no mask is made", "--no-create-attention-mask-in-dataloader"),
    **_left_out("the run's folder is `--out`", "--save", "--tensorboard-dir", read=str),
    **_left_out(
        "what is logged is not chosen",
        *("--log-timers-to-tensorboard", "--log-memory-to-tensorboard"),
        *("--log-world-size-to-tensorboard", "--log-validation-ppl-to-tensorboard"),
        *("--log-params-norm", "--log-num-zeros-in-grad", "--log-loss-scale-to-tensorboard"),
    ),
    **_left_out("ranks are those of torchrun", "--distributed-backend", read=str),
    **_left_out("ranks wait `train.group_timeout_s`", "--distributed-timeout-minutes", read=int),
    **_left_out("rows are read as they are needed", "--num-workers", read=int),
}
"""Every argument that is known."""
