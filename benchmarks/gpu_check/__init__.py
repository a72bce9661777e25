"""What can only be found out on a GPU, as one script for a machine with little time.

`scripts/gpu_check` starts it; docs/guides/gpu-check.md says how. It runs from a checkout only.
"""
