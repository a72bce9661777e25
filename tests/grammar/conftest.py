"""Tokenizers of both sorts, and compilers for them: tags as text, and as one token each."""

from __future__ import annotations

import json

import pytest

from ling.data.tokenizer import Tokenizer, train_tokenizer
from ling.data.tokenizer_vocab import VISIBLE_TOKENS
from ling.grammar.compile import GrammarCompiler

TEXTS = ['def f(a): return {"name": "get", "city": a, "unit": [1.5, true, null]}\n'] * 20
SORTS = ["tags are text", "tags are tokens"]
PADDING = 37
"""Ids of the model behind those of the tokenizer."""


def tagged(tokenizer: Tokenizer, folder) -> Tokenizer:
    """The same tokenizer with a token for each tag, as some released models have them: special
    ones for reasoning, plain ones for calls."""
    tokenizer.save(folder)
    path = folder / "tokenizer.json"
    raw = json.loads(path.read_text())
    for k, tag in enumerate(VISIBLE_TOKENS):
        token = {"id": tokenizer.vocab_size + k, "content": tag, "special": "think" in tag}
        flags = ("single_word", "lstrip", "rstrip", "normalized")
        raw["added_tokens"].append(token | dict.fromkeys(flags, False))
    path.write_text(json.dumps(raw))
    return Tokenizer.from_folder(folder)


@pytest.fixture(scope="session")
def tokenizers(tmp_path_factory) -> dict[str, Tokenizer]:
    plain = train_tokenizer(TEXTS, 400)
    return {SORTS[0]: plain, SORTS[1]: tagged(plain, tmp_path_factory.mktemp("tagged"))}


@pytest.fixture(scope="session")
def compilers(tokenizers):
    made = {
        sort: GrammarCompiler(tok, tok.vocab_size + PADDING, tok.stop_token_ids)
        for sort, tok in tokenizers.items()
    }
    yield made
    for compiler in made.values():
        compiler.close()


@pytest.fixture(params=SORTS)
def sort(request) -> str:
    return request.param


@pytest.fixture
def tokenizer(tokenizers, sort) -> Tokenizer:
    return tokenizers[sort]


@pytest.fixture
def compiler(compilers, sort) -> GrammarCompiler:
    return compilers[sort]
