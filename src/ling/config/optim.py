"""The `optim` section of a recipe: the optimizer and its learning-rate schedule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..errors import UsageError
from .checks import at_least

DecayShape = Literal["linear", "cosine", "one-minus-sqrt", "exponential"]


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW and its learning-rate schedule."""

    name: Literal["adamw", "adamw8bit"] = "adamw"
    """`adamw8bit` keeps the moments in one byte per element and a scale per 256 of them: a quarter
    of the memory. Weight decay follows the step. Either resumes checkpoints of the other."""
    lr: float = 3e-4
    """Peak learning rate."""
    lr_min: float = 0.0
    """Learning rate at the end of a decay."""
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    """`constant` is the WSM schedule: no decay, merge checkpoints afterwards (`ling merge`);
    `wsd` is constant up to its last `decay_steps`."""
    warmup_steps: int = 0
    """Linear warm-up."""
    warmup_samples: int | None = None
    """Linear warm-up over this many rows, instead of `warmup_steps`."""
    decay_steps: int | None = None
    """Length of the decay of `wsd`."""
    decay_shape: DecayShape = "one-minus-sqrt"
    """Course of the decay of `wsd`."""
    decay_end_step: int | None = None
    """Step at which a decay has reached `lr_min`; by default the last."""
    beta1: float = 0.9
    """Decay of the first moment."""
    beta2: float = 0.95
    """Decay of the second moment."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    weight_decay: float = 0.1
    """Decoupled decay of matrices; vectors and biases have none."""

    def __post_init__(self) -> None:
        for name in ("lr", "lr_min", "weight_decay"):
            at_least(f"optim.{name}", getattr(self, name), 0)
        at_least("optim.warmup_steps", self.warmup_steps, 0)
        for name in ("warmup_samples", "decay_steps", "decay_end_step"):
            if getattr(self, name) is not None:
                at_least(f"optim.{name}", getattr(self, name), 1)
        if self.warmup_samples is not None and self.warmup_steps:
            raise UsageError("give either `optim.warmup_steps` or `optim.warmup_samples`, not both")
        if (self.schedule == "wsd") != (self.decay_steps is not None):
            raise UsageError(
                "`optim.decay_steps` is the length of the decay of `optim.schedule: wsd`: give "
                "both or neither"
            )
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1) or not self.eps > 0:
            raise UsageError("`optim.beta1` and `optim.beta2` lie in [0, 1), `optim.eps` above 0")

    def decay_end(self, steps: int) -> int:
        """The step of a run of `steps` steps at which its decay ends."""
        return self.decay_end_step or steps

    def flat_until(self, steps: int) -> int | None:
        """The last step before a decay that only ends a run; None where it takes all of it."""
        if self.schedule == "constant":
            return steps
        if self.schedule == "wsd" and self.decay_steps is not None:
            return self.decay_end(steps) - self.decay_steps
        return None
