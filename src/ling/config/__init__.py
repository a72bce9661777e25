"""Configurations: frozen dataclasses, checked when they are made."""
