"""Byte-level BPE in Hugging Face's file layout; control tokens are found by name."""

from __future__ import annotations

import codecs
import functools
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend
from tokenizers.trainers import BpeTrainer

from ..errors import RequestError, TokenizerError
from .chat import builtin_template
from .tokenizer_file import PATTERN, byte_alphabet, guarded, read_backend

BOS, EOD, END_OF_TURN = "<|startoftext|>", "<|endoftext|>", "<|role_end|>"
SPECIAL_TOKENS = (BOS, EOD, "[CLS]", "[gMASK]", END_OF_TURN, "<role>", "</role>")
_CONTROL_SHAPE = re.compile(r"<\|[^|]*\|>")
# Paths and code that a foreign tokenizer_config.json may name; we neither read nor pass them on.
_DROPPED = {
    "chat_template",
    "auto_map",
    "vocab_file",
    "merges_file",
    "tokenizer_file",
    "name_or_path",
}


class Tokenizer:
    """Text to ids and back.

    `vocab_size` is the largest id + 1. `control_tokens` maps the names of tokens that only a
    template or a trainer may emit to their ids. `special_tokens` has the names of
    tokenizer_config.json (`bos_token`, `eos_token`, ...).
    """

    def __init__(
        self,
        backend: Backend,
        *,
        stop: Sequence[int] = (),
        template: str | None = None,
        config: Mapping[str, Any] | None = None,
        generation: Mapping[str, Any] | None = None,
        source: str | None = None,
    ) -> None:
        self._source = source or backend.to_str()
        self._config, self._generation = dict(config or {}), dict(generation or {})
        self.chat_template = template
        self._ids: dict[str, int] = backend.get_vocab(with_added_tokens=True)
        self._names = {i: token for token, i in self._ids.items()}
        added = backend.get_added_tokens_decoder()
        self._special = {i for i, t in added.items() if t.special}
        self.control_tokens = {t.content: i for i, t in added.items() if _is_control(t)}
        # Two copies: one reads control tokens in a text, the other sees plain text only.
        self._with_special, self._plain = backend, _without_control(backend, self.control_tokens)
        self.vocab_size = max(self._names, default=-1) + 1
        self.eod_token_id = self.token_to_id(EOD)
        self.special_tokens = _special_names(self._config)
        self.stop_token_ids = tuple(dict.fromkeys(stop)) or self._named_stops()

    @classmethod
    def from_folder(cls, folder: str | Path) -> Tokenizer:
        """Read tokenizer.json and its companions; raises `TokenizerError` naming the file."""
        folder = Path(folder)
        if not (folder / "tokenizer.json").is_file():
            raise TokenizerError(f"{folder}: no tokenizer.json in this folder")
        backend, text = read_backend(folder / "tokenizer.json")
        config = _optional_json(folder / "tokenizer_config.json")
        generation = _optional_json(folder / "generation_config.json")
        eos = generation.get("eos_token_id")
        stop = [i for i in (eos if isinstance(eos, list) else [eos]) if type(i) is int and i >= 0]
        template = _template(folder, config)
        return cls(
            backend, stop=stop, template=template, config=config, generation=generation, source=text
        )

    def encode(self, text: str, *, parse_special: bool = False) -> list[int]:
        """Ids of `text`; only `parse_special` turns `<role>` and its like into control tokens."""
        backend = self._with_special if parse_special else self._plain
        return guarded(backend.encode, _sound(text), add_special_tokens=False).ids

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """Ids of many plain texts, on all cores; equal to `encode` of each."""
        sound = [_sound(t) for t in texts]
        coded = guarded(self._plain.encode_batch_fast, sound, add_special_tokens=False)
        return [c.ids for c in coded]

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """Text of `ids`; ids without a token give nothing, broken UTF-8 gives U+FFFD."""
        table, hidden = self._bytes, self._special if skip_special_tokens else ()
        return b"".join(table.get(i, b"") for i in ids if i not in hidden).decode(
            "utf-8", "replace"
        )

    @functools.cached_property
    def vocabulary_hash(self) -> str:
        """A short hash of which id stands for which token: equal for models that can share data."""
        names = json.dumps(sorted(self._names.items())).encode()
        return hashlib.sha256(names).hexdigest()[:16]

    def token_to_id(self, token: str) -> int | None:
        """Id of a token by name."""
        return self._ids.get(token)

    def id_to_token(self, i: int) -> str | None:
        """Name of a token, in the byte alphabet of the file."""
        return self._names.get(i)

    def has_id(self, i: int) -> bool:
        """Whether `i` stands for a token; others are never sampled."""
        return i in self._names

    def valid_ids_mask(self, vocab_size: int) -> np.ndarray:
        """Bools [vocab_size]: which rows of a model's head stand for a token."""
        mask = np.zeros(vocab_size, bool)
        ids = np.fromiter(self._names, np.int64, len(self._names))
        mask[ids[ids < vocab_size]] = True
        return mask

    def incremental(self, *, skip_special_tokens: bool = True) -> IncrementalDecoder:
        """A decoder for one stream of ids."""
        return IncrementalDecoder(self._bytes, self._special if skip_special_tokens else set())

    def save(self, folder: str | Path) -> None:
        """Write the files of a Hugging Face tokenizer folder; raises `TokenizerError`."""
        folder = Path(folder)
        config = {k: v for k, v in self._config.items() if k not in _DROPPED}
        names = {k: v for k, v in self.special_tokens.items() if v in self._ids}
        generation: dict[str, Any] = {**self._generation, "eos_token_id": list(self.stop_token_ids)}
        if self.eod_token_id is not None:
            generation.setdefault("pad_token_id", self.eod_token_id)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "tokenizer.json").write_text(self._source, "utf-8")
            _write_json(folder / "tokenizer_config.json", config)
            _write_json(folder / "special_tokens_map.json", names)
            _write_json(folder / "generation_config.json", generation)
            if self.chat_template is not None:
                (folder / "chat_template.jinja").write_text(self.chat_template, "utf-8")
        except OSError as err:
            raise TokenizerError(f"{folder}: cannot write here: {err.strerror}") from None

    def _named_stops(self) -> tuple[int, ...]:
        names = (self.special_tokens.get("eos_token", EOD), EOD, END_OF_TURN)
        ids = (self.token_to_id(n) for n in names)
        return tuple(dict.fromkeys(i for i in ids if i is not None))

    @functools.cached_property
    def _bytes(self) -> dict[int, bytes]:
        """Bytes of each token; a name outside the byte alphabet (an added token) is its UTF-8."""
        alphabet = byte_alphabet()
        table = {}
        for i, token in self._names.items():
            codes = [alphabet.get(c) for c in token]
            table[i] = token.encode() if None in codes else bytes(codes)  # type: ignore[arg-type]
        return table


