"""Training with products in FP8: see `rule.py`."""
