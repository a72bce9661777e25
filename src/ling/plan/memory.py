"""Bytes of one rank by kind: what a run holds always, and what a step needs at its worst moment.

Activations grow in the forward pass while there are no gradients yet, and make room for them in the
backward pass; so the peak is less than the sum of all kinds. It is found by walking through a step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from ..config.kinds import Recipe
from ..ops.softmax import CHUNK_TOKENS, GPU_CHUNK_TOKENS, IN_PLACE_CHUNK_TOKENS
from .activations import Kept, kept, padding_of
from .exchange import ranks_reached
from .schedule import in_flight
from .shape import BF16, FP32, Layer, Shape, Weight
from .weights import RankWeights

# What the allocator cannot use again between a step's tensors, as a share of them. On CPUs measured
# (docs/guides/plan.md#memory) with glibc, which is told to keep what is freed (`train/heap.py`):
# alone, among ranks of experts, and with experts that FSDP gathers. On CUDA assumed.
_ALONE, _RANKS, _GATHERED, _CUDA = 0.8, 1.07, 1.7, 0.1
# Bytes of a score: in bfloat16, which becomes its gradient in place; else with its copies.
_IN_PLACE, _COPIED = 2, 12


@dataclass(frozen=True)
class Memory:
    """Bytes of the ranks from `rank` to `last`; all but `peak` are each kind's own most."""

    rank: int
    last: int
    parameters: float = 0
    gradients: float = 0
    states: float = 0
    fp8_weights: float = 0
    gathered: float = 0
    casts: float = 0
    activations: float = 0
    loss: float = 0
    work: float = 0
    heap: float = 0
    peak: float = 0

    def kinds(self) -> dict[str, float]:
        """The kinds by name."""
        values = dataclasses.asdict(self)
        return {name: values[name] for name in KINDS}


KINDS = {
    "parameters": "weights of this rank: float32, frozen ones as products read them",
    "gradients": "float32 gradients of this rank",
    "states": "moments of the optimizer",
    "fp8_weights": "FP8 codes of weights and their scales",
    "gathered": "weights of other ranks, and gradients on their way",
    "casts": "bfloat16 copies of weights, kept for the backward pass",
    "activations": "what the backward pass needs of each token",
    "loss": "scores of a chunk, and the head's gradient",
    "work": "the layer that the backward pass is in",
    "heap": "gaps that the allocator cannot use",
}


def memory(shape: Shape, recipe: Recipe, device: str = "cuda") -> list[Memory]:
    """Bytes of each rank of the pipeline, which all ranks that have its stages share."""
    layout = recipe.parallel
    each = layout.world // layout.pp
    return [
        _Rank(shape, recipe, device, pp).memory(pp * each, (pp + 1) * each - 1)
        for pp in range(layout.pp)
    ]