class IncrementalDecoder:
    """Text of a growing list of ids; a UTF-8 character leaves only when it is whole.

    The pieces of `push` and `finish` joined are what `Tokenizer.decode` gives for all ids.
    """

    def __init__(self, table: Mapping[int, bytes], hidden: set[int]) -> None:
        self._table, self._hidden = table, hidden
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        """The text that `token_id` completes."""
        if token_id in self._hidden:
            return ""
        return self._decoder.decode(self._table.get(token_id, b""))

    def finish(self) -> str:
        """What is left: a broken character as U+FFFD."""
        return self._decoder.decode(b"", final=True)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train byte-level BPE with up to `vocab_size` ids, special tokens last, the chat template set.

    The same texts give the same bytes. Raises `TokenizerError` when `vocab_size` does not hold
    the 256 bytes and the special tokens.
    """
    least = 256 + len(SPECIAL_TOKENS)
    if vocab_size < least:
        raise TokenizerError(f"`vocab_size` is {vocab_size}, expected at least {least}")
    backend = Backend(models.BPE())
    splits = pre_tokenizers.Split(Regex(PATTERN), behavior="isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([splits, to_bytes])
    backend.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS),
        min_frequency=2,
        initial_alphabet=sorted(byte_alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    backend.add_special_tokens([AddedToken(t, special=True) for t in SPECIAL_TOKENS])
    config = {
        "add_bos_token": False,
        "add_eos_token": False,
        "bos_token": BOS,
        "clean_up_tokenization_spaces": False,
        "cls_token": "[CLS]",
        "eos_token": END_OF_TURN,
        "fast_tokenizer": True,
        "model_max_length": 1000000000000000019884624838656,
        "pad_token": EOD,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    stop = [i for t in (EOD, END_OF_TURN) if (i := backend.token_to_id(t)) is not None]
    generation = {"bos_token_id": backend.token_to_id(BOS)}
    template = builtin_template("chat")
    return Tokenizer(backend, stop=stop, template=template, config=config, generation=generation)


def _is_control(token: AddedToken) -> bool:
    """Some released files leave the special mark off tokens such as `<role>`; names decide too."""
    name = token.content
    return token.special or name in SPECIAL_TOKENS or bool(_CONTROL_SHAPE.fullmatch(name))


def _without_control(backend: Backend, control: Mapping[str, int]) -> Backend:
    raw = json.loads(backend.to_str())
    for token in raw["added_tokens"]:
        token["special"] = token["content"] in control
    plain = Backend.from_str(json.dumps(raw, ensure_ascii=False))
    plain.encode_special_tokens = True
    return plain


def _special_names(config: Mapping[str, Any]) -> dict[str, str]:
    """`bos_token` and its like; a value is a name or an object with `content`."""
    found = {}
    for key, value in config.items():
        name = value.get("content") if isinstance(value, dict) else value
        if key.endswith("_token") and isinstance(name, str):
            found[key] = name
    return found


def _sound(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as err:
        raise RequestError(f"the text has a lone surrogate at character {err.start}") from None
    return text


def _template(folder: Path, config: Mapping[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    if path.is_file():
        try:
            return path.read_text("utf-8")
        except (OSError, ValueError):
            raise TokenizerError(f"{path}: not readable as UTF-8") from None
    inline = config.get("chat_template")
    if isinstance(inline, list):  # several named templates
        named = [t for t in inline if isinstance(t, dict) and t.get("name") == "default"]
        inline = named[0].get("template") if named else None
    return inline if isinstance(inline, str) else None


def _optional_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        raw = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        raise TokenizerError(f"{path}: not valid JSON") from None
    if not isinstance(raw, dict):
        raise TokenizerError(f"{path}: expected a JSON object")
    return raw


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")
