"""Models whose weights are files of this package, by name: no network and no cache are needed."""

from __future__ import annotations

from pathlib import Path

from ..errors import CheckpointError

PACKAGED = ("ling-nano",)


def weights_folder() -> Path:
    """Where the package has the folders of its models."""
    return Path(__file__).parents[1] / "weights"


def packaged_model(name: str) -> Path | None:
    """The folder of a packaged model; None for another name.

    Raises `CheckpointError` where this installation has no weights of it.
    """
    name = name.lower()
    if name not in PACKAGED:
        return None
    folder = weights_folder() / name
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{name}: this installation of ling has no weights of it (looked in {folder}); install "
            f"a wheel that has them, or name a folder: `ling synth {name} DIR` makes random weights"
        )
    return folder
