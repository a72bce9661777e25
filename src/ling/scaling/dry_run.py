"""What a sweep would do: every run with its numbers, and their sums."""

from __future__ import annotations

from collections.abc import Sequence

from ..train.progress import duration
from .cost import expected_seconds
from .planned import Planned


def table(runs: Sequence[Planned], jobs: int) -> str:
    """The runs as text, a line each, and their sums; M and FLOPs by both counts."""
    head = ("run", "M", "with head", "tokens", "steps", "rows", "lr", "FLOPs", "with head", "min")
    lines = [_line(*head, "")]
    lines += [_line(*_numbers(run), "held out" * run.spec.held_out) for run in runs]
    flops, with_head = (sum(getattr(r, n) for r in runs) for n in ("flops", "flops_with_head"))
    seconds = sum(map(expected_seconds, runs))
    lines.append(
        f"{len(runs)} runs, {sum(r.tokens for r in runs) / 1e6:.0f}M tokens, {flops:.3g} FLOPs "
        f"({with_head:.3g} with the head): about {duration(seconds / jobs)} with {jobs} at a time"
    )
    return "\n".join(lines)


def _numbers(run: Planned) -> tuple[str, ...]:
    flops = run.token_flops
    return (
        run.name,
        f"{flops.without_head:.3g}",
        f"{flops.with_head:.3g}",
        f"{run.tokens / 1e6:.1f}M",
        str(run.steps),
        str(run.batch_rows),
        f"{run.lr:g}",
        f"{run.flops:.3g}",
        f"{run.flops_with_head:.3g}",
        f"{expected_seconds(run) / 60:.1f}",
    )


def _line(*words: str) -> str:
    name, *rest, note = words
    return f"{name:<26}" + "".join(f"{word:>10}" for word in rest) + f"  {note}".rstrip()
