"""Compiles the Triton kernels for a Hopper GPU, without one; prints what their code has, as JSON.

For a process of its own: `TRITON_INTERPRET` must not be set when the kernels are imported.
"""

from __future__ import annotations

import json

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ling.ops.triton import adam8, products, quantise, transpose

HOPPER = GPUTarget("cuda", 90, 32)
INSTRUCTIONS = (
    "wgmma.mma_async",
    "cp.async",
    "cvt.rn.satfinite.e4m3x2",
    "div.rn.f32",
    "div.full",
    "sqrt.rn.f32",
    "fma.rn.f32",
    "ftz",
    "ld.global.v4",
    "st.global.v4",
)
POINTERS = {
    "start_ptr": "*i32",
    "end_ptr": "*i32",
    "expert_ptr": "*i32",
    "first_ptr": "*i32",
    "inv_ptr": "*fp32",
    "inv_x_ptr": "*fp32",
    "inv_w_ptr": "*fp32",
    "inv_dy_ptr": "*fp32",
    "y_ptr": "*bf16",
    "dw_ptr": "*bf16",
}
CODES, VALUES, BYTES = "*fp8e4nv", "*bf16", "*u8"
CAST = {"POWER_OF_TWO": True, "HAS_CAST": True}
ADAM8 = {
    **{f"{name}_ptr": "*fp32" for name in ("p", "g", "absmax1", "absmax2", "tables")},
    **{f"{name}_ptr": BYTES for name in ("codes1", "codes2")},
    **dict.fromkeys(("beta1", "rest1", "beta2", "rest2", "step", "eps", "keep"), "fp32"),
}
# Kernel, its other arguments that are no i32, those that are 1 or constant, warps.
KERNELS = (
    (quantise._rows, {"x_ptr": VALUES, "q_ptr": CODES}, {"x_column": 1, "ROWS": 32, **CAST}, 4),
    (
        quantise._columns,
        {"x_ptr": VALUES, "q_ptr": CODES},
        {"x_column": 1, "COLUMNS": 64, **CAST},
        8,
    ),
    (quantise._blocks, {"w_ptr": "*fp32", "q_ptr": CODES}, {"w_column": 1, **CAST}, 8),
    (
        transpose._transpose,
        {"q_ptr": BYTES, "out_ptr": BYTES},
        {"q_column": 1, "ROWS": 64, "COLUMNS": 32},
        4,
    ),
    (products._product, {"x_ptr": CODES, "w_ptr": CODES}, {"inv_x_row": 1, "inv_w_tile": 1}, 8),
    (adam8._step, ADAM8, {"BLOCK": 256, "BLOCKS": 4}, 4),
    (products._weight_gradient, {"dy_ptr": CODES, "x_ptr": CODES}, {}, 8),
)


def main() -> None:
    """All kernels, with sizes that are multiples of 16, as at the released shapes."""
    found = {}
    for kernel, pointers, constants, warps in KERNELS:
        types = {**POINTERS, **pointers}
        names = kernel.arg_names
        signature = {n: "constexpr" if n in constants else types.get(n, "i32") for n in names}
        multiples = {
            (i,): [["tt.divisibility", 16]]
            for i, n in enumerate(names)
            if n not in constants and types.get(n) != "fp32"
        }
        source = ASTSource(
            kernel, signature, {(names.index(n),): v for n, v in constants.items()}, multiples
        )
        # As each is launched.
        options = {"num_warps": warps, "enable_fp_fusion": kernel is not adam8._step}
        made = triton.compile(source, target=HOPPER, options=options)
        code = made.asm["ptx"]
        found[kernel.__name__] = {
            **{text: code.count(text) for text in INSTRUCTIONS},
            "shared": made.metadata.shared,
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
