"""Torch distributed checkpoints with our own names."""
