"""Kernels for NVIDIA GPUs in Triton; with TRITON_INTERPRET=1 the same code runs on a CPU.

Only files of this folder import Triton: `ops.fp8_choice` asks whether it is installed.
"""
