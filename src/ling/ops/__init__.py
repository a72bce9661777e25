"""Numbers: reference operations, formats and the native kernels."""
