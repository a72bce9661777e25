"""Conversations from grammars of our own, in English, for a model of a few million parameters."""

from .mix import KINDS, records

__all__ = ["KINDS", "records"]
