"""What a recipe may say that training cannot do yet."""

from __future__ import annotations

from ..config.recipe import PretrainConfig
from ..errors import UsageError


def check_built(recipe: PretrainConfig) -> None:
    """Raise `UsageError`, naming the flag that leaves it out, for what is not built yet."""
    if recipe.optim.name != "adamw":
        raise UsageError(
            f"`optim.name: {recipe.optim.name}`: 8-bit AdamW is not built yet; start with "
            "`--optim.name adamw`"
        )
