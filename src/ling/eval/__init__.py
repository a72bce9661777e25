"""Measures anything that can score or generate."""
