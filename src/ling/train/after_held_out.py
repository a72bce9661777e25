"""What follows a measurement of the held-out loss: samples shown, the best checkpoint, the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from .heldout import HeldOut

if TYPE_CHECKING:
    from .setup import Run


@dataclass(frozen=True)
class Verdict:
    """Whether the step just done gets a checkpoint that is not pruned, instead of that which was
    kept before; and whether the run ends with it."""

    keep: bool = False
    stop: bool = False


class AfterHeldOut(Protocol):
    """Called on all ranks, which must come to the same verdict."""

    def __call__(self, run: Run, held_out: HeldOut) -> Verdict: ...


def asked(each: Sequence[AfterHeldOut], run: Run, held_out: HeldOut) -> Verdict:
    """All are called; one is enough to keep or to stop."""
    verdicts = [call(run, held_out) for call in each]
    return Verdict(any(v.keep for v in verdicts), any(v.stop for v in verdicts))
