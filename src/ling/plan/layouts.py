"""What a layout must fit: degrees checked against ranks, batch and model."""

from __future__ import annotations

import math

from ..config.model import ModelConfig
from ..config.parallel import ParallelConfig
from ..config.recipe import TrainConfig
from ..errors import UsageError
from .shape import shape_of
from .stages import check_stages

FP8_MULTIPLE = 16
"""Of which both sizes of an FP8 product's weight are; tiles of 128 may be partial."""


def check_layout(
    parallel: ParallelConfig, train: TrainConfig, model: ModelConfig, ranks: int
) -> None:
    """Raise `UsageError`, with the fix, unless ranks, batch and model fit the degrees."""
    if parallel.world != ranks:
        raise UsageError(_other_ranks(parallel, ranks))
    rows = train.micro_batch_size * parallel.dp
    for key, batch in train.batches().items():
        if batch % rows:
            raise UsageError(
                f"{key} = {batch} is not a multiple of "
                f"`train.micro_batch_size` × data-parallel ranks = {train.micro_batch_size} × "
                f"{parallel.dp}; set it to {math.ceil(batch / rows) * rows}"
            )
    if parallel.ep > 1:
        _check_experts(parallel, model)
    if parallel.pp > 1:
        check_stages(parallel, train, model)


def _other_ranks(parallel: ParallelConfig, ranks: int) -> str:
    degrees = ("dp_replicate", "dp_shard", "cp", "pp")
    product = " × ".join(f"{name} {getattr(parallel, name)}" for name in degrees)
    rest = parallel.world // parallel.dp_shard
    fix = f"start {parallel.world} (torchrun --nproc-per-node {parallel.world} -m ling …)"
    if ranks % rest == 0 and ranks // rest % parallel.ep == 0:
        fix = f"set `parallel.dp_shard: {ranks // rest}`, or {fix}"
    started = "1 rank was" if ranks == 1 else f"{ranks} ranks were"
    return f"{started} started, but `parallel` makes {product} = {parallel.world}; {fix}"


def _check_experts(parallel: ParallelConfig, model: ModelConfig) -> None:
    if model.num_experts % parallel.ep:
        raise UsageError(
            f"`parallel.ep` = {parallel.ep} does not divide the model's {model.num_experts} "
            "experts; set it to a divisor of them"
        )
    shards = parallel.expert_shards
    for name in ("hidden_size", "moe_intermediate_size"):
        if getattr(model, name) % shards:
            raise UsageError(
                f"`parallel.dp_shard` × `cp` / `ep` = {shards} does not divide the model's "
                f"`{name}` = {getattr(model, name)}; set another `parallel.ep`"
            )


def check_fp8_sizes(train: TrainConfig, model: ModelConfig) -> None:
    """Raise `UsageError` for weights whose sizes products in FP8 cannot have, in any layout."""
    if train.fp8 == "off":
        return
    for n, layer in enumerate(shape_of(model, 1).layers):
        for weight in layer.weights:
            if weight.fp8 and any(size % FP8_MULTIPLE for size in weight.shape[-2:]):
                raise UsageError(
                    f"`train.fp8: {train.fp8}` multiplies weights whose sizes are multiples of "
                    f"{FP8_MULTIPLE}; `model.layers.{n}.{weight.name}` is "
                    f"{' × '.join(map(str, weight.shape[-2:]))}: change the model's shape or set "
                    "`train.fp8: off`"
                )