class _Rank(RankWeights):
    """The ranks at place `pp` of a pipeline, and what a step needs of them."""

    def __init__(self, shape: Shape, recipe: Recipe, device: str, pp: int) -> None:
        super().__init__(shape, recipe, device, pp)
        train = recipe.train
        self.tokens = train.micro_batch_size * recipe.data.seq_length // self.layout.cp
        self.micro = train.global_batch_size // (train.micro_batch_size * self.layout.dp)
        self.flight = in_flight(self.layout, self.micro)[pp] / self.layout.pp_stages_per_rank
        self.padding = padding_of(shape.config, self.tokens, self.layout.ep, device)

    # ---- FSDP ----------------------------------------------------------------------------------

    def _reduced(self, weight: Weight) -> float:
        """Bytes of a gathered gradient, of its copy to send, and on gloo of what is received."""
        return (2 if self.device == "cpu" else 1) * FP32 * self.here(weight)

    def gathered(self) -> float:
        """Weights that are whole at one time: the root's always, those of a block and the next, or
        in a pipeline all of the stage's."""
        units = self.each(self.unit) or [0.0]
        return self._root() + (sum(units) if self.layout.pp > 1 else 2 * max(units))

    def _root(self) -> float:
        return sum(w.item * w.size for w in self.ends()) * self.sharded

    def sending(self, layer: Layer) -> float:
        """Gradients of a gathered block on their way to other ranks."""
        return sum(self._reduced(w) for w in layer.weights if self.gathers(w) and not w.frozen)

    def _busy(self, layer: Layer) -> float:
        """What the backward pass of a layer needs; on a GPU its gradients travel meanwhile."""
        work, sending = self._work(layer), self.sending(layer)
        return max(work, sending) if self.device == "cpu" else work + sending

    # ---- a step --------------------------------------------------------------------------------

    def memory(self, rank: int, last: int) -> Memory:
        """All kinds, and the most at one time."""
        parameters, gradients = self.parameters(), self.gradients()
        always, most = parameters + self.states() + self.fp8_weights(), max(self._moments())
        # Without FSDP, gradients of all micro-batches are added up where the first ones are.
        in_place = self.micro > 1 and not self.sharded
        heap = self._heap_share() * (most - in_place * gradients)
        return Memory(
            rank,
            last,
            parameters=parameters,
            gradients=gradients,
            states=self.states(),
            fp8_weights=self.fp8_weights(),
            gathered=self.gathered() + max(self.each(self.sending), default=0.0),
            casts=self.casts() * self.flight,
            activations=sum(self.each(self._kept)) * self.flight,
            loss=self._loss_kept() + self._loss_work(),
            work=max(self.each(self._work), default=0.0),
            heap=heap,
            peak=always + most + heap,
        )

    def _heap_share(self) -> float:
        if self.device != "cpu":
            return _CUDA
        gathers = self.total(lambda w: self.gathers(w) and w.is_experts) > 0
        return _GATHERED if gathers else _RANKS if self.sharded else _ALONE

    def _of(self, layer: Layer) -> Kept:
        return kept(self.shape.config, layer, self.item, self.padding, self.layout.ep)

    def _kept(self, layer: Layer) -> float:
        """Bytes that a layer keeps of a micro-batch."""
        if layer.unused:
            return 0.0
        return self.tokens * self._of(layer).after(self.layout.recompute, layer.is_moe)

    def _loss_kept(self) -> float:
        """The gradients of hidden states and head that the forward pass makes."""
        if not self.has_head:
            return 0.0
        d = self.shape.config.hidden_size
        return self.shape.predictions * (self._table() + 2 * self.item * d * self.tokens)

    def _table(self) -> float:
        """The gradient of the head in float32."""
        head = self.shape.head or self.shape.embedding
        return 0.0 if head.frozen else FP32 * self.shape.embedding.size

    def _loss_work(self) -> float:
        """Scores of a chunk, the head in the compute type, and a chunk's part of its gradient."""
        if not self.has_head:
            return 0.0
        rows, item = GPU_CHUNK_TOKENS, _COPIED
        if self.device == "cpu":
            in_place = self.item == BF16
            rows, item = (IN_PLACE_CHUNK_TOKENS, _IN_PLACE) if in_place else (CHUNK_TOKENS, _COPIED)
        scores = min(rows, self.tokens) * item * self.shape.config.vocab_size
        head = self.shape.head or self.shape.embedding
        copies = int(self._is_cast(head)) if head.frozen else 2
        return scores + copies * self.item * self.shape.embedding.size

    def _work(self, layer: Layer) -> float:
        """What the backward pass of a layer needs for itself."""
        if layer.unused:
            return 0.0
        found, what = self._of(layer), self.layout.recompute
        rows = self.tokens * (found.making + found.again(what, layer.is_moe))
        if layer.is_moe and self.layout.ep > 1:
            rows += self.tokens * self._sums()
        # Copies of weights and gradients in the compute type, and new gradients beside the sums.
        copies = sum(map(self._copies, layer.weights))
        added = FP32 * sum(map(self.trained, layer.weights)) if self.micro > 1 else 0.0
        return rows + copies + added

    def _copies(self, weight: Weight) -> float:
        """Bytes that the backward pass makes of a stack of experts: it and its gradient as they are
        in products; of frozen ones gate and up side by side."""
        if not weight.is_experts:
            return 0.0
        here = self.here(weight)
        if weight.frozen:
            joined = "down_proj" not in weight.name and weight.item >= BF16
            return self.item * here * (joined or self._is_cast(weight))
        return 2 * BF16 * here if self.item == BF16 else FP32 * here

    def _is_cast(self, frozen: Weight) -> bool:
        """Whether products make a copy of all of it; packed ones are unpacked matrix by matrix."""
        return BF16 <= frozen.item != self.item

    def _sums(self) -> float:
        """Rows of a token in float32, to be added up for each rank, as they go and as they come."""
        cfg = self.shape.config
        copies = 2 * ranks_reached(cfg, self.layout.ep)
        return FP32 * cfg.hidden_size * (cfg.num_experts_per_tok * self.padding + copies)

    def _moments(self) -> Iterator[float]:
        """Bytes beside what is always there, as a step goes on."""
        sums = self.gradients()
        yield sums  # the optimizer's update
        kept, casts, several = self.each(self._kept), self.casts(), self.micro > 1
        others = (self.flight - 1) * (sum(kept) + casts) + (sums if several else 0.0)
        base, table = others + self.gathered() + casts, self._table()
        forward = base + sum(kept) + self._loss_kept()
        yield forward + self._loss_work()
        yield forward + table * self.has_head
        grown = table * self.has_head if self.sharded or not several else 0.0
        left, grown_by = sum(kept), self.each(self._gradients)
        for n, busy in reversed(list(enumerate(self.each(self._busy)))):
            yield base + grown + left + busy
            left -= kept[n]
            grown += 0.0 if several else grown_by[n]
        ends = [w for w in self.ends() if not w.frozen]
        whole = FP32 * sum(w.size for w in ends)
        grown -= table * self.has_head
        yield others + self._root() + grown + whole + self.sharded * sum(map(self._reduced, ends))

    def _gradients(self, layer: Layer) -> float:
        return FP32 * sum(map(self.trained, layer.weights))
