from __future__ import annotations

import json

import pytest

from ling.data.tokenizer import SPECIAL_TOKENS, Tokenizer
from ling.errors import TokenizerError


def test_special_tokens_reach_the_template(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    config = json.loads(path.read_text())
    del config["bos_token"], config["cls_token"]
    more = {
        "unk_token": {"content": "[gMASK]", "special": True},
        "pad_token": None,
        "additional_special_tokens": ["<role>", {"content": "</role>"}],
        "extra_special_tokens": {"image_token": "[CLS]"},
    }
    path.write_text(json.dumps(config | more))
    names = {"bos_token": "<|startoftext|>", "pad_token": "<|endoftext|>"}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(names))
    again = Tokenizer.from_folder(tmp_path)
    assert again.template_variables == {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|role_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": "[gMASK]",
        "image_token": "[CLS]",
        "additional_special_tokens": ["<role>", "</role>"],
    }
    again.save(tmp_path / "out")
    assert Tokenizer.from_folder(tmp_path / "out").template_variables == again.template_variables


def _move_added(folder, chosen, place):
    """Take `chosen` tokens out of tokenizer.json and put them in a file beside it."""
    path, settings = folder / "tokenizer.json", folder / "tokenizer_config.json"
    raw, config = json.loads(path.read_text()), json.loads(settings.read_text())
    gone = [t for t in raw["added_tokens"] if t["content"] in chosen]
    raw["added_tokens"] = [t for t in raw["added_tokens"] if t not in gone]
    path.write_text(json.dumps(raw))
    if place == "added_tokens.json":
        (folder / place).write_text(json.dumps({t["content"]: t["id"] for t in gone}))
        config["additional_special_tokens"] = list(chosen)
    else:
        config["added_tokens_decoder"] = {
            str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in gone
        }
    settings.write_text(json.dumps(config))


@pytest.mark.parametrize("place", ["added_tokens.json", "added_tokens_decoder"])
@pytest.mark.parametrize("chosen", [SPECIAL_TOKENS, ("[gMASK]", "<role>")])
def test_added_tokens_of_other_files_are_tokens(tokenizer, tmp_path, place, chosen):
    tokenizer.save(tmp_path)
    _move_added(tmp_path, chosen, place)
    again = Tokenizer.from_folder(tmp_path)
    again.save(tmp_path / "out")
    text = "<role>a</role>[gMASK]b<|role_end|>"
    for other in (again, Tokenizer.from_folder(tmp_path / "out")):
        assert other.control_tokens == tokenizer.control_tokens
        assert other.encode(text, parse_special=True) == tokenizer.encode(text, parse_special=True)
        assert other.encode(text) == tokenizer.encode(text)
        ids = tokenizer.encode(text, parse_special=True)
        assert other.decode(ids) == tokenizer.decode(ids)


def test_token_with_two_ids_is_named(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    (tmp_path / "added_tokens.json").write_text('{"<role>": 7}')
    with pytest.raises(TokenizerError, match=r"`<role>` has id \d+, but a file beside it says 7"):
        Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_encodings_of_editors_are_read(tokenizer, tmp_path, encoding):
    tokenizer.save(tmp_path)
    for name in ("tokenizer_config.json", "generation_config.json"):
        path = tmp_path / name
        path.write_text(path.read_text(), encoding)
    again = Tokenizer.from_folder(tmp_path)
    assert again.special_tokens == tokenizer.special_tokens
    assert again.stop_token_ids == tokenizer.stop_token_ids


@pytest.mark.parametrize("added", [{"x": {"content": "<new>"}}, {"-1": {"content": "<new>"}}])
def test_token_without_an_id_is_named(tokenizer, tmp_path, added):
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": added}))
    with pytest.raises(TokenizerError, match=r"`<new>` has id `(x|-1)`"):
        Tokenizer.from_folder(tmp_path)
