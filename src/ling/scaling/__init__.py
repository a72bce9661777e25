"""Scaling laws: the published ones, a grid of runs that measures them, and what is fitted to it."""
