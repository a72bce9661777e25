"""What Python knows of the C++ core's interface is what its header declares."""

from __future__ import annotations

import re
from pathlib import Path

from ling.ops import native_abi

HEADER = (Path(__file__).parents[2] / "csrc" / "ling_kernels.h").read_text()
CODE = re.sub(r"//.*", "", HEADER)
# `native.py` itself gives types to the first three, C programs alone call the others.
OTHERS = {
    *("ling_abi_version", "ling_last_error", "ling_model_free"),
    *("ling_int4_levels", "ling_int3_levels", "ling_packed_size"),
}


def test_the_version_is_the_headers():
    assert f"#define LING_ABI_VERSION {native_abi.ABI_VERSION}\n" in HEADER


def test_functions_have_the_headers_number_of_arguments():
    declared = {
        name: len(arguments.split(","))
        for name, arguments in re.findall(r"LING_API[^;(]*?(ling_\w+)\(([^)]*)\);", CODE)
    }
    known = {name: len(types) for name, types in native_abi.SIGNATURES.items()}
    assert known == {name: count for name, count in declared.items() if name not in OTHERS}
