"""Pretraining: loss, optimizer, checkpoints and the loop."""
