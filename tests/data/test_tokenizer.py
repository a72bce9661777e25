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


@pytest.mark.parametrize("is_special", [True, False])
def test_tags_of_calls_and_reasoning_are_text_also_as_special_tokens(
    tokenizer, tmp_path, is_special
):
    tokenizer.save(tmp_path)
    path = tmp_path / "tokenizer.json"
    data = json.loads(path.read_text("utf-8"))
    size = max(t["id"] for t in data["added_tokens"]) + 1
    for k, name in enumerate(["<think>", "</think>", "<tool_call>", "</tool_call>", "<|x|>"]):
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        data["added_tokens"].append(
            {"id": size + k, "content": name, "special": is_special or name == "<|x|>", **flags}
        )
    path.write_text(json.dumps(data), "utf-8")
    tok = Tokenizer.from_folder(tmp_path)
    text = "<think>a</think><tool_call>{}</tool_call>"
    ids = tok.encode(text + "<|x|>", parse_special=True)
    assert size in ids
    assert tok.decode(ids) == text
    decoder = tok.incremental()
    assert "".join([*map(decoder.push, ids), decoder.finish()]) == text


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


def test_stop_ids_are_those_of_the_generation_config_and_the_own_end(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    path = tmp_path / "generation_config.json"
    own = tokenizer.token_to_id("<|role_end|>")
    for listed in ([7, -1, True, 7, 9, own], [7, 9]):
        path.write_text(json.dumps({"eos_token_id": listed}))
        assert Tokenizer.from_folder(tmp_path).stop_token_ids == (7, 9, own)
    path.write_text(json.dumps({"eos_token_id": 7}))
    assert Tokenizer.from_folder(tmp_path).stop_token_ids == (7, own)
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
        ("added_tokens.json", b"\xff", "not valid JSON"),
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


def test_template_that_cannot_be_read_leaves_the_rest(tokenizer, tmp_path, caplog):
    tokenizer.save(tmp_path)
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    again = Tokenizer.from_folder(tmp_path)
    assert (again.chat_template, again.encode("def f")) == (None, tokenizer.encode("def f"))
    assert "chat_template.jinja: not readable as UTF-8" in again.template_problem
    again.save(tmp_path / "out")
    assert not (tmp_path / "out" / "chat_template.jinja").exists()
    assert "no chat template is written" in caplog.text


def _with_added(tokenizer, folder, *tokens, **model):
    """A folder whose tokenizer.json has further added tokens."""
    tokenizer.save(folder)
    path = folder / "tokenizer.json"
    raw = json.loads(path.read_text())
    for k, token in enumerate(tokens):
        raw["added_tokens"].append({"id": tokenizer.vocab_size + k, **token})
    raw["model"] |= model
    path.write_text(json.dumps(raw))
    return Tokenizer.from_folder(folder)


def test_bytes_of_a_token(tokenizer, tmp_path):
    added = _with_added(tokenizer, tmp_path, {"content": "café"})
    (i,) = added.encode("café")
    assert added.token_bytes(i) == "café".encode()  # not its letters of the byte alphabet
    assert added.decode([i]) == "café"
    assert b"".join(map(added.token_bytes, added.encode("π 你 x"))) == "π 你 x".encode()
    assert added.token_bytes(i + 1) == b""


def test_control_tokens_take_the_spaces_that_the_file_says(tokenizer, tmp_path):
    added = _with_added(
        tokenizer,
        tmp_path,
        {"content": "<|mask|>", "special": True, "lstrip": True, "rstrip": True},
    )
    ids = added.encode("a  <|mask|> b", parse_special=True)
    assert added.decode(ids, skip_special_tokens=False) == "a<|mask|>b"


def test_vocabulary_with_control_tokens_keeps_them_from_texts(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    path = tmp_path / "tokenizer.json"
    raw = json.loads(path.read_text())
    raw["model"]["vocab"] |= {t["content"]: t["id"] for t in raw["added_tokens"]}
    raw["model"]["ignore_merges"] = True  # a word that is a token is that token
    raw["pre_tokenizer"] = raw["pre_tokenizer"]["pretokenizers"][1]
    path.write_text(json.dumps(raw))
    again = Tokenizer.from_folder(tmp_path)
    control = set(again.control_tokens.values())
    for name in again.control_tokens:
        assert not control & set(again.encode(name))
        assert again.encode(name, parse_special=True) == [again.token_to_id(name)]
