"""Bits per byte are of the same bytes behind the same bytes, whatever the tokens."""

from __future__ import annotations

import math

import pytest
import torch

from ling.checkpoint.hf.save import save_model
from ling.data.chat_prompts import template_of
from ling.data.tokenizer import train_tokenizer
from ling.eval.scorers.engine import EngineScorer
from ling.eval.text_bits import Bits, Reply, replies, reply_bits, text_bits, windows
from ling.llm import LLM
from ling.model.attention import DenseAttend
from ling.model.ling import from_config
from ling.presets import preset

TEXT = "The sea is wide. Das Meer ist groß."


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A model, its tokenizer and its module."""
    folder = tmp_path_factory.mktemp("model")
    tok = train_tokenizer([TEXT] * 10, 320)
    cfg = preset("ling-tiny").replace(eos_token_id=tok.eod_token_id, dtype="float32")
    module = from_config(cfg, seed=3)
    save_model(module, module.config, folder, dtype="float32")
    tok.save(folder)
    with LLM(folder) as llm:
        yield llm, tok, module


@torch.no_grad()
def nats(module, before, ids):
    """Of `ids` behind `before`, from one pass of the module."""
    row = torch.tensor([*before, *ids])
    n = len(row) - 1
    h = module(row[:-1], torch.arange(n), DenseAttend([0, n]))
    scores = module.logits(h).float().log_softmax(-1)
    return -float(scores[torch.arange(n), row[1:]][len(before) - 1 :].sum())


def test_windows_are_all_of_a_text_cut_between_characters():
    cut = list(windows(["aé" * 700, "", "b"], 1024))
    assert "".join(cut) == "aé" * 700 + "b"
    assert [len(part.encode()) for part in cut] == [1024, 1023, 53, 1]
    assert all(len(part.encode()) <= 8 for part in windows([TEXT + "😀" * 9], 8))


def test_each_window_is_scored_behind_the_mark_of_a_document(opened):
    llm, tok, module = opened
    found = text_bits(EngineScorer(llm), [TEXT, "sea"])
    want = sum(nats(module, [tok.eod_token_id], tok.encode(t)) for t in (TEXT, "sea"))
    assert found.nats == pytest.approx(want, rel=1e-5)
    assert found.bytes == len(TEXT.encode()) + 3
    assert found.tokens == len(tok.encode(TEXT)) + len(tok.encode("sea"))
    assert found.per_byte == pytest.approx(want / math.log(2) / found.bytes, rel=1e-5)


def test_replies_are_scored_behind_the_rendered_conversation(opened):
    llm, tok, module = opened
    asked = [{"role": "user", "content": "The sea?"}]
    found = reply_bits(EngineScorer(llm), [Reply(asked, "wide")])
    before = template_of(tok).encode(tok, asked).ids
    assert found.nats == pytest.approx(nats(module, before, tok.encode("wide")), rel=1e-5)
    assert found.bytes == 4


def test_only_words_of_conversations_without_tools_are_replies():
    hello = {"role": "user", "content": "Hello!"}
    said = {"role": "assistant", "content": "Hi!"}
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
    records = [
        {"messages": [hello, said, hello, said]},
        {"messages": [hello, said], "tools": [{}]},
        {"messages": [hello, call]},
    ]
    assert [len(r.messages) for r in replies(records)] == [1, 3]


def test_no_text_has_no_rate(opened):
    assert Bits().per_byte is None
    assert text_bits(EngineScorer(opened[0]), ["", ""]) == Bits()
