"""The original training's own text, ids, labels and mask, against what its code made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ling.data.conversations.megatron import MegatronTemplate
from ling.data.conversations.supervise import supervise
from ling.data.conversations.types import Conversation, Origin
from ling.data.tokenizer import Piece
from ling.errors import TemplateError

FILE = Path(__file__).parents[2] / "fixtures" / "chat" / "megatron_sft_segments.json"
CASES = json.loads(FILE.read_text("utf-8"))
ORIGIN = Origin(Path("x.jsonl"), 1)


class CodePoints:
    """The fixture's tokenizer: each character is its code point, the pad id is 0."""

    control_tokens = {"<|endoftext|>": 0}  # noqa: RUF012 - stands for an attribute

    def pieces(self, text):
        body = text.removesuffix("<|endoftext|>")
        yield Piece(body, 0)
        yield Piece("<|endoftext|>", len(body), 0)

    def encode_batch(self, texts):
        return [[ord(c) for c in text] for text in texts]


def conversation(case):
    messages = case["messages"]
    in_loss = [m["role"] == "assistant" for m in messages]
    return Conversation(messages, case["tools"], in_loss, ORIGIN)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c["name"])
def test_segments_are_those_of_the_original(case):
    template = MegatronTemplate()
    if "user_segments" not in case:
        with pytest.raises(TemplateError, match="role `system`"):
            template.render(case["messages"], case["tools"], False)
        return
    segments = list(template.segments(case["messages"], case["tools"]))
    assert [text for said, text in segments if not said] == case["user_segments"]
    assert [text for said, text in segments if said] == case["assistant_segments"]


@pytest.mark.parametrize("case", [c for c in CASES if "char_ids" in c], ids=lambda c: c["name"])
def test_ids_labels_and_mask_are_those_of_the_original(case):
    (sample,) = supervise(conversation(case), MegatronTemplate(), CodePoints())
    assert sample.ids == case["char_ids"]
    assert sample.labels == case["char_labels"]
    mask = [int(label != -100) for label in sample.labels[1:]] + [0]
    assert mask == case["loss_mask"]


@pytest.mark.parametrize("case", [c for c in CASES if "error" in c], ids=lambda c: c["name"])
def test_what_the_original_refuses_is_refused(case):
    with pytest.raises(TemplateError, match="template `megatron`"):
        supervise(conversation(case), MegatronTemplate(), CodePoints())
