"""SmolLM2 is asked for the same bytes; where it is missing, the row says how to get it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ling.eval.text_bits import Reply
from ling.nano.held_out import HeldOutPart
from ling.nano.peer import HOW, peer_bits

PARTS = [
    HeldOutPart("prose", Path("-"), ["The sea.", "Größe"], []),
    HeldOutPart("dialogues", Path("-"), [], [Reply([{"role": "user", "content": "Hi"}], "Hello")]),
]
# A model of bytes that gives each of 256 the same chance, in the form of llama-cpp-python.
UNIFORM = """
import numpy as np
__version__ = "0"
class Llama:
    def __init__(self, path, **options):
        self.model_path, self.model = path, self
        self.metadata = {"general.name": "uniform", "tokenizer.chat_template": "-"}
    def token_eos(self): return 0
    def token_bos(self): return 1
    def detokenize(self, ids, special): return bytes(ids)
    def tokenize(self, text, add_bos, special): return list(text)
    def reset(self): self.scores = None
    def eval(self, ids): self.scores = np.zeros((len(ids), 256), np.float32)
def llama_model_n_params(model): return 256
"""
FORMATTER = """
from types import SimpleNamespace
def Jinja2ChatFormatter(template, eos_token, bos_token):
    def prompt(messages): return SimpleNamespace(prompt="".join(m["content"] for m in messages))
    return prompt
"""


def test_without_the_package_the_row_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("ling.nano.peer._PACKAGE", "no_such_package_here")
    assert peer_bits(PARTS) == {"missing": HOW}


def test_a_uniform_model_has_eight_bits_a_byte_of_each_part(monkeypatch, tmp_path):
    for name, text in (("__init__", UNIFORM), ("llama_chat_format", FORMATTER)):
        path = tmp_path / "llama_cpp" / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    weights = tmp_path / "small_weights"
    weights.mkdir()
    (weights / "__init__.py").write_text("")
    (weights / "model.gguf").write_bytes(b"GGUF")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("LING_PEER_PYTHON", sys.executable)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("ling.nano.peer._PACKAGE", "small_weights")
    found = peer_bits(PARTS)
    assert found["model"] == {"name": "uniform", "parameters": 256, "bytes": 4, "llama_cpp": "0"}
    assert {n: (p["bytes"], p["tokens"]) for n, p in found["parts"].items()} == {
        "prose": (15, 15),
        "dialogues": (5, 5),
    }
    assert all(p["bits_per_byte"] == pytest.approx(8) for p in found["parts"].values())
