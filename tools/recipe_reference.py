"""Writes docs/reference/recipe.md from the texts under the recipe's fields."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ling.config.recipe_docs import Key, keys, section_texts
from ling.config.sft import SFTConfig

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "recipe.md"
HEAD = """# Recipe keys

Every key of a recipe: first those of `ling pretrain`, then [those of `ling sft`](#fine-tuning). In
a YAML file the parts of a dotted key are sections; on the command line it is a flag, `ling pretrain
tiny --train.steps 100`. `ling pretrain tiny --print-config` prints a recipe with every key. This
page is made from the source (`tools/recipe_reference.py`).
"""
SFT_HEAD = """# Fine-tuning

What a recipe of `ling sft` has besides. Keys of `train` and `optim` that are not here are those
above, with the same meaning and default; `checkpoint` and `parallel` are the same.
"""
HEAD_OF_TABLE = "| key | type | default | meaning |\n|---|---|---|---|"


def page() -> str:
    """The whole page."""
    parts = [HEAD, *_sections(keys(), section_texts(), "What is trained.")]
    known = set(keys())
    new = [key for key in keys(SFTConfig) if key not in known]
    texts = section_texts(SFTConfig)
    parts += [SFT_HEAD, *_sections(new, texts, "What is trained, and how.", " of `ling sft`")]
    return "\n".join(parts)


def _sections(
    rows: Sequence[Key], texts: dict[str, str], about: str, behind: str = ""
) -> list[str]:
    """A table for each section that has rows."""
    parts = []
    for section, text in ({"": about} | texts).items():
        own = [k for k in rows if k.name.rpartition(".")[0] == section]
        title = f"`{section}`" if section else "Top level"
        if own:
            table = "".join(f"\n{_row(key)}" for key in own)
            parts.append(f"## {title}{behind}\n\n{text}\n\n{HEAD_OF_TABLE}{table}\n")
    return parts


def _row(key: Key) -> str:
    cells = (f"`{key.name}`", f"`{key.type}`", f"`{key.default}`", key.text)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), "utf-8")
