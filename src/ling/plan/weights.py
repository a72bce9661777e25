"""Bytes of the weights of one rank: its parts, moments and FP8 copies, and what FSDP gathers.

What the trainer does with a weight is decided here where both need it (`gathers_bytes`,
`ends_with_blocks`); `benchmarks/fp8_savings.py` holds these counts against a run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..config.kinds import Recipe
from ..config.parallel import ParallelConfig
from ..config.recipe import TrainConfig
from ..ops.adam8 import BLOCK, LEAST
from ..ops.formats import FP8_BLOCK
from .shape import BF16, FP8, FP32, Layer, Shape, Weight
from .trained import trained_shape


def ends_with_blocks(shape: Sequence[int], dim: int, ranks: int, *, stacked: bool) -> bool:
    """Whether parts of an FP8 weight, cut along `dim` for `ranks`, end where blocks of it end.

    `stacked`: another weight of its shape lies below it in the product, as up below gate.
    """
    if shape[dim] % ranks or (stacked and shape[-2] % FP8_BLOCK):
        return False
    cuts_rows = dim == len(shape) - 2 and ranks > 1
    return not (cuts_rows and shape[dim] // ranks % FP8_BLOCK)


def gathers_bytes(weight: Weight, recipe: Recipe) -> bool:
    """Whether FSDP, where it gathers a weight, gathers its FP8 codes."""
    layout, train = recipe.parallel, recipe.train
    if not (weight.fp8 and train.fp8 != "off" and train.fp8_param_gather):
        return False
    stacked = weight.is_experts and "down_proj" not in weight.name
    if weight.is_experts and layout.ep > 1:
        return ends_with_blocks(weight.shape, 1, layout.expert_shards, stacked=stacked)
    return ends_with_blocks(weight.shape, 0, layout.dp_shard * layout.cp, stacked=stacked)


def gathered_item(weight: Weight, recipe: Recipe) -> float:
    """Bytes of a number as FSDP gathers it: what each rank quantises itself comes in float32."""
    if gathers_bytes(weight, recipe):
        return FP8
    if weight.item != FP32:
        return weight.item
    in_fp8 = weight.fp8 and recipe.train.fp8 != "off"
    return BF16 if weight.is_experts and item_of(recipe.train) == BF16 and not in_fp8 else FP32


def item_of(train: TrainConfig) -> int:
    return BF16 if train.dtype == "bfloat16" else FP32


class RankWeights:
    """The weights of the ranks at place `pp` of a pipeline."""

    def __init__(self, shape: Shape, recipe: Recipe, device: str, pp: int) -> None:
        shape = trained_shape(shape, recipe)
        self.shape, self.recipe, self.device = shape, recipe, device
        self.layout: ParallelConfig = recipe.parallel
        self.item = item_of(recipe.train)
        stages = shape.stages(self.layout.stages)
        own = range(pp, len(stages), self.layout.pp)
        self.has_head, self.has_embedding = len(stages) - 1 in own, 0 in own
        self.layers = [shape.layers[n] for i in own for n in stages[i]]
        if self.has_head:
            self.layers += shape.layers[shape.num_main :]

    # ---- parts of this rank --------------------------------------------------------------------

    def ends(self) -> list[Weight]:
        """Embedding, norm and head that this rank has; the last stage's copy of the embedding is
        in its gradients and weights, not in its states."""
        found = [self.shape.embedding] if self.has_embedding else []
        if self.has_head:
            found += [self.shape.norm, *([self.shape.head] if self.shape.head else [])]
        return found

    @property
    def copied(self) -> float:
        """Numbers of the embedding that the last stage has besides the first."""
        shared = self.shape.predictions > 1 or self.shape.head is None
        return self.own(self.shape.embedding) if self._needs_copy and shared else 0

    @property
    def _needs_copy(self) -> bool:
        return self.has_head and not self.has_embedding

    def own(self, weight: Weight) -> float:
        """Numbers of a tensor on this rank."""
        return weight.size // max(weight.shape[0], 1) * self._first(weight)

    def _first(self, weight: Weight) -> float:
        layout, rows = self.layout, weight.shape[0]
        if weight.is_experts and layout.ep > 1:
            return rows / layout.ep / layout.expert_shards
        return -(-rows // (layout.dp_shard * layout.cp))

    def each(self, count: Callable[[Layer], float]) -> list[float]:
        """A number of every layer of this rank; equal layers are counted once."""
        found = {id(layer): count(layer) for layer in {id(x): x for x in self.layers}.values()}
        return [found[id(layer)] for layer in self.layers]

    def total(self, count: Callable[[Weight], float]) -> float:
        """A number added up over all tensors of which this rank has a part."""
        layers = self.each(lambda layer: sum(map(count, layer.weights)))
        return sum(layers) + sum(map(count, self.ends()))

    def numbers(self) -> float:
        """Parameters of this rank."""
        return self.total(self.own)

    def trained(self, weight: Weight) -> float:
        """Numbers of a tensor on this rank that have a gradient."""
        return 0.0 if weight.frozen else self.own(weight)

    def parameters(self) -> float:
        """Bytes of the weights as they are stored, the last stage's copy of the embedding too."""
        copied = self.shape.embedding.item * self.copied
        return self.total(lambda w: w.item * self.own(w)) + copied

    def gradients(self) -> float:
        """Bytes of the gradients of all weights that have one."""
        copied = 0 if self.shape.embedding.frozen else self.copied
        return FP32 * (self.total(self.trained) + copied)

    def states(self) -> float:
        """Two moments of each number that is trained."""
        if self.recipe.optim.name == "adamw":
            return 2 * FP32 * self.total(self.trained)
        return self.total(lambda w: _states8(self.trained(w)))

    # ---- copies for products -------------------------------------------------------------------

    def fp8_weights(self) -> float:
        """Codes and scales of FP8 weights, and those transposed, between forward and backward."""
        return self.total(self._fp8_copy) if self.recipe.train.fp8 != "off" else 0.0

    def _fp8_copy(self, weight: Weight) -> float:
        if not weight.fp8:
            return 0.0
        scales = FP32 * self._blocks(weight)
        if self.gathers(weight) and gathers_bytes(weight, self.recipe):
            return FP8 * self.own(weight) + scales  # transposed while it is there, if at all
        return (2 if self._keeps_transposed else 1) * (FP8 * self.here(weight) + scales)

    @property
    def _keeps_transposed(self) -> bool:
        """Products of a CPU, and those of the emulation, read either layout."""
        train = self.recipe.train
        reads = self.device != "cpu" and train.fp8_products != "emulation"
        return reads and not train.fp8_transpose_on_demand

    def _blocks(self, weight: Weight) -> float:
        """Blocks of 128 × 128 of a tensor once it is gathered."""
        rows, columns = weight.shape[-2:]
        each = -(-rows // FP8_BLOCK) * -(-columns // FP8_BLOCK)
        return self.here(weight) / (rows * columns) * each

    def here(self, weight: Weight) -> float:
        """Numbers of a tensor once it is gathered."""
        return weight.size / (self.layout.ep if weight.is_experts else 1)

    def casts(self) -> float:
        """Bytes of copies that bfloat16 products of linear layers keep for their backward pass."""
        return 0.0 if self.item == FP32 else BF16 * sum(self.each(self._casts))

    def _casts(self, layer: Layer) -> float:
        """Numbers of the copies of a layer that are not made again."""
        again = {"none": (), "moe": ("shared",), "full": ("shared", "mlp", "attention")}
        names, fp8 = again[self.layout.recompute], self.recipe.train.fp8 != "off"
        linear = [w for w in layer.weights if w.cast and not w.is_experts and not (fp8 and w.fp8)]
        return sum(w.size for w in linear if not any(name in w.name for name in names))

    # ---- FSDP ----------------------------------------------------------------------------------

    @property
    def sharded(self) -> bool:
        """Whether FSDP gathers weights on this rank."""
        return self.layout.world > self.layout.pp

    def gathers(self, weight: Weight) -> bool:
        """Whether it gathers this one: not the experts that a rank has whole and alone."""
        layout = self.layout
        whole = layout.ep > 1 and layout.expert_shards == layout.dp_replicate == 1
        return self.sharded and not (weight.is_experts and whole)

    def gathered_bytes(self, weight: Weight) -> float:
        """Bytes of a weight while it is gathered."""
        return gathered_item(weight, self.recipe) * self.here(weight) * self.gathers(weight)

    def unit(self, layer: Layer) -> float:
        """Bytes of a gathered block."""
        return sum(map(self.gathered_bytes, layer.weights))


def _states8(size: float) -> float:
    """Two moments, each a code of one byte with a scale of float32 for a block."""
    if size < LEAST:
        return 2 * FP32 * size
    return 2 * (size + FP32 * -(-size // BLOCK))
