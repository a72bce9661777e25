"""Which layers each stage of a pipeline has: cut by cost, checked against model and batch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

from ..config.model import ModelConfig
from ..config.parallel import ParallelConfig
from ..config.recipe import TrainConfig
from ..errors import UsageError
from ..model.size import layer_flops_per_token

# Products of routed experts reach a smaller share of the peak than large ones: 0.142 against 0.656
# fits the published times of training on H800.
EXPERT_COST = 4.6


def check_stages(parallel: ParallelConfig, train: TrainConfig, model: ModelConfig) -> None:
    """Raise `UsageError`, with the fix, unless layers and micro-batches fit the stages."""
    most = model.num_hidden_layers + 1
    if parallel.stages > most:
        raise UsageError(
            f"`parallel.pp` × `parallel.pp_stages_per_rank` = {parallel.stages} stages are more "
            f"than {model.num_hidden_layers} layers and the head; set them to {most} at most"
        )
    rows = train.micro_batch_size * parallel.dp
    for key, batch in train.batches().items():
        count = batch // rows
        rounds = max(count // parallel.pp, 1) if parallel.pp_stages_per_rank > 1 else 1
        if count < parallel.pp or count % rounds:
            wanted = -(-count // parallel.pp) * parallel.pp
            raise UsageError(
                f"{key} = {batch} makes {count} micro-batches, "
                f"which do not fill `parallel.pp` = {parallel.pp} ranks in turn; set it to "
                f"{wanted * rows}"
            )


def layer_costs(model: ModelConfig, seq_length: int) -> tuple[list[float], float]:
    """Cost of each main layer, and of what the last stage has besides: head and MTP layers.

    FLOPs, routed experts weighed by how slow they are.
    """
    costs = [
        EXPERT_COST * layer["experts"] + layer["rest"]
        for layer in layer_flops_per_token(model, seq_length)
    ]
    main, mtp = costs[: model.num_hidden_layers], costs[model.num_hidden_layers :]
    head = 2.0 * model.vocab_size * model.hidden_size
    return main, head * (1 + len(mtp)) + sum(mtp)


def cut(costs: Sequence[float], last: float, stages: int) -> list[range]:
    """Layers of each stage, so that the dearest is as cheap as can be; `last` is added to the last.

    That one may have none, each other has one at least. Among equals those are taken whose stages
    differ least.
    """
    sums = [0.0, *accumulate(costs)]

    def key(before: tuple[float, float], cost: float) -> tuple[float, float]:
        return max(before[0], cost), before[1] + cost * cost

    # best[n]: of the first n layers in the stages so far, (dearest stage, squares), and their ends.
    best: dict[int, tuple[tuple[float, float], list[int]]] = {0: ((0.0, 0.0), [])}
    for _ in range(stages - 1):
        best = {
            n: min(
                (key(was, sums[n] - sums[a]), [*ends, n])
                for a, (was, ends) in best.items()
                if a < n
            )
            for n in range(min(best) + 1, len(costs) + 1)
        }
    _, ends = min((key(was, sums[-1] - sums[n] + last), e) for n, (was, e) in best.items())
    borders = [0, *ends, len(costs)]
    return [range(a, b) for a, b in pairwise(borders)]


def stage_layers(parallel: ParallelConfig, model: ModelConfig, seq_length: int) -> list[range]:
    """Main layers of each stage of a recipe's pipeline."""
    return cut(*layer_costs(model, seq_length), parallel.stages)


def described(stages: Sequence[range], model: ModelConfig) -> str:
    """What is where, for the log."""
    words = [
        f"layers {s[0]}-{s[-1]}" if len(s) > 1 else f"layer {s[0]}" if s else "" for s in stages
    ]
    mtp = ", MTP" if model.num_nextn_predict_layers else ""
    words[-1] = f"{words[-1]}, head{mtp}".removeprefix(", ")
    return f"pipeline stages: {' | '.join(words)}"
