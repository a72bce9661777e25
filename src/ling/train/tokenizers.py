"""Which tokenizer a run uses: a model's own, that beside its token files, or one that is asked for.

Weights are worth something only with the ids they were trained on, so another tokenizer than a
model's own is taken only when the recipe says so.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..config.recipe import PretrainConfig
from ..data.tokenizer import Tokenizer
from ..errors import UsageError
from ..hub import resolve_model, resolve_tokenizer
from ..presets import PRESETS


def choose_tokenizer(recipe: PretrainConfig, log: Callable[[str], None]) -> str | None:
    """The tokenizer folder of a run; None: train one, or go without.

    Raises `UsageError` when the model brings another one than the recipe or its data has.
    """
    data = recipe.data
    own, trained = _of_model(recipe.model)
    given = str(resolve_tokenizer(data.tokenizer)) if data.tokenizer else _beside(data.prefix)
    if own is None or data.replace_tokenizer:
        return given
    if given is not None and _differ(given, own):
        if trained:
            raise UsageError(
                f"{given}: another tokenizer than that of {recipe.model}, whose weights know "
                "other ids; prepare the data with `--tokenizer` of the model, or ask for it with "
                "`--data.replace_tokenizer true`"
            )
        return given
    if given is None:
        log(f"tokenizer: that of {recipe.model}")
    return given or own


def _of_model(model: str) -> tuple[str | None, bool]:
    """The tokenizer in a model's folder, and whether there are weights beside it."""
    if model in PRESETS:
        return None, False
    folder = resolve_model(model)
    own = str(folder) if (folder / "tokenizer.json").is_file() else None
    return own, any(folder.glob("*.safetensors"))


def _beside(prefixes: list[str]) -> str | None:
    """The tokenizer that `ling data prepare` left beside its token files, if it is one for all."""
    folders = {str(Path(p).parent / "tokenizer") for p in prefixes}
    found = sorted(f for f in folders if (Path(f) / "tokenizer.json").is_file())
    if not found or len(found) < len(folders):
        return None
    for other in found[1:]:
        if _differ(found[0], other):
            raise UsageError(
                f"{other}: another tokenizer than {found[0]}; the data of one run needs one"
            )
    return found[0]


def _differ(a: str, b: str) -> bool:
    one, other = (Tokenizer.from_folder(f).vocabulary_hash for f in (a, b))
    return one != other
