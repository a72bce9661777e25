"""Megatron-Core `torch_dist` checkpoints."""
