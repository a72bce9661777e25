"""The claims by name. A new one is a file of `claims/` with a `CLAIM`, and its name here."""

from __future__ import annotations

from importlib import import_module

from ..errors import UsageError
from ..text import nearest
from .claim import Claim

NAMES = (
    # Counted and by formula: seconds.
    "sizes",
    "kv-bytes",
    "laws",
    "leverage",
    "prediction",
    "fp8-states",
    "fp8-exact",
    "conversion",
    "merge-weights",
    "pipeline",
    # Measured: minutes.
    "throughput",
    "decode",
    "balance",
    "fp8-loss",
    "wsm",
    "mtp",
    "needle",
)


def claim(name: str) -> Claim:
    """The claim of that name; raises `UsageError` that lists the names."""
    if name not in NAMES:
        raise UsageError(
            f"no claim `{name}`{nearest(name, list(NAMES))}; there are {', '.join(NAMES)}, "
            "and `all`"
        )
    module = import_module(f".claims.{name.replace('-', '_')}", __package__)
    found: Claim = module.CLAIM
    return found


def claims() -> list[Claim]:
    """All of them, those that take seconds first."""
    return [claim(name) for name in NAMES]
