"""Training over frozen weights in integers or FP8: see `place.py`."""
