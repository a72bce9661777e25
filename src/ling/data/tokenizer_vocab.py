"""Tokens and merges of a `tokenizer.json`: checked, numbered, and control tokens told apart."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import TokenizerError
from ..text import shown

BOS, EOD, END_OF_TURN = "<|startoftext|>", "<|endoftext|>", "<|role_end|>"
SPECIAL_TOKENS = (BOS, EOD, "[CLS]", "[gMASK]", END_OF_TURN, "<role>", "</role>")
# What a model writes around reasoning and tool calls. Some files mark these tokens as special; they
# are visible text all the same, else those who read replies would not see where a call begins.
VISIBLE_TOKENS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
MAX_ID = 1 << 22
MAX_ADDED_TOKENS = 16384
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_CONTROL_SHAPE = re.compile(r"<\|[^|]*\|>")


def byte_alphabet() -> dict[str, int]:
    """GPT-2's letters for bytes: printable Latin-1 stands for itself, the rest follows U+0100."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(others)}


def is_control(token: Mapping[str, Any]) -> bool:
    """Some released files leave the special mark off tokens such as `<role>`; names decide too."""
    name = token["content"]
    return token["special"] or name in SPECIAL_TOKENS or bool(_CONTROL_SHAPE.fullmatch(name))


def checked_vocab(model: dict[str, Any]) -> dict[str, int]:
    """`model.vocab` of a byte-level BPE without surprises; raises `TokenizerError`."""
    if model.get("type", "BPE") != "BPE":
        raise TokenizerError(f"`model.type` is {shown(model['type'])}, expected `BPE`")
    vocab = model.get("vocab")
    if not isinstance(vocab, dict):
        raise TokenizerError("`model.vocab` is not an object of tokens and ids")
    for token, i in vocab.items():
        if type(i) is not int or not 0 <= i < MAX_ID:
            raise TokenizerError(f"`model.vocab`: {shown(token)} has id {shown(i)}")
    if len(set(vocab.values())) != len(vocab):
        raise TokenizerError("`model.vocab`: two tokens have the same id")
    missing = [b for char, b in byte_alphabet().items() if char not in vocab]
    if missing:
        raise TokenizerError(f"`model.vocab`: no token for byte 0x{missing[0]:02x}")
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise TokenizerError(f"`model.{name}` is set; byte-level BPE has none")
    if model.get("dropout"):
        raise TokenizerError("`model.dropout` is set: the same text would give different ids")
    return vocab


def checked_added(added: Any) -> list[dict[str, Any]]:
    """Entries of `added_tokens` with all their fields; raises `TokenizerError`."""
    if not isinstance(added, list) or len(added) > MAX_ADDED_TOKENS:
        raise TokenizerError(f"`added_tokens` is not a list of at most {MAX_ADDED_TOKENS}")
    clean = []
    for token in added:
        content = token.get("content") if isinstance(token, dict) else None
        if not isinstance(content, str) or not content:
            raise TokenizerError("`added_tokens`: an entry has no `content`")
        i = token.get("id")
        if type(i) is not int or not 0 <= i < MAX_ID:
            raise TokenizerError(f"`added_tokens`: {shown(content)} has id {shown(i)}")
        clean.append({"id": i, "content": content} | {f: token.get(f) is True for f in FLAGS})
    return clean


def merge_added(
    vocab: Mapping[str, int], own: Sequence[dict[str, Any]], more: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The file's entries and those of the files beside it, in the order of their ids."""
    found = {t["content"]: t for t in own}
    for token in more:
        known = found.setdefault(token["content"], token)
        if known["id"] != token["id"]:
            raise TokenizerError(
                f"`added_tokens`: {shown(token['content'])} has id {known['id']}, but a file "
                f"beside it says {token['id']}"
            )
        found[token["content"]] = {**known, "special": known["special"] or token["special"]}
    tokens = sorted(found.values(), key=lambda t: t["id"])
    _check_numbers(vocab, tokens)
    return tokens


def _check_numbers(vocab: Mapping[str, int], tokens: Iterable[dict[str, Any]]) -> None:
    """Other loaders number added tokens in order, whatever their `id` says: both must agree."""
    following = len(vocab)
    for token in tokens:
        expected = vocab.get(token["content"], following)
        if token["id"] != expected:
            raise TokenizerError(
                f"`added_tokens`: {shown(token['content'])} has id {token['id']}, but the file's "
                f"order gives {expected}"
            )
        following = max(following, expected + 1)
    numbers = set(vocab.values())
    for token in tokens:
        if token["content"] not in vocab and token["id"] in numbers:
            raise TokenizerError(
                f"`added_tokens`: {shown(token['content'])} has id {token['id']}, as another token"
            )


def checked_merges(model: Mapping[str, Any], left_out: set[str]) -> list[tuple[str, ...]]:
    """Merges as pairs, without those that need or make a token of `left_out`."""
    merges = model.get("merges")
    if not isinstance(merges, list) or not all(isinstance(m, (str, list)) for m in merges):
        raise TokenizerError("`model.merges` is not a list of pairs")
    pairs = [tuple(m.split(" ") if isinstance(m, str) else m) for m in merges]
    if not all(len(p) == 2 and isinstance(p[0], str) and isinstance(p[1], str) for p in pairs):
        raise TokenizerError("`model.merges` has an entry that is no pair of tokens")
    if not left_out:
        return pairs
    return [p for p in pairs if not left_out & {p[0], p[1], p[0] + p[1]}]
