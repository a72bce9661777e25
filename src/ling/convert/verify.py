"""`ling verify`: is a checkpoint sound, and how far are two apart."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from ..checkpoint.hf.checksums import check_checksums
from ..checkpoint.open import open_source
from ..checkpoint.packed.source import PackedSource
from ..checkpoint.source import Source
from ..errors import CheckpointError
from ..model.names import tensor_specs
from ..ops.formats import FORMATS, FP8_BLOCK, integer_formats
from .probe import layer_bytes, logits, probe_tokens
from .repack import Repacking, nrmse

# A layer of Ling-mini takes 3.2 GB in float32.
MAX_LAYER_BYTES = 4 << 30
# Largest error of rounding to e4m3: a sixteenth of the value, or half of its smallest step, with
# scales up to twice what the block needs (power of two); then rounding to bfloat16.
_E4M3_RELATIVE = 2**-4 + 2**-8
_E4M3_ABSOLUTE = 2 * 2**-10 / 448
_INTEGERS = {f.name for f in integer_formats()}
# A GGUF file of any type up to Q4_0; the file itself does not promise more.
_GGUF_NRMSE = 0.12


def verify(
    a: str | Path,
    b: str | Path | None = None,
    *,
    with_logits: bool = True,
    progress: bool = False,
    opened: Source | None = None,
) -> dict[str, Any]:
    """Check names, shapes, types, scales, values and checksums of `a`; with `b`, compare the two.

    Two checkpoints agree when every tensor's error is within its formats' bound: none between
    floats (after rounding to the dtype of one), a block's rounding for FP8; a folder in an integer
    format is held against packing the other again. Raises `CheckpointError` naming the first tensor
    that is wrong. Holds two tensors at a time, and for the logits one decoder layer.
    """
    with contextlib.ExitStack() as stack:
        first = opened or stack.enter_context(contextlib.closing(open_source(a)))
        second = None if b is None else stack.enter_context(contextlib.closing(open_source(b)))
        report = _check(Path(a), first, progress)
        if b is None or second is None:
            return report
        report |= _compare(_Side(Path(a), first), _Side(Path(b), second), progress)
        report |= _compare_logits(first, second) if with_logits else {"logits": "not compared"}
        report["summary"] += "\n" + _difference(Path(b), report)
        return report


def _check(path: Path, source: Source, progress: bool) -> dict[str, Any]:
    elements, names = 0, list(tensor_specs(source.config))
    for name in tqdm(names, desc=f"checking {path.name}", unit="tensor", disable=not progress):
        value = source.tensor(name)
        elements += value.numel()
        if not bool(value.isfinite().all()):
            raise CheckpointError(f"{path}: tensor `{name}` holds NaN or infinity")
    checksums = check_checksums(path) if path.is_dir() else 0
    lines = [
        f"{path}: sound",
        f"  {source.kind}, {len(names)} tensors, {elements:,} values, all present, in shape and "
        "finite",
    ]
    lines += [f"  {checksums} checksums match"] if checksums else []
    return {
        "kind": source.kind,
        "tensors": len(names),
        "values": elements,
        "checksums": checksums,
        "summary": "\n".join(lines),
    }


class _Side(NamedTuple):
    """One of two checkpoints."""

    path: Path
    source: Source


def _compare(a: _Side, b: _Side, progress: bool) -> dict[str, Any]:
    ours, theirs = tensor_specs(a.source.config), tensor_specs(b.source.config)
    both = [name for name in ours if name in theirs]
    only = {
        "only_a": [n for n in ours if n not in theirs],
        "only_b": [n for n in theirs if n not in ours],
    }
    repacking = _repacking(a.source, b.source)
    worst: dict[str, dict[str, Any]] = {}
    for name in tqdm(both, desc="comparing", unit="tensor", disable=not progress):
        if ours[name].shape != theirs[name].shape:
            raise CheckpointError(
                f"tensor `{name}` has shape {list(ours[name].shape)} in {a.path} and "
                f"{list(theirs[name].shape)} in {b.path}"
            )
        x, y = a.source.tensor(name), b.source.tensor(name)
        formats = {a.source.stored_as(name), b.source.stored_as(name)} - {"float"}
        kind = "+".join(sorted(formats)) or "float"
        found = worst.setdefault(kind, _nothing_yet())
        error = nrmse(x, y)
        if repacking is not None and _INTEGERS & formats:
            again = repacking.of(name)
            found["other_bits"] += not again.same_bits
            # Two folders may have been made of a third.
            sound = again.explains(error) or (len(formats) > 1 and _within(x, y, error, formats))
        else:
            sound = _within(x, y, error, formats)
        if not sound:
            raise CheckpointError(
                f"tensor `{name}` differs between {a.path} and {b.path} by {error:.3g} of its "
                f"size, more than {kind} explains"
            )
        found["tensors"] += 1
        if error >= found["max_nrmse"]:
            found |= {"max_nrmse": error, "where": name}
        found["max_difference"] = max(found["max_difference"], _largest(x.float() - y.float()))
    largest = max((found["max_difference"] for found in worst.values()), default=0.0)
    return {"formats": worst, "max_difference": largest, **only}


def _nothing_yet() -> dict[str, Any]:
    return {"tensors": 0, "max_nrmse": 0.0, "max_difference": 0.0, "other_bits": 0}


def _repacking(a: Source, b: Source) -> Repacking | None:
    """The side in an integer format, the second if both are, and the other as its original."""
    if isinstance(b, PackedSource):
        same = isinstance(a, PackedSource) and a.folder.format == b.folder.format
        return None if same else Repacking(b, a)
    return Repacking(a, b) if isinstance(a, PackedSource) else None


def _largest(x: Tensor) -> float:
    return float(x.abs().max()) if x.numel() else 0.0


def _within(x: Tensor, y: Tensor, error: float, formats: set[str]) -> bool:
    if not formats:
        return any(torch.equal(x.to(dtype), y.to(dtype)) for dtype in (x.dtype, y.dtype))
    if formats == {"fp8"}:
        return _within_fp8(x.float(), y.float())
    return error <= sum(_bound(f) for f in formats)


def _bound(name: str) -> float:
    others = {"gguf": _GGUF_NRMSE, "fp8": _E4M3_RELATIVE}
    return others[name] if name in others else FORMATS[name].max_nrmse


def _within_fp8(x: Tensor, y: Tensor) -> bool:
    """Whether rounding in its block explains each value, whichever of the two was rounded."""
    size, difference = torch.maximum(x.abs(), y.abs()), (x - y).abs_()
    columns = x.shape[1]
    for rows, d in zip(size.split(FP8_BLOCK), difference.split(FP8_BLOCK), strict=True):
        largest = torch.nn.functional.pad(rows.amax(0), (0, -columns % FP8_BLOCK))
        step = largest.view(-1, FP8_BLOCK).amax(1).clamp_min(1e-4) * _E4M3_ABSOLUTE
        allowed = rows.mul_(_E4M3_RELATIVE * (1 + 2**-4))
        allowed += step.repeat_interleave(FP8_BLOCK)[:columns]
        if not bool((d <= allowed).all()):
            return False
    return True


def _compare_logits(a: Source, b: Source) -> dict[str, Any]:
    largest = max(layer_bytes(a), layer_bytes(b))
    if largest > MAX_LAYER_BYTES:
        return {"logits": f"not compared, a layer takes {largest / 1e9:.1f} GB in float32"}
    tokens = probe_tokens(a)
    x, y = logits(a, tokens), logits(b, tokens)
    p, q = x.log_softmax(-1), y.log_softmax(-1)
    return {
        "logits": {
            "tokens": len(tokens),
            "max_difference": _largest(x - y),
            "kl": float((p.exp() * (p - q)).sum(-1).mean()),
            "same_top_token": float((x.argmax(-1) == y.argmax(-1)).float().mean()),
        }
    }


def _difference(b: Path, report: dict[str, Any]) -> str:
    lines = [f"compared with {b}: they agree"]
    lines += [_of_format(kind, found) for kind, found in report["formats"].items()]
    found = report["logits"]
    if isinstance(found, str):
        lines.append(f"logits {found}")
    else:
        lines.append(
            f"logits differ by at most {found['max_difference']:.3g}, KL {found['kl']:.3g}, "
            f"{found['same_top_token']:.0%} of top tokens the same"
        )
    for side, names in (("first", report["only_a"]), ("second", report["only_b"])):
        lines += [f"{len(names)} tensors only in the {side}, as {names[0]}"] if names else []
    return "\n  ".join(lines)


def _of_format(kind: str, found: dict[str, Any]) -> str:
    line = f"{kind}: {found['tensors']} tensors, "
    if not found["max_difference"]:
        return line + "no difference"
    line += (
        f"error at most {found['max_nrmse']:.3g} in {found['where']}, "
        f"largest difference {found['max_difference']:.3g}"
    )
    if not _INTEGERS & set(kind.split("+")):
        return line
    other = found["other_bits"]
    return line + (f"; {other} not bit for bit what packing gives" if other else "; bits as packed")
