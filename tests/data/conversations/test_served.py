"""What a server of the result renders is what training rendered, and it stops where that ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ling.data.chat import CHAT_TEMPLATE, ChatTemplate, builtin_template
from ling.data.conversations.megatron import MegatronTemplate
from ling.data.conversations.served import MEGATRON, end_of_turn, serve_as_trained
from ling.data.tokenizer import Tokenizer, train_tokenizer

FILE = Path(__file__).parents[2] / "fixtures" / "chat" / "megatron_sft_segments.json"
CASES = [c for c in json.loads(FILE.read_text("utf-8")) if "user_segments" in c]
TURNS = "{% for m in messages %}{{ '[CLS]' + m.content + END }}{% endfor %}"


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["answer the question"] * 4, 280)


@pytest.fixture(scope="module")
def served():
    return ChatTemplate(builtin_template(MEGATRON))


@pytest.mark.parametrize("case", CASES, ids=lambda c: c["name"])
def test_the_original_text_is_the_same_from_a_template(case, served):
    messages, tools = case["messages"], case["tools"]
    want = MegatronTemplate()
    for n, message in enumerate(messages):
        if message["role"] == "assistant":
            sent, whole = messages[:n], messages[: n + 1]
            assert served.render(sent, tools, True) == want.render(sent, tools, True)
            assert served.render(whole, tools, False) == want.render(whole, tools, False)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (CHAT_TEMPLATE, "<|role_end|>"),
        (TURNS.replace("END", "'[gMASK]'"), "[gMASK]"),
        (TURNS.replace("END", "'\\n'"), "<|role_end|>"),  # it writes no control token
        ("{{ raise_exception('no') }}", "<|role_end|>"),
    ],
)
def test_the_end_of_a_turn_is_what_the_template_writes_there(source, name, tokenizer):
    assert end_of_turn(tokenizer, ChatTemplate(source)) == tokenizer.token_to_id(name)


@pytest.mark.parametrize("template", [ChatTemplate(TURNS.replace("END", "'[gMASK]'")), "megatron"])
def test_a_saved_folder_has_template_and_stop(template, tmp_path):
    tokenizer = train_tokenizer(["a"], 280)
    tokenizer.stop_token_ids = (tokenizer.eod_token_id,)
    template = MegatronTemplate() if template == "megatron" else template
    serve_as_trained(tokenizer, template)
    tokenizer.save(tmp_path)
    again = Tokenizer.from_folder(tmp_path)
    assert {again.eod_token_id, end_of_turn(again, template)} <= set(again.stop_token_ids)
    messages = [{"role": "user", "content": "Hi"}]
    rendered = ChatTemplate(again.chat_template).render(messages, None, True)
    assert rendered == template.render(messages, None, True)
