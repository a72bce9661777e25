"""One file for each claim; `registry.py` lists them."""
