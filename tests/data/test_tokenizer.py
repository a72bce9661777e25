from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ling.data.chat import builtin_template
from ling.data.tokenizer import SPECIAL_TOKENS, Tokenizer, train_tokenizer
from ling.errors import RequestError, TokenizerError


@settings(max_examples=60, deadline=None)
@given(text=st.text(max_size=60))
def test_text_survives_the_tokenizer(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    decoder = tokenizer.incremental()
    pieces = [decoder.push(i) for i in ids] + [decoder.finish()]
    assert "".join(pieces) == text


def test_control_tokens_come_only_when_asked_for(tokenizer):
    role = tokenizer.token_to_id("<role>")
    assert role not in tokenizer.encode("<role>x")
    assert tokenizer.encode("<role>x", parse_special=True)[0] == role


def test_characters_leave_whole_and_broken_ones_as_a_mark(tokenizer):
    ids = tokenizer.encode("π")  # not in the training text: one id a byte
    assert len(ids) == 2
    decoder = tokenizer.incremental()
    assert [decoder.push(i) for i in ids] == ["", "π"]
    decoder.push(ids[0])
    assert decoder.finish() == "\ufffd"
    assert tokenizer.decode(ids[:1]) == "\ufffd"


def test_special_tokens_are_hidden_unless_asked_for(tokenizer):
    ids = tokenizer.encode("a<|role_end|>b", parse_special=True)
    assert tokenizer.decode(ids) == "ab"
    assert tokenizer.decode(ids, skip_special_tokens=False) == "a<|role_end|>b"
    assert tokenizer.decode([tokenizer.vocab_size + 5]) == ""


def test_batches_are_encoded_as_each_text_alone(tokenizer):
    texts = ["def f", "", "<role>x", "你好 wörld"]
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(t) for t in texts]


def test_lone_surrogate_is_refused_with_its_place(tokenizer):
    with pytest.raises(RequestError, match="lone surrogate at character 2"):
        tokenizer.encode("ab\ud800")


def test_training_is_deterministic_and_puts_special_tokens_last():
    texts = ["def f(x):\n    return x\n"] * 5
    first, again = train_tokenizer(texts, 300), train_tokenizer(texts, 300)
    assert first._source == again._source
    ids = [first.token_to_id(t) for t in SPECIAL_TOKENS]
    assert ids == list(range(first.vocab_size - len(SPECIAL_TOKENS), first.vocab_size))
    with pytest.raises(TokenizerError, match="`vocab_size` is 100, expected at least 263"):
        train_tokenizer(texts, 100)


def test_tokenizer_folder_round_trip(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    again = Tokenizer.from_folder(tmp_path)
    assert again.encode("def f") == tokenizer.encode("def f")
    assert again.stop_token_ids == tokenizer.stop_token_ids
    assert again.special_tokens == tokenizer.special_tokens
    assert again.chat_template == builtin_template("chat")


def test_stop_ids_are_those_of_the_generation_config(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": [7, -1, True, 7, 9]}))
    assert Tokenizer.from_folder(tmp_path).stop_token_ids == (7, 9)
    path.unlink()  # then by name
    names = ("<|role_end|>", "<|endoftext|>")
    assert Tokenizer.from_folder(tmp_path).stop_token_ids == tuple(
        tokenizer.token_to_id(n) for n in names
    )


def test_code_and_paths_of_a_foreign_config_are_not_passed_on(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    config = json.loads(path.read_text())
    named = [{"name": "rag", "template": "no"}, {"name": "default", "template": "yes"}]
    path.write_text(
        json.dumps(config | {"auto_map": {"AutoTokenizer": "x.py"}, "chat_template": named})
    )
    (tmp_path / "chat_template.jinja").unlink()
    again = Tokenizer.from_folder(tmp_path)
    assert again.chat_template == "yes"
    again.save(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text()) == config
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "yes"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("tokenizer_config.json", b"{", "not valid JSON"),
        ("generation_config.json", b"[]", "expected a JSON object"),
        ("chat_template.jinja", b"\xff", "not readable as UTF-8"),
    ],
)
def test_damaged_companions_are_named(tokenizer, tmp_path, name, content, words):
    tokenizer.save(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TokenizerError, match=f"{name}: {words}"):
        Tokenizer.from_folder(tmp_path)


def test_folder_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(TokenizerError, match=r"no tokenizer\.json in this folder"):
        Tokenizer.from_folder(tmp_path)
