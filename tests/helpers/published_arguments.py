"""The arguments of Ling-V2's launch scripts for 4k, 8k and 32k, and what each is in a recipe.

A value is a script's own text, `True` for a bare flag, None where the script has no such argument,
`<path>` for a path of its own; a tuple has those of the three scripts where they differ.
"""

from __future__ import annotations

from typing import Any, NamedTuple

SCRIPTS = ("4k", "8k", "32k")


class Row(NamedTuple):
    """One argument: what the scripts give it, our key and its value, or why it has none."""

    group: str
    argument: str
    theirs: Any
    key: str | None = None
    ours: Any = None
    why: str = ""

    def their_value(self, script: str) -> Any:
        return _of(self.theirs, script)

    def our_value(self, script: str) -> Any:
        return _of(self.ours, script)


def _of(value: Any, script: str) -> Any:
    return value[SCRIPTS.index(script)] if isinstance(value, tuple) else value


ROWS = [
    # MOE_ARGS
    Row(
        "MOE_ARGS",
        "--moe-enable-deepep",
        True,
        why="how rows travel between ranks: all-to-all of torch.distributed",
    ),
    Row("MOE_ARGS", "--expert-model-parallel-size", ("8", "8", "4"), "parallel.ep", (8, 8, 4)),
    Row("MOE_ARGS", "--expert-tensor-parallel-size", "1", why="1: experts are spread whole"),
    Row("MOE_ARGS", "--moe-grouped-gemm", True, why="always: experts are one grouped product"),
    Row(
        "MOE_ARGS",
        "--moe-token-dispatcher-type",
        "flex",
        why="how rows travel between ranks: all-to-all of torch.distributed",
    ),
    Row("MOE_ARGS", "--moe-router-dtype", "fp32", "model.router_dtype", "fp32"),
    Row("MOE_ARGS", "--num-experts", "256", "model.num_experts", 256),
    Row("MOE_ARGS", "--moe-ffn-hidden-size", "512", "model.moe_intermediate_size", 512),
    Row(
        "MOE_ARGS",
        "--moe-shared-expert-intermediate-size",
        "512",
        "model.moe_shared_expert_intermediate_size",
        512,
    ),
    Row("MOE_ARGS", "--moe-router-score-function", "sigmoid", "model.score_function", "sigmoid"),
    Row("MOE_ARGS", "--moe-router-topk", "8", "model.num_experts_per_tok", 8),
    Row(
        "MOE_ARGS",
        "--moe-router-enable-expert-bias",
        True,
        "model.moe_router_enable_expert_bias",
        True,
    ),
    Row("MOE_ARGS", "--moe-router-topk-scaling-factor", "2.5", "model.routed_scaling_factor", 2.5),
    Row("MOE_ARGS", "--moe-router-num-groups", "8", "model.n_group", 8),
    Row("MOE_ARGS", "--moe-router-group-topk", "4", "model.topk_group", 4),
    Row("MOE_ARGS", "--moe-z-loss-coeff", "0.0000035", "train.z_loss_coef", 3.5e-06),
    Row("MOE_ARGS", "--moe-router-bias-update-rate", "1e-3", "train.bias_update_rate", 0.001),
    Row(
        "MOE_ARGS",
        "--moe-layer-freq",
        "[0,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]",
        "model.first_k_dense_replace",
        1,
    ),
    Row("MOE_ARGS", "--bias-zero-mean-update", True, "train.bias_zero_mean", True),
    # MPT_ARGS
    Row("MPT_ARGS", "--mtp-num-layers", "1", "model.num_nextn_predict_layers", 1),
    Row("MPT_ARGS", "--mtp-loss-scaling-factor", "0.1", "train.mtp_loss_weight", 0.1),
    # GPT_MODEL_ARGS
    Row("GPT_MODEL_ARGS", "--num-layers", "20", "model.num_hidden_layers", 20),
    Row("GPT_MODEL_ARGS", "--hidden-size", "2048", "model.hidden_size", 2048),
    Row("GPT_MODEL_ARGS", "--ffn-hidden-size", "5120", "model.intermediate_size", 5120),
    Row("GPT_MODEL_ARGS", "--num-attention-heads", "16", "model.num_attention_heads", 16),
    Row("GPT_MODEL_ARGS", "--num-query-groups", "4", "model.num_key_value_heads", 4),
    Row(
        "GPT_MODEL_ARGS",
        "--group-query-attention",
        True,
        why="always: `num_key_value_heads` says how many",
    ),
    Row("GPT_MODEL_ARGS", "--qk-layernorm", True, "model.use_qk_norm", True),
    Row("GPT_MODEL_ARGS", "--use-flash-attn", True, why="a kernel, chosen by torch"),
    Row(
        "GPT_MODEL_ARGS",
        "--max-position-embeddings",
        ("4096", "8192", "32768"),
        "model.max_position_embeddings",
        (4096, 8192, 32768),
    ),
    Row("GPT_MODEL_ARGS", "--vocab-size", "157184", "model.vocab_size", 157184),
    Row(
        "GPT_MODEL_ARGS",
        "--make-vocab-size-divisible-by",
        "128",
        why="157184 is a multiple of 128 already",
    ),
    Row("GPT_MODEL_ARGS", "--position-embedding-type", "rope", why="rope is the only one"),
    Row(
        "GPT_MODEL_ARGS",
        "--rotary-base",
        ("10000", "600000", "600000"),
        "model.rope_theta",
        (10000.0, 600000.0, 600000.0),
    ),
    Row("GPT_MODEL_ARGS", "--rotary-percent", "0.5", "model.partial_rotary_factor", 0.5),
    Row(
        "GPT_MODEL_ARGS",
        "--rotary-scaling-factor",
        "40",
        why="no effect there: only MLA layers read it",
    ),
    Row("GPT_MODEL_ARGS", "--swiglu", True, "model.hidden_act", "silu"),
    Row(
        "GPT_MODEL_ARGS",
        "--untie-embeddings-and-output-weights",
        True,
        "model.tie_word_embeddings",
        False,
    ),
    Row("GPT_MODEL_ARGS", "--normalization", "RMSNorm", "model.use_rmsnorm", True),
    Row("GPT_MODEL_ARGS", "--norm-epsilon", "1e-06", "model.rms_norm_eps", 1e-06),
    Row("GPT_MODEL_ARGS", "--disable-bias-linear", True, "model.use_bias", False),
    Row("GPT_MODEL_ARGS", "--transformer-impl", "transformer_engine", why="a library of kernels"),
    Row("GPT_MODEL_ARGS", "--attention-dropout", "0", "model.attention_dropout", 0.0),
    Row("GPT_MODEL_ARGS", "--hidden-dropout", "0", "model.output_dropout", 0.0),
    # TRAINING_ARGS
    Row(
        "TRAINING_ARGS", "--micro-batch-size", ("1", "2", "1"), "train.micro_batch_size", (1, 2, 1)
    ),
    Row("TRAINING_ARGS", "--global-batch-size", "128", "train.global_batch_size", 128),
    Row(
        "TRAINING_ARGS",
        "--seq-length",
        ("4096", "8192", "32768"),
        "data.seq_length",
        (4096, 8192, 32768),
    ),
    Row("TRAINING_ARGS", "--train-iters", "2000", "train.steps", 2000),
    Row("TRAINING_ARGS", "--weight-decay", "0.1", "optim.weight_decay", 0.1),
    Row("TRAINING_ARGS", "--adam-beta1", "0.9", "optim.beta1", 0.9),
    Row("TRAINING_ARGS", "--adam-beta2", "0.95", "optim.beta2", 0.95),
    Row("TRAINING_ARGS", "--init-method-std", "0.02", "model.initializer_range", 0.02),
    Row("TRAINING_ARGS", "--clip-grad", "1.0", "train.grad_clip", 1.0),
    Row("TRAINING_ARGS", "--bf16", True, "train.dtype", "bfloat16"),
    Row("TRAINING_ARGS", "--fp8-param-gather", True, "train.fp8_param_gather", True),
    Row("TRAINING_ARGS", "--fp8-recipe", "blockwise", "train.fp8", "blockwise"),
    Row("TRAINING_ARGS", "--fp8-format", "e4m3", why="e4m3 is the only one"),
    Row("TRAINING_ARGS", "--optimizer", "adamw-bnb-8bit", "optim.name", "adamw8bit"),
    Row("TRAINING_ARGS", "--lr", "3.0e-5", "optim.lr", 3e-05),
    Row("TRAINING_ARGS", "--lr-decay-style", "cosine", "optim.schedule", "cosine"),
    Row("TRAINING_ARGS", "--min-lr", "3.0e-6", "optim.lr_min", 3e-06),
    Row("TRAINING_ARGS", "--lr-warmup-iters", "0", "optim.warmup_steps", 0),
    Row("TRAINING_ARGS", "--seed", "42", "train.seed", 42),
    Row("TRAINING_ARGS", "--manual-gc", True, why="Python's own collection stays on"),
    Row("TRAINING_ARGS", "--manual-gc-interval", "200", why="Python's own collection stays on"),
    # MODEL_PARALLEL_ARGS
    Row(
        "MODEL_PARALLEL_ARGS",
        "--pipeline-model-parallel-size",
        ("1", "1", "4"),
        "parallel.pp",
        (1, 1, 4),
    ),
    Row(
        "MODEL_PARALLEL_ARGS",
        "--tensor-model-parallel-size",
        ("1", "1", "2"),
        "parallel.cp",
        (1, 1, 2),
    ),
    Row(
        "MODEL_PARALLEL_ARGS",
        "--sequence-parallel",
        True,
        why="part of tensor parallel, which is left out",
    ),
    Row("MODEL_PARALLEL_ARGS", "--use-distributed-optimizer", True, "parallel.dp_shard", (8, 8, 2)),
    Row(
        "MODEL_PARALLEL_ARGS",
        "--recompute-granularity",
        ("selective", "full", "selective"),
        "parallel.recompute",
        ("moe", "full", "moe"),
    ),
    Row(
        "MODEL_PARALLEL_ARGS",
        "--recompute-modules",
        ("moe", None, "moe"),
        why="`parallel.recompute: moe` says which",
    ),
    Row("MODEL_PARALLEL_ARGS", "--overlap-param-gather", True, why="always, by FSDP2"),
    Row("MODEL_PARALLEL_ARGS", "--overlap-grad-reduce", True, why="always, by FSDP2"),
    Row(
        "MODEL_PARALLEL_ARGS",
        "--recompute-method",
        (None, "uniform", None),
        why="`parallel.recompute: full` is by block",
    ),
    Row(
        "MODEL_PARALLEL_ARGS",
        "--recompute-num-layers",
        (None, "1", None),
        why="`parallel.recompute: full` is by block",
    ),
    Row(
        "MODEL_PARALLEL_ARGS",
        "--moe-router-padding-for-fp8",
        (None, True, None),
        "train.fp8_pad_routing",
        (False, True, False),
    ),
    # DATA_ARGS
    Row("DATA_ARGS", "--data-path", "<path>", why="a path: `data.prefix` at each start"),
    Row(
        "DATA_ARGS", "--tokenizer-type", "BailingTokenizer", why="read from the tokenizer's folder"
    ),
    Row(
        "DATA_ARGS",
        "--tokenizer-model",
        "<path>",
        why="a path: by default the tokenizer of the `model` folder",
    ),
    Row("DATA_ARGS", "--split", "999,1,0", "data.split", [999, 1, 0]),
    Row("DATA_ARGS", "--dataloader-type", "single", why="`single` is the order of rows here"),
    Row(
        "DATA_ARGS",
        "--no-create-attention-mask-in-dataloader",
        True,
        why="no masks are made: rows are causal",
    ),
    Row("DATA_ARGS", "--eod-mask-loss", True, "data.eod_mask_loss", True),
    # EVAL_AND_LOGGING_ARGS
    Row("EVAL_AND_LOGGING_ARGS", "--save-interval", "1000", "checkpoint.interval_steps", 1000),
    Row("EVAL_AND_LOGGING_ARGS", "--eval-interval", "1000", "train.eval_interval_steps", 1000),
    Row("EVAL_AND_LOGGING_ARGS", "--save", "<path>", why="a path: `--out` at each start"),
    Row(
        "EVAL_AND_LOGGING_ARGS",
        "--load",
        "<path>",
        "model",
        (
            "inclusionAI/Ling-mini-base-2.0-20T",
            "inclusionAI/Ling-mini-base-2.0",
            "inclusionAI/Ling-mini-base-2.0",
        ),
    ),
    Row(
        "EVAL_AND_LOGGING_ARGS",
        "--finetune",
        True,
        why="a run on a `model` folder begins with new counters",
    ),
    Row(
        "EVAL_AND_LOGGING_ARGS",
        "--ckpt-format",
        "torch_dist",
        why="torch_dist (DCP) is the only one",
    ),
    Row("EVAL_AND_LOGGING_ARGS", "--async-save", True, "checkpoint.async_save", True),
    Row("EVAL_AND_LOGGING_ARGS", "--eval-iters", "10", "train.eval_rows", 1280),
    Row("EVAL_AND_LOGGING_ARGS", "--log-interval", "1", why="every step is logged"),
    Row("EVAL_AND_LOGGING_ARGS", "--log-throughput", True, why="always in the log"),
    Row("EVAL_AND_LOGGING_ARGS", "--tensorboard-dir", "<path>", why="in the run's folder"),
    Row(
        "EVAL_AND_LOGGING_ARGS",
        "--log-timers-to-tensorboard",
        True,
        why="what is logged is not chosen",
    ),
    Row(
        "EVAL_AND_LOGGING_ARGS",
        "--log-memory-to-tensorboard",
        True,
        why="what is logged is not chosen",
    ),
    Row(
        "EVAL_AND_LOGGING_ARGS",
        "--log-world-size-to-tensorboard",
        True,
        why="what is logged is not chosen",
    ),
    Row(
        "EVAL_AND_LOGGING_ARGS",
        "--log-validation-ppl-to-tensorboard",
        True,
        why="what is logged is not chosen",
    ),
    # KERNEL_ARGS
    Row("KERNEL_ARGS", "--attention-backend", "auto", why="a kernel, chosen by torch"),
    Row("KERNEL_ARGS", "--no-masked-softmax-fusion", True, why="a kernel, chosen by torch"),
    Row("KERNEL_ARGS", "--attention-softmax-in-fp32", True, why="always"),
    Row(
        "KERNEL_ARGS",
        "--cross-entropy-loss-fusion",
        True,
        why="always: the loss never makes all logits",
    ),
]


