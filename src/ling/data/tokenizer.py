"""Byte-level BPE in Hugging Face's file layout; control tokens are found by name."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as _Backend

from ..errors import TokenizerError
from .chat import builtin_template

EOD, END_OF_TURN = "<|endoftext|>", "<|role_end|>"
SPECIAL_TOKENS = ("<|startoftext|>", EOD, "[CLS]", "[gMASK]", END_OF_TURN, "<role>", "</role>")
# Released models' rule, without its possessive marks: they only forbid backtracking that cannot
# succeed here (spec: inference §1).
PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
)
MAX_FILE_BYTES = 256 << 20
_REPLACEMENT = "\ufffd"


class Tokenizer:
    """Text to ids and back."""

    def __init__(
        self, backend: _Backend, *, stop: Sequence[int] | None = None, template: str | None = None
    ) -> None:
        self._plain = backend
        # Untrusted text must not turn into control tokens: a copy that sees none of them.
        self._no_special = _Backend.from_str(backend.to_str())
        self._no_special.encode_special_tokens = True
        self._ids = backend.get_vocab(with_added_tokens=True)
        self.vocab_size = max(self._ids.values(), default=-1) + 1
        self.eod_token_id = self.token_to_id(EOD)
        named = [self.token_to_id(t) for t in (EOD, END_OF_TURN)]
        self.stop_token_ids: tuple[int, ...] = tuple(
            dict.fromkeys(stop if stop else [i for i in named if i is not None])
        )
        self.chat_template = template
        self._known = set(self._ids.values())

    @classmethod
    def from_folder(cls, folder: str | Path) -> Tokenizer:
        """Read tokenizer.json and its companions; raises `TokenizerError` naming the file."""
        folder = Path(folder)
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise TokenizerError(f"{folder}: no tokenizer.json in this folder")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise TokenizerError(f"{path}: larger than {MAX_FILE_BYTES} bytes")
        try:
            text = path.read_text("utf-8")
            _check_ids(json.loads(text))
            backend = _Backend.from_str(text)
        except TokenizerError as err:
            raise TokenizerError(f"{path}: {err}") from None
        except Exception as err:  # the library raises bare Exception for whatever it dislikes
            raise TokenizerError(f"{path}: unreadable ({str(err)[:120]})") from None
        generation = _optional_json(folder / "generation_config.json")
        stop = generation.get("eos_token_id", [])
        stop = stop if isinstance(stop, list) else [stop]
        return cls(backend, stop=[i for i in stop if type(i) is int], template=_template(folder))

    def encode(self, text: str, *, parse_special: bool = False) -> list[int]:
        """Ids of `text`; only `parse_special` turns `<role>` and its like into control tokens."""
        backend = self._plain if parse_special else self._no_special
        return backend.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of many plain texts, in parallel."""
        return [e.ids for e in self._no_special.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text of `ids`; ids without a token give nothing."""
        known = [i for i in ids if i in self._known]
        return self._plain.decode(known, skip_special_tokens=skip_special_tokens)

    def token_to_id(self, token: str) -> int | None:
        """Id of a token by name."""
        return self._ids.get(token)

    def has_id(self, i: int) -> bool:
        """Whether `i` stands for a token; others are never sampled."""
        return i in self._known

    def incremental(self, *, skip_special_tokens: bool = True) -> IncrementalDecoder:
        """A decoder for one stream of ids."""
        return IncrementalDecoder(self, skip_special_tokens)

    def save(self, folder: str | Path) -> None:
        """Write the files of a Hugging Face tokenizer folder."""
        folder = Path(folder)
        self._plain.save(str(folder / "tokenizer.json"))
        names = {
            "pad_token": EOD,
            "eos_token": EOD,
            "bos_token": "<|startoftext|>",
            "cls_token": "[CLS]",
        }
        names = {k: v for k, v in names.items() if self.token_to_id(v) is not None}
        config = {
            "add_bos_token": False,
            "add_eos_token": False,
            "clean_up_tokenization_spaces": False,
            "model_max_length": 1000000000000000019884624838656,
            "fast_tokenizer": True,
            "tokenizer_class": "PreTrainedTokenizerFast",
            **names,
        }
        _write(folder / "tokenizer_config.json", config)
        _write(folder / "special_tokens_map.json", names)
        generation = {"eos_token_id": list(self.stop_token_ids), "do_sample": False}
        if self.eod_token_id is not None:
            generation["pad_token_id"] = self.eod_token_id
        _write(folder / "generation_config.json", generation)
        if self.chat_template is not None:
            (folder / "chat_template.jinja").write_text(self.chat_template, "utf-8")


class IncrementalDecoder:
    """Text of a growing list of ids; a UTF-8 character leaves only when it is whole."""

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool) -> None:
        self._tokenizer, self._skip = tokenizer, skip_special_tokens
        self._ids: list[int] = []
        self._start = self._sent = 0

    def push(self, token_id: int) -> str:
        """The text that `token_id` completes."""
        self._ids.append(token_id)
        return self._advance(final=False)

    def finish(self) -> str:
        """What is left, broken characters as U+FFFD."""
        return self._advance(final=True)

    def _advance(self, *, final: bool) -> str:
        def text(stop: int) -> str:
            ids = self._ids[self._start : stop]
            return self._tokenizer.decode(ids, skip_special_tokens=self._skip)

        before, now = text(self._sent), text(len(self._ids))
        if not final and now.endswith(_REPLACEMENT):
            return ""
        self._start, self._sent = self._sent, len(self._ids)
        return now[len(before) :]


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train byte-level BPE with `vocab_size` ids, special tokens at the end of the vocabulary.

    Raises `TokenizerError` when `vocab_size` does not hold the bytes and special tokens.
    """
    least = 256 + len(SPECIAL_TOKENS)
    if vocab_size < least:
        raise TokenizerError(f"`vocab_size` is {vocab_size}, expected at least {least}")
    backend = _Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    backend.add_special_tokens([tokenizers.AddedToken(t, special=True) for t in SPECIAL_TOKENS])
    return Tokenizer(backend, template=builtin_template("chat"))


def _check_ids(raw: Any) -> None:
    """Refuse ids that would make the library allocate by id."""
    added = raw.get("added_tokens") or []
    vocab = (raw.get("model") or {}).get("vocab") or {}
    ids = [t.get("id") for t in added] + (list(vocab.values()) if isinstance(vocab, dict) else [])
    if any(type(i) is not int or not 0 <= i < 1 << 24 for i in ids):
        raise TokenizerError("a token id is negative, too large or no number")
    if any(not t.get("content") for t in added):
        raise TokenizerError("an added token is empty")


def _template(folder: Path) -> str | None:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text("utf-8")
    inline = _optional_json(folder / "tokenizer_config.json").get("chat_template")
    return inline if isinstance(inline, str) else None


def _optional_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        raw = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError):
        raise TokenizerError(f"{path}: not valid JSON") from None
    return raw if isinstance(raw, dict) else {}


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")
