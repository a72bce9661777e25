"""Quantise a GGUF file with llama.cpp's own quantiser, from an environment with llama-cpp-python.

python benchmarks/llama_quantize.py nano-bf16.gguf nano-q4_k_m.gguf Q4_K_M
"""

from __future__ import annotations

import ctypes
import os
import sys

import llama_cpp as lib


def main() -> None:
    """Source, target, type."""
    source, target, kind = sys.argv[1:]
    params = lib.llama_model_quantize_default_params()
    params.ftype = getattr(lib, f"LLAMA_FTYPE_MOSTLY_{kind}")
    code = lib.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.byref(params))
    if code:
        raise SystemExit(f"{source}: llama.cpp could not quantise it ({code})")


if __name__ == "__main__":
    main()
