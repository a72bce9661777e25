from __future__ import annotations

import pytest

from ling.data.tokenizer import Tokenizer, train_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """A small one that knows some Python and some Chinese."""
    texts = ["def f(x):\n    return x + 1\n", "héllo wörld 你好"] * 20
    return train_tokenizer(texts, 400)
