"""Writes docs/reference/recipe.md from the texts under the recipe's fields."""

from __future__ import annotations

from pathlib import Path

from ling.config.recipe_docs import Key, keys, section_texts

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "recipe.md"
HEAD = """# Recipe keys

Every key of a pre-training recipe. In a YAML file the parts of a dotted key are sections; on the
command line it is a flag, `ling pretrain tiny --train.steps 100`. `ling pretrain tiny
--print-config` prints a recipe with every key. This page is made from the source
(`tools/recipe_reference.py`).
"""
TABLE = "| key | type | default | meaning |\n|---|---|---|---|"


def page() -> str:
    """The whole page."""
    rows = keys()
    sections = {"": "What is trained."} | section_texts()
    parts = [HEAD]
    for section, text in sections.items():
        own = [k for k in rows if k.name.rpartition(".")[0] == section]
        title = f"`{section}`" if section else "Top level"
        parts.append(
            f"## {title}\n\n{text}\n\n| key | type | default | meaning |\n|---|---|---|---|"
        )
        parts[-1] += "".join(f"\n{_row(key)}" for key in own) + "\n"
    return "\n".join(parts)


def _row(key: Key) -> str:
    cells = (f"`{key.name}`", f"`{key.type}`", f"`{key.default}`", key.text)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), "utf-8")
