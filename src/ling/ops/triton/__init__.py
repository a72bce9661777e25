"""Kernels for GPUs in Triton; each equals a definition in `ling.ops`."""
