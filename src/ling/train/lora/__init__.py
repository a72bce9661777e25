"""Training of low-rank adapters: see `rule.py`."""
