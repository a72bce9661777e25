"""A folder of random weights in the place of the packaged model's, with all that it has beside."""

from __future__ import annotations

from pathlib import Path

import pytest

from ling.convert.plan import convert
from ling.convert.synth import synth
from ling.data.tokenizer import train_tokenizer
from ling.presets import preset
from ling.tools.files import write_tools

TEXT = ["What is 2 + 3? It is 5.\n", "Hello, I am a small model. <tool_call> calculator\n"]


@pytest.fixture(scope="session")
def nano_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`ling-nano` in int8, made as the released one is: its shape, converted, with its files."""
    room = tmp_path_factory.mktemp("weights")
    floats, tokenizer = room / "floats", room / "tokenizer"
    synth(preset("ling-nano"), floats, to="bf16", seed=0)
    train_tokenizer(TEXT * 50, 400).save(tokenizer)
    folder = room / "ling-nano"
    convert(floats, folder, to="int8", tokenizer=str(tokenizer))
    write_tools(folder)
    (folder / "README.md").write_text("# ling-nano\n")
    return folder


@pytest.fixture
def nano(nano_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, found by the name `ling-nano` in this process."""
    monkeypatch.setattr("ling.hub.packaged.weights_folder", lambda: nano_folder.parent)
    return nano_folder
