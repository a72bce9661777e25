"""What a recipe may say that training cannot do yet."""

from __future__ import annotations

from ..config.recipe import PretrainConfig
from ..errors import UsageError


def check_built(recipe: PretrainConfig) -> None:
    """Raise `UsageError`, naming the flags that leave it out, for what is not built yet."""
    asked = {
        f"`train.fp8: {recipe.train.fp8}`": recipe.train.fp8 != "off",
    }
    names = [name for name, is_asked in asked.items() if is_asked]
    if names:
        raise UsageError(
            f"{' and '.join(names)}: FP8 training is not built yet; start with `--train.fp8 off`"
        )
