"""The `parallel` section of a recipe: how ranks share the work of a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..errors import UsageError
from .checks import at_least


@dataclass(frozen=True)
class Place:
    """Where a rank stands in a layout: ranks of one `dp` read the same rows."""

    pp: int
    dp: int
    cp: int


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """How ranks share the work. Ranks = dp_replicate × dp_shard × cp × pp."""

    dp_replicate: int = 1
    """Copies of the weights, each over `dp_shard` ranks."""
    dp_shard: int = 1
    """Ranks that share weights, gradients and optimizer state of one copy (FSDP2)."""
    cp: int = 1
    """Context parallel: ranks that share a row's tokens; twice this divides `data.seq_length`."""
    pp: int = 1
    """Pipeline parallel: ranks that share the layers, cut into stages by cost."""
    pp_stages_per_rank: int = 1
    """Stages of one rank: 1 is the 1F1B schedule, more the interleaved one, whose bubble is as many
    times smaller."""
    ep: int = 1
    """Expert parallel: ranks among `dp_shard` × `cp` that share a layer's experts."""
    recompute: Literal["none", "moe", "full"] = "none"
    """What the backward pass computes again instead of keeping it: nothing, experts, or experts,
    MLPs and attention. Routing is always kept."""
    auto: bool = False
    """`parallel: auto` in a recipe: the planner chooses the layout for the ranks at hand, and the
    run keeps it."""

    def __post_init__(self) -> None:
        for name in ("dp_replicate", "dp_shard", "cp", "pp", "pp_stages_per_rank", "ep"):
            at_least(f"parallel.{name}", getattr(self, name), 1)
        if self.pp == 1 and self.pp_stages_per_rank > 1:
            raise UsageError(
                f"`parallel.pp_stages_per_rank` = {self.pp_stages_per_rank} needs ranks that share "
                "the layers; set `parallel.pp` above 1, or leave it out"
            )
        shards = self.dp_shard * self.cp
        if shards % self.ep:
            raise UsageError(
                f"`parallel.ep` = {self.ep} does not divide `parallel.dp_shard` × `parallel.cp` = "
                f"{shards}; set `parallel.ep` to a divisor of {shards}"
            )

    @property
    def dp(self) -> int:
        """Ranks that read different rows."""
        return self.dp_replicate * self.dp_shard

    @property
    def world(self) -> int:
        """Ranks in all."""
        return self.dp * self.cp * self.pp

    def place(self, rank: int) -> Place:
        """Where `rank` stands: neighbours share rows (cp), then weights and experts, then copies;
        the stages of a pipeline are furthest apart."""
        rest, cp = divmod(rank, self.cp)
        pp, dp = divmod(rest, self.dp)
        return Place(pp, dp, cp)

    @property
    def stages(self) -> int:
        """Stages of the pipeline."""
        return self.pp * self.pp_stages_per_rank

    @property
    def expert_shards(self) -> int:
        """Ranks that share the tensors of one expert."""
        return self.dp_shard * self.cp // self.ep
