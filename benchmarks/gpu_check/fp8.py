"""FP8 on the device: codes and scales bit for bit those of the definition on the CPU, products
within the rounding of bfloat16, transposition exact.

Where there is no GPU the Triton kernels run in Triton's interpreter.
Legend: M tokens · R rows sorted by expert · K inputs · N outputs · E experts.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ling.checkpoint.raw.safetensors import SafetensorsFile
from ling.ops import fp8, fp8_tiles
from ling.ops.formats import FP8_BLOCK
from ling.ops.fp8_tiles import POWER_OF_TWO, Scales
from ling.train.fp8.backend import choose
from ling.train.fp8.emulation import RoundedProducts, ScaledProducts
from ling.train.fp8.products import Products
from ling.train.fp8.weights import Fp8Weight, quantised

from .compare import relative, same_bits, seeded, share_different
from .stage import Stage, Values, part

Pair = tuple[Tensor, Tensor]
"""Codes and inverse scales."""
SCALES: tuple[Scales, ...] = ("power-of-two", "float32")
BFLOAT16 = 2**-8
"""Half of the distance of neighbours, over the smaller one: what rounding a sum may change."""


def run(stage: Stage) -> None:
    """All checks of the stage."""
    if not stage.cuda:
        os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported
    stage.check("cast of checkpoints", checkpoint_cast, stage)
    for scales in SCALES:
        for kind in KINDS:
            stage.check(f"torch on the device, {scales} scales, {kind}", same, stage, scales, kind)
            if stage.cuda or kind == KINDS[0]:  # the interpreter is slow
                stage.check(f"Triton, {scales} scales, {kind}", kernels, stage, scales, kind)
    stage.check("transposed codes and scales", transposition, stage)
    stage.check("the emulation on the device", emulation, stage)
    for scales in SCALES:
        stage.check(f"products, {scales} scales", products, stage, scales, limit_s=60)
        if stage.cuda or scales == POWER_OF_TWO:
            stage.check(f"Triton products, {scales} scales", ours, stage, scales, limit_s=60)


# ---- codes and scales --------------------------------------------------------------------------


def data(kind: str, rows: int, columns: int) -> Tensor:
    """bfloat16 values of which some are hard to quantise."""
    x = torch.randn(rows, columns, generator=seeded())
    if kind == "outliers":
        x[::7, ::5] *= 1e4
    if kind == "small and zero":
        x *= 1e-30
        x[: rows // 2] = 0
    if kind == "not finite":
        x[3, 5], x[rows - 1, columns - 1], x[0, 0] = float("inf"), float("nan"), -float("inf")
    return x.to(torch.bfloat16)


KINDS = ("normal", "outliers", "small and zero", "not finite")


def sizes(stage: Stage) -> tuple[int, int]:
    """Whole tiles and some that are cut at the border."""
    return (150, 144) if stage.tiny else (1000, 2064)


QUANTISE: dict[str, Callable[..., Pair]] = {
    "rows": fp8_tiles.quantise_rows,
    "columns": fp8_tiles.quantise_columns,
    "blocks": fp8_tiles.quantise_blocks,
}


def same(stage: Stage, scales: Scales, kind: str) -> Values:
    """The definition, in torch, on the device and on the CPU."""
    x = data(kind, *sizes(stage))
    return _compared(
        {n: (f(x.to(stage.device), scales), f(x, scales)) for n, f in QUANTISE.items()}
    )


def kernels(stage: Stage, scales: Scales, kind: str) -> Values:
    """Our Triton kernels and the definition on the CPU; columns with tiles of several experts."""
    quantise = part("ops.triton.quantise")
    x = data(kind, *sizes(stage))
    there, rows = x.to(stage.device), len(x)
    found = {
        "rows": (quantise.quantise_rows(there, scales), fp8_tiles.quantise_rows(x, scales)),
        "blocks": (quantise.quantise_blocks(there, scales), fp8_tiles.quantise_blocks(x, scales)),
    }
    for name, ends in {
        "columns": [0, rows],
        "columns by expert": [0, rows // 3, rows // 3, rows - 1, rows],
    }.items():
        found[name] = _columns(there, scales, ends), fp8_tiles.quantise_columns(x, scales, ends)
    return _compared(found)


def _columns(x: Tensor, scales: Scales, ends: list[int]) -> Pair:
    """What the kernel makes of columns, as the definition has it: rows in order, and one row of
    scales for a tile."""
    ends_E = torch.tensor(ends[1:], dtype=torch.int32, device=x.device)
    tiles = part("ops.triton.tiles").tiles_of(ends_E, len(x))
    codes, inverse = part("ops.triton.quantise").quantise_columns(x, scales, tiles)
    spans = zip(tiles.start_P.tolist(), tiles.end_P.tolist(), strict=True)
    used = [(p, b - a) for p, (a, b) in enumerate(spans) if b > a]
    raw = codes.view(torch.uint8).t()
    rows = torch.cat([raw[p * FP8_BLOCK : p * FP8_BLOCK + size] for p, size in used])
    return rows.view(codes.dtype), inverse[[p for p, _ in used]]


def kernels_of(stage: Stage) -> dict[str, Callable[..., Pair]]:
    """What quantises on the device: our kernels on a GPU, the definition elsewhere."""
    if not stage.cuda:
        return QUANTISE
    made = part("ops.triton.quantise")
    return {n: getattr(made, f"quantise_{n}") for n in QUANTISE}


def _compared(found: dict[str, tuple[Pair, Pair]]) -> Values:
    """Whether codes and scales are the same, and the share of codes that are not."""
    values: Values = {"equal": True}
    for name, (got, want) in found.items():
        equal = all(same_bits(a, b) for a, b in zip(got, want, strict=True))
        values["equal"] = values["equal"] and equal
        if not equal:
            values[name] = share_different(got[0], want[0])
    return values


def checkpoint_cast(stage: Stage) -> Values:
    """The cast of weights in checkpoints beside the CPU's, and upstream's where that is known."""
    equal = 0
    cases = _stored_casts(stage) or [
        (x, fp8.quantise_fp8_block(x, power_of_two=p), p)
        for x in (data(kind, 300, 200) for kind in KINDS[:3])
        for p in (False, True)
    ]
    for x, want, power_of_two in cases:
        got = fp8.quantise_fp8_block(x.to(stage.device), power_of_two=power_of_two)
        equal += all(same_bits(a, b) for a, b in zip(got, want, strict=True))
    return {"equal": equal == len(cases), "cases": len(cases), "same": equal}


def _stored_casts(stage: Stage) -> list[tuple[Tensor, Pair, bool]]:
    """What upstream made of some matrices."""
    if stage.fixtures is None:
        return []
    stored = SafetensorsFile(stage.fixtures / "fp8" / "block_cast.safetensors")
    found = []
    for name in stored.entries:
        case, _, rest = name.partition(".")
        if not rest.startswith("q_bytes"):
            continue
        codes = stored.read(name).view(torch.float8_e4m3fn)
        inverse = stored.read(name.replace("q_bytes", "scale_inv"))
        found.append((stored.read(f"{case}.x"), (codes, inverse), "ue8m0_1" in name))
    return found


# ---- products ----------------------------------------------------------------------------------


def transposition(stage: Stage) -> Values:
    """Codes turned on demand are those of the turned matrix: blocks are squares."""
    w = data("outliers", *sizes(stage)[::-1]).to(stage.device)
    codes, inverse = fp8_tiles.quantise_blocks(w)
    turned = fp8_tiles.quantise_blocks(w.t().contiguous())
    values = _compared({"definition": ((_turned(codes), inverse.t()), turned)})
    made = part("ops.triton.transpose").transposed(codes)
    values["equal"] = values["equal"] and same_bits(made, _turned(codes))
    return values


def _turned(codes: Tensor) -> Tensor:
    return codes.view(torch.uint8).mT.contiguous().view(codes.dtype)


def emulation(stage: Stage) -> Values:
    """The emulation, by products in bfloat16, on the device and on the CPU."""
    made = RoundedProducts()
    return _near(_products(made, stage, stage.device), _products(made, stage, torch.device("cpu")))


def products(stage: Stage, scales: Scales) -> Values:
    """The products that training uses on this device beside the emulation of the same scales."""
    return _beside_emulation(products_of(stage, scales), stage)


def ours(stage: Stage, scales: Scales) -> Values:
    """All products by our Triton kernels, whatever training would use for linear layers."""
    found = _beside_emulation(part("ops.triton.backend").TritonProducts(scales), stage)
    # Triton's interpreter cuts off what does not fit into bfloat16, where a GPU rounds.
    return found if stage.cuda else {**found, "limit": 2 * BFLOAT16}


def _beside_emulation(made: Products, stage: Stage) -> Values:
    base = RoundedProducts() if made.scales == POWER_OF_TWO else ScaledProducts()
    found = _near(_products(made, stage, stage.device), _products(base, stage, stage.device))
    return {"products": made.name, **found}


def products_of(stage: Stage, scales: Scales) -> Products:
    """What training would choose."""
    return choose(scales, stage.device)


def _products(made: Products, stage: Stage, device: torch.device) -> dict[str, Tensor]:
    """All six products of some rows."""
    E, R, K, N = (3, 40, 160, 144) if stage.tiny else (16, 2000, 2048, 1024)
    x, dy = (torch.randn(R, n, generator=seeded(n)).to(device, torch.bfloat16) for n in (K, N))
    w_ENK = torch.randn(E, N, K, generator=seeded(1)).to(device) / K**0.5
    experts, one = quantised((w_ENK,), made.scales), quantised((w_ENK[0],), made.scales)
    borders = [0, 0, 1, *(R * n // (E - 2) for n in range(1, E - 1))]
    groups: Any = borders
    if device.type == "cuda":
        groups = torch.tensor(borders[1:], dtype=torch.int32, device=device)
    return {**_dense(made, x, dy, one), **_by_expert(made, x, dy, experts, groups)}


def _dense(made: Products, x: Tensor, dy: Tensor, w: Fp8Weight) -> dict[str, Tensor]:
    return {
        "linear": made.linear(x, w),
        "dgrad": made.linear_dgrad(dy, w),
        "wgrad": made.linear_wgrad(dy, x),
    }


def _by_expert(
    made: Products, x: Tensor, dy: Tensor, w: Fp8Weight, groups: Any
) -> dict[str, Tensor]:
    return {
        "grouped": made.grouped(x, w, groups),
        "grouped dgrad": made.grouped_dgrad(dy, w, groups),
        "grouped wgrad": made.grouped_wgrad(dy, x, groups),
    }


def _near(got: dict[str, Tensor], want: dict[str, Tensor]) -> Values:
    errors = {name: relative(got[name], want[name]) for name in want}
    return {"error": max(errors.values()), "limit": BFLOAT16, **errors}
