"""Bytes that a rank sends in a step, by what they are for, and the seconds they take.

What is counted is what `train/parallel` sends: FSDP gathers a block's weights for each forward and
each backward pass of a micro-batch and adds up gradients after each backward pass; pipelines keep
them gathered for a step. The other choice, `per_micro_batch=False`, is a distributed optimizer:
once a step.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..config.kinds import Recipe
from .constants import Constants
from .exchange import copy_bytes, each_bytes, pays, ranks_reached
from .gpus import Gpu
from .shape import FP32, Shape
from .trained import trained_shape
from .weights import gathered_item, item_of


@dataclass(frozen=True)
class Traffic:
    """Bytes that a rank sends in a step to `ranks` others together, of which `per_node` are on its
    machine, itself included; `hidden` tells that computation can go on meanwhile."""

    name: str
    bytes: float
    ranks: int
    per_node: int
    hidden: bool

    def seconds(self, gpu: Gpu, constants: Constants) -> float:
        """Time on links of the machine, or of the network where that takes longer."""
        share = constants.all_to_all_share if "experts" in self.name else constants.gather_share
        inside = self.bytes / gpu.link_bytes_per_s
        nodes = -(-self.ranks // self.per_node)
        outside = 0.0
        if nodes > 1:
            part = (nodes - 1) / nodes * self.ranks / (self.ranks - 1)
            shared = 1 if self.name == EXPERTS else self.per_node
            outside = self.bytes * part / shared / gpu.net_bytes_per_s
        return max(inside, outside) / share


GATHER, REDUCE = "gather weights", "add up gradients"
COPIES, EXPERTS = "add up copies", "experts' rows"
PIPELINE, CONTEXT = "pipeline", "keys and values"


def traffic(
    shape: Shape, recipe: Recipe, gpu: Gpu, *, per_micro_batch: bool = True
) -> list[Traffic]:
    """What the busiest rank sends in one step."""
    layout, train = recipe.parallel, recipe.train
    tokens = train.micro_batch_size * recipe.data.seq_length // layout.cp
    micro = train.global_batch_size // (train.micro_batch_size * layout.dp)
    once = layout.pp > 1 or not per_micro_batch
    found = _weights(shape, recipe, gpu, 1 if once else micro)
    item = item_of(train)
    if layout.ep > 1:
        moe = sum(layer.is_moe for layer in shape.layers) / layout.pp
        again = 1.5 if layout.recompute in ("moe", "full") else 1.0
        sent = again * tokens * micro * moe * _expert_bytes(shape, layout.ep, item)
        found.append(Traffic(EXPERTS, sent, layout.ep, min(layout.ep, gpu.per_node), False))
    if layout.pp > 1:
        sent = 2 * tokens * micro * item * shape.config.hidden_size * layout.pp_stages_per_rank
        near = max(1, gpu.per_node // (layout.world // layout.pp))
        found.append(Traffic(PIPELINE, sent, layout.pp, min(near, layout.pp), True))
    if layout.cp > 1:
        layers = len(shape.layers) / layout.pp
        keys = 2 * item * shape.config.kv_size * tokens * (layout.cp - 1)
        again = 3 if layout.recompute == "full" else 2
        near = min(layout.cp, gpu.per_node)
        found.append(Traffic(CONTEXT, again * keys * layers * micro, layout.cp, near, False))
    return found


def _expert_bytes(shape: Shape, ep: int, item: int) -> float:
    """Bytes of a token's rows that leave the rank, forward and backward."""
    cfg = shape.config
    if pays(cfg, ep, item):
        return ranks_reached(cfg, ep) * copy_bytes(cfg, item) * (ep - 1) / ep
    return each_bytes(cfg, item) * (ep - 1) / ep


def _weights(shape: Shape, recipe: Recipe, gpu: Gpu, times: int) -> list[Traffic]:
    """Weights that are gathered and gradients that are added up."""
    layout = recipe.parallel
    dense, experts = layout.dp_shard * layout.cp, layout.expert_shards
    if layout.ep == 1:
        experts = dense
    gathers = reduces = 0.0
    own = 0.0
    shape = trained_shape(shape, recipe)
    ends = [shape.embedding, shape.norm, *([shape.head] if shape.head else [])]
    weights = [w for layer in shape.layers for w in layer.weights]
    for w in (*weights, *ends):
        n = experts if w.is_experts else dense
        size = w.size / layout.pp / (layout.ep if w.is_experts else 1)
        passes = (1 if w in ends else 2) * times if layout.pp == 1 else times
        gathers += passes * gathered_item(w, recipe) * size * (n - 1) / n
        if not w.frozen:
            reduces += times * FP32 * size * (n - 1) / n
            own += times * FP32 * size / n
    near = min(dense, gpu.per_node)
    found = []
    if dense > 1:
        found += [
            Traffic(GATHER, gathers, dense, near, True),
            Traffic(REDUCE, reduces, dense, near, True),
        ]
    copies = layout.dp_replicate
    if copies > 1:
        sent = 2 * own * (copies - 1) / copies
        found.append(Traffic(COPIES, sent, copies, max(1, gpu.per_node // dense), True))
    return found