def launch_script(script: str, **variables: str) -> str:
    """A script of the original's form: arrays by group, one argument a line, then the launch."""
    groups: dict[str, list[str]] = {}
    for row in ROWS:
        value = row.their_value(script)
        if value is None:
            continue
        name = row.argument.strip("-").upper().replace("-", "_")
        if value == "<path>":
            value = f"${{{name}}}"
        line = row.argument if value is True else f"{row.argument} {_quoted(value)}"
        groups.setdefault(row.group, []).append(f"    {line}")
    arrays = [f"{name}=(\n" + "\n".join(lines) + "\n)\n" for name, lines in groups.items()]
    return "\n".join(
        [
            "#!/bin/bash",
            "# Continued pre-training.",
            'export CUDA_DEVICE_MAX_CONNECTIONS=1  # "quoted" comment',
            *(f'{name}="{value}"' for name, value in variables.items()),
            "GPUS=${GPUS_PER_NODE:-8}",
            "START=`date +%s`",
            "",
            *arrays,
            "torchrun --nproc_per_node $GPUS --nnodes ${NNODES} ${MEGATRON}/pretrain_gpt.py \\",
            " \\\n".join(f"    ${{{name}[@]}}" for name in groups) + " 2>&1 | tee log.txt",
            "",
        ]
    )


def _quoted(value: str) -> str:
    return f'"{value}"' if not value[0].isdigit() else value
