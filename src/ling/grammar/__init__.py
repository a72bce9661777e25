"""Structured output: what an answer may be, as masks over token ids (llguidance behind it)."""
