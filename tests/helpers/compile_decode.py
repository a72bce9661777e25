"""Compiles the decode kernels for a Hopper GPU, without one; prints what their code has, as JSON.

For a process of its own: `TRITON_INTERPRET` must not be set when the kernels are imported.
"""

from __future__ import annotations

import json

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ling.ops.triton import chosen, norms, paged

HOPPER = GPUTarget("cuda", 90, 32)
INSTRUCTIONS = ("mma", "ld.global.v4", "cvt.rn.f16x2.e4m3x2", "ftz")
SIZES = {"G": 4, "Q": 2, "HEADS": 4, "K": 128, "M": 16}
FLOATS = {
    "sums_ptr": "*fp32",
    "tops_ptr": "*fp32",
    "totals_ptr": "*fp32",
    "scale": "fp32",
    "eps": "fp32",
}
WHOLE = {"table_ptr": "*i32", "positions_ptr": "*i32", "lengths_ptr": "*i32", "ids_ptr": "*i64"}
ROWS = dict.fromkeys(
    (
        *("q_ptr", "k_ptr", "v_ptr", "out_ptr", "x_ptr", "y_ptr", "cos_ptr", "sin_ptr"),
        *("weight_ptr", "first_ptr", "second_ptr"),
    ),
    "*bf16",
)
PRODUCT = {"BLOCK": 128, "OUTPUTS": 16, "INPUTS": 256}
KERNELS = {
    "part": (paged._part, {}, {**SIZES, "PAGES": 8, "POSITIONS": 64}),
    "combine": (paged._combine, {}, {**SIZES, "POSITIONS": 512, "PARTS": 64}),
    "plain": (
        chosen._product,
        {"w_ptr": "*bf16", "scales_ptr": "*bf16"},
        {**PRODUCT, "SCALED": False, "GATED": False},
    ),
    "fp8": (
        chosen._product,
        {"w_ptr": "*fp8e4nv", "scales_ptr": "*fp32"},
        {**PRODUCT, "SCALED": True, "GATED": True},
    ),
    "sum": (chosen._weighted_sum, {"weights_ptr": "*fp32"}, {"A": 8, "COLUMNS": 256}),
    "norm": (norms._rms_norm, {}, {"BLOCK": 2048}),
    "rotate": (norms._norm_rotate, {}, {"SPLIT": 16, "HEADS": 20, "R": 64, "K": 128}),
}


def main() -> None:
    """All kernels, with sizes that are multiples of 16, as at the released shapes."""
    found = {}
    for name, (kernel, pointers, constants) in KERNELS.items():
        types = {**FLOATS, **WHOLE, **ROWS, **pointers}
        names = kernel.arg_names
        signature = {n: "constexpr" if n in constants else types.get(n, "i32") for n in names}
        multiples = {
            (i,): [["tt.divisibility", 16]]
            for i, n in enumerate(names)
            if n not in constants and types.get(n, "i32") != "fp32"
        }
        values = {(names.index(n),): v for n, v in constants.items()}
        made = triton.compile(ASTSource(kernel, signature, values, multiples), target=HOPPER)
        code = made.asm["ptx"]
        found[name] = {text: code.count(text) for text in INSTRUCTIONS}
        found[name]["shared"] = made.metadata.shared
    print(json.dumps(found))


if __name__ == "__main__":
    main()
