"""How `ling-nano` is made."""
