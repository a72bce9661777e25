"""Constants of a plan: how near to its peaks a GPU comes, assumed or measured.

A file of measured ones is JSON: `{"gpu": "h100-80g", "constants": {"gemm_share": 0.7, ...}}` with
any of the fields of `Constants`; other keys beside these two are notes. `scripts/gpu_check` writes
one.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..files.guarded import read_regular
from ..text import as_json, nearest

_MAX_BYTES = 1 << 20
# A share above this is a percentage; what was measured may be a little above the peak of a table.
_MAX_SHARE = 2.0


@dataclass(frozen=True, kw_only=True)
class Constants:
    """Shares are of the peaks in `gpus.py`: bfloat16 operations, memory and link bandwidth.

    Those of large products and attention (one number), of experts at 4,096 rows and of the stream
    are fitted to the published throughput (`published.py`); all others are assumed.
    """

    gemm_share: float = 0.607
    """Of the operations that large bfloat16 products reach."""
    attention_share: float = 0.607
    """Of the operations that causal attention reaches, counted at half of the scores."""
    expert_share_by_rows: Mapping[int, float] = dataclasses.field(
        default_factory=lambda: {64: 0.05, 256: 0.14, 1024: 0.22, 4096: 0.266}
    )
    """Of the operations that the experts' products reach, by rows of an expert; between two of them
    by the logarithm of the rows, beyond them the nearest."""
    stream_share: float = 0.194
    """Of the memory bandwidth that everything between the products reaches."""
    copy_bytes_per_s: float | None = None
    """Bytes read and written by a large copy in a second, in place of the table's bandwidth."""
    all_to_all_share: float = 0.85
    """Of the link bandwidth that exchanging rows of experts reaches."""
    gather_share: float = 0.7
    """Of the link bandwidth that gathering weights and adding up gradients reaches."""
    fp8_gemm_factor: float = 1.25
    """Speed of large FP8 products, quantising included, over bfloat16."""
    fp8_expert_factor: float = 1.0
    """Speed of the experts' FP8 products, quantising included, over bfloat16."""

    def expert_share(self, rows: float) -> float:
        """Share of the peak that the experts' products reach with this many rows an expert."""
        points = sorted(self.expert_share_by_rows.items())
        below = [p for p in points if p[0] <= rows] or points[:1]
        above = [p for p in points if p[0] >= rows] or points[-1:]
        (r0, s0), (r1, s1) = below[-1], above[0]
        if r0 == r1:
            return s0
        return s0 + (s1 - s0) * math.log(rows / r0) / math.log(r1 / r0)


ASSUMED = Constants()


@dataclass(frozen=True)
class Calibration:
    """Constants of a file, which of them it measured, and on which GPU."""

    constants: Constants = ASSUMED
    measured: tuple[str, ...] = ()
    gpu: str | None = None

    @property
    def assumed(self) -> list[str]:
        """The constants that were not measured."""
        return [f.name for f in dataclasses.fields(Constants) if f.name not in self.measured]


def read_calibration(path: Path, base: Constants = ASSUMED) -> Calibration:
    """Measured constants of a JSON file over `base`; `UsageError` names file and key."""
    try:
        tree = json.loads(read_regular(path, _MAX_BYTES))
    except (OSError, ValueError, RecursionError) as err:
        raise UsageError(f"{path}: not a JSON file ({type(err).__name__})") from None
    found = tree.get("constants") if isinstance(tree, dict) else None
    if not isinstance(found, dict) or not found:
        raise UsageError(f'{path}: no object `constants`, such as {{"constants": {{...}}}}')
    values = {name: _value(path, name, value) for name, value in found.items()}
    gpu = tree.get("gpu")
    made = dataclasses.replace(base, **values)
    return Calibration(made, tuple(values), gpu if isinstance(gpu, str) else None)


def write_calibration(path: Path, gpu: str, measured: Mapping[str, Any], **notes: Any) -> None:
    """Write measured fields of `Constants` for `read_calibration`."""
    tree = {"gpu": gpu, **notes, "constants": dict(measured)}
    path.write_text(json.dumps(tree, indent=1) + "\n", "utf-8")


def _value(path: Path, name: str, value: Any) -> Any:
    known = [f.name for f in dataclasses.fields(Constants)]
    if name not in known:
        raise UsageError(f"{path}: no constant `{name}`{nearest(name, known)}")
    if name != "expert_share_by_rows":
        return _above_zero(path, name, value)
    if not isinstance(value, dict) or not value:
        raise UsageError(f"{path}: `{name}` is {as_json(value)}, expected rows and their shares")
    made = {_rows(path, k): _above_zero(path, f"{name}.{k}", v) for k, v in value.items()}
    if len(made) < len(value):
        raise UsageError(f"{path}: `{name}` has a number of rows twice")
    return made


def _rows(path: Path, text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise UsageError(f"{path}: `expert_share_by_rows` has `{text}`, expected a number of rows")
    return int(text)


def _above_zero(path: Path, name: str, value: Any) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 < value < 1e30:
        raise UsageError(f"{path}: `{name}` is {as_json(value)}, expected a number above 0")
    if "_share" in name and value > _MAX_SHARE:
        raise UsageError(
            f"{path}: `{name}` is {as_json(value)}, expected a share of the peak, such as 0.7"
        )
    return float(value)
