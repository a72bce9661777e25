"""What changes with the step: learning rate, bias rate; and decays as weights of a merge (WSM)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

from ..config.optim import DecayShape, OptimConfig
from ..config.recipe import TrainConfig
from ..errors import UsageError

# Of the mean of equal numbers.
_ROUNDING = 1e-9

# From 1 at 0 to 0 at 1.
SHAPES: dict[DecayShape, Callable[[float], float]] = {
    "linear": lambda x: 1 - x,
    "cosine": lambda x: 0.5 * (1 + math.cos(math.pi * x)),
    "one-minus-sqrt": lambda x: 1 - math.sqrt(x),
    "exponential": lambda x: 2 * 0.5**x - 1,
}


# ---- rates -------------------------------------------------------------------------------------


def learning_rate(optim: OptimConfig, train: TrainConfig, step: int) -> float:
    """Rate of optimizer step `step`, counted from 1.

    Linear warm-up to the peak, then the decay of the schedule to `lr_min`, if it has one. While the
    batch grows, warm-up in samples and decays advance with rows, as in Megatron-LM.
    """
    warm = optim.warmup_samples
    if warm is None:
        if step <= optim.warmup_steps:
            return optim.lr * step / optim.warmup_steps
        warm = train.rows(optim.warmup_steps)
    elif train.rows(step) <= warm:
        return optim.lr * train.rows(step) / warm
    if optim.schedule == "constant":
        return optim.lr
    flat = optim.flat_until(train.steps)
    begin = warm if flat is None else max(train.rows(flat), warm)
    shape = optim.decay_shape if optim.schedule == "wsd" else optim.schedule
    end = train.rows(optim.decay_end(train.steps))
    done = (train.rows(step) - begin) / max(end - begin, 1)
    left = SHAPES[shape](min(max(done, 0.0), 1.0))
    return optim.lr_min + (optim.lr - optim.lr_min) * left


def bias_update_rate(train: TrainConfig, step: int) -> float:
    """How far the expert bias moves at step `step`: held, then falling to another rate."""
    hold, over = train.bias_update_hold_steps, train.bias_update_decay_steps
    if hold is None or step <= hold:
        return train.bias_update_rate
    end = train.bias_update_rate_end
    left = 1 - min((step - hold) / over, 1.0) if over else 0.0
    return end + (train.bias_update_rate - end) * left


# ---- merging -----------------------------------------------------------------------------------


def merge_weights(k: int, schedule: str) -> list[float]:
    """Weights c_0..c_k of k + 1 checkpoints that act like a decay over the last k intervals.

    `mean` weighs all alike; the others are the shapes of a decay at the start of each interval.
    """
    if k < 0:
        raise UsageError(f"cannot merge {k + 1} checkpoints")
    if schedule == "mean":
        return weights_of_decay([(k + 1 - i) / (k + 1) for i in range(1, k + 1)])
    shape = SHAPES[shape_of(schedule)]
    return weights_of_decay([shape((i - 1) / k) for i in range(1, k + 1)])


def shape_of(name: str) -> DecayShape:
    """The shape of that name; raises `UsageError` naming those there are."""
    for shape in SHAPES:
        if shape == name:
            return shape
    raise UsageError(
        f"no merge schedule `{name}` here; there are {', '.join(SHAPES)}, and `mean` with `--last`"
    )


def weights_of_decay(decay: Sequence[float]) -> list[float]:
    """Weights c_0..c_k of checkpoints that act like a decay w_1 ≥ ... ≥ w_k between them.

    c_k = w_k, c_j = w_j - w_(j+1), c_0 = 1 - w_1; none is negative, and they add up to 1.
    Source: WSM (arXiv 2507.17634); docs/concepts/training.md#merge.
    """
    w = [1.0]
    for after in (*decay, 0.0):
        if not after <= w[-1] + _ROUNDING:
            numbers = ", ".join(f"{x:.4g}" for x in decay)
            raise UsageError(
                f"merging can stand for a decay from at most 1 to 0, not for {numbers}"
            )
        w.append(min(after, w[-1]))
    return [w[j] - w[j + 1] for j in range(len(w) - 1)]


def decay_between(steps: Sequence[int], optim: OptimConfig, train: TrainConfig) -> list[float]:
    """The decay of a recipe between checkpoints of `steps`: mean rate of each interval over peak.

    Raises `UsageError` for a peak of 0.
    """
    if not optim.lr:
        raise UsageError("`optim.lr` is 0: no decay")
    return [
        math.fsum(learning_rate(optim, train, s) for s in range(begin + 1, end + 1))
        / ((end - begin) * optim.lr)
        for begin, end in itertools.pairwise(steps)
    ]
