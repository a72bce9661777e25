"""Byte-level BPE in Hugging Face's file layout; control tokens are found by name."""

from __future__ import annotations

import codecs
import functools
import hashlib
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend
from tokenizers.trainers import BpeTrainer

from ..errors import RequestError, TokenizerError
from .chat import builtin_template
from .chat_files import NO_TEMPLATE, FoundTemplate
from .tokenizer_companions import read_companions, special_names
from .tokenizer_file import PATTERN, Parsed, guarded, parse, read_backend
from .tokenizer_vocab import (
    BOS,
    END_OF_TURN,
    EOD,
    SPECIAL_TOKENS,
    VISIBLE_TOKENS,
    byte_alphabet,
    is_control,
)

log = logging.getLogger("ling.tokenizer")

# Paths and code that a foreign tokenizer_config.json may name; we neither read nor pass them on.
_DROPPED = {
    "chat_template",
    "auto_map",
    "vocab_file",
    "merges_file",
    "tokenizer_file",
    "name_or_path",
}


class Piece(NamedTuple):
    """A part of a text: the name of a control token with its `id`, or plain text without one.

    It begins at character `start`.
    """

    text: str
    start: int
    id: int | None = None


class Tokenizer:
    """Text to ids and back.

    `vocab_size` is the largest id + 1. `control_tokens` maps the names of tokens that only a
    template or a trainer may emit to their ids. `special_tokens` has the names of
    tokenizer_config.json (`bos_token`, `eos_token`, ...), `more_special_tokens` those without a
    name of their own there. `stop_token_ids` are the ends of the tokenizer and of `generation`.
    """

    def __init__(
        self,
        parsed: Parsed,
        *,
        template: FoundTemplate = NO_TEMPLATE,
        config: Mapping[str, Any] | None = None,
        generation: Mapping[str, Any] | None = None,
        special_tokens: Mapping[str, str] | None = None,
        more_special_tokens: Sequence[str] = (),
    ) -> None:
        self.backend, self._source, self._ids, self._added = parsed
        self._config, self._generation = dict(config or {}), dict(generation or {})
        self.chat_template, self.template_problem = template
        self._names = {i: token for token, i in self._ids.items()}
        self._hidden = {
            t["id"] for t in self._added if t["special"] and t["content"] not in VISIBLE_TOKENS
        }
        control = {t["content"]: t for t in self._added if is_control(t)}
        self.control_tokens = {name: t["id"] for name, t in control.items()}
        self._strips = {name: (t["lstrip"], t["rstrip"]) for name, t in control.items()}
        names = sorted(map(re.escape, control), key=len, reverse=True)
        self._control_names = re.compile(f"({'|'.join(names)})") if names else None
        self.vocab_size = max(self._names, default=-1) + 1
        self.eod_token_id = self.token_to_id(EOD)
        named = special_names(self._config) if special_tokens is None else special_tokens
        self.special_tokens, self.more_special_tokens = dict(named), list(more_special_tokens)
        self.stop_token_ids = self._stops()

    @classmethod
    def from_folder(cls, folder: str | Path) -> Tokenizer:
        """Read tokenizer.json and its companions; raises `TokenizerError` naming the file."""
        folder = Path(folder)
        if not (folder / "tokenizer.json").is_file():
            raise TokenizerError(f"{folder}: no tokenizer.json in this folder")
        beside = read_companions(folder)
        return cls(
            read_backend(folder / "tokenizer.json", beside.added),
            template=beside.template,
            config=beside.config,
            generation=beside.generation,
            special_tokens=beside.special_tokens,
            more_special_tokens=beside.more_special_tokens,
        )

    def encode(self, text: str, *, parse_special: bool = False, guard: str = "") -> list[int]:
        """Ids of `text`; only `parse_special` turns `<role>` and its like into control tokens.

        `guard` is a character that keeps a name from being one and is no part of the text.
        """
        _sound(text)
        if not parse_special or self._control_names is None:
            return self._plain_ids(text.replace(guard, "") if guard else text)
        ids: list[int] = []
        for piece in self.pieces(text):
            plain = piece.text.replace(guard, "") if guard else piece.text
            ids += self._plain_ids(plain) if piece.id is None else [piece.id]
        return ids

    def pieces(self, text: str) -> Iterator[Piece]:
        """Plain text and control tokens of a text in which each name of one is one."""
        if self._control_names is None:
            yield Piece(text, 0)
            return
        parts, at = self._control_names.split(text), 0  # every second one is a name
        for k, part in enumerate(parts):
            start, at = at, at + len(part)
            if k % 2:
                yield Piece(part, start, self.control_tokens[part])
                continue
            if k and self._strips[parts[k - 1]][1]:
                part = part.lstrip()
                start = at - len(part)
            if k + 1 < len(parts) and self._strips[parts[k + 1]][0]:
                part = part.rstrip()
            yield Piece(part, start)

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids of a plain text, and which characters [start, end) each of them stands for.

        Tokens that share a character have the same offsets.
        """
        found = guarded(self.backend.encode, _sound(text), add_special_tokens=False)
        return found.ids, found.offsets

    def _plain_ids(self, text: str) -> list[int]:
        return guarded(self.backend.encode, text, add_special_tokens=False).ids if text else []

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """Ids of many plain texts, on all cores; equal to `encode` of each."""
        sound = [_sound(t) for t in texts]
        coded = guarded(self.backend.encode_batch_fast, sound, add_special_tokens=False)
        return [c.ids for c in coded]

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """Text of `ids`; ids without a token give nothing, broken UTF-8 gives U+FFFD.

        Tags of reasoning and tool calls are text, also where the file calls them special.
        """
        table, hidden = self._bytes, self._hidden if skip_special_tokens else ()
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
        return IncrementalDecoder(self._bytes, self._hidden if skip_special_tokens else set())

    def token_bytes(self, i: int) -> bytes:
        """Bytes that a token stands for: part of a character, too; none for an unused id."""
        return self._bytes.get(i, b"")

    @property
    def template_variables(self) -> dict[str, Any]:
        """What a chat template may write: the names of the special tokens."""
        more = {"additional_special_tokens": self.more_special_tokens}
        return {**self.special_tokens, **(more if self.more_special_tokens else {})}

    def save(self, folder: str | Path, stop_token_ids: Sequence[int] = ()) -> None:
        """Write the files of a Hugging Face tokenizer folder; raises `TokenizerError`.

        `stop_token_ids` are further ends of turn, such as those of the model's config.json.
        """
        folder = Path(folder)
        config = {k: v for k, v in self._config.items() if k not in _DROPPED}
        names: dict[str, Any] = {k: v for k, v in self.special_tokens.items() if v in self._ids}
        if self.more_special_tokens:
            names["additional_special_tokens"] = self.more_special_tokens
        ends = list(dict.fromkeys([*self.stop_token_ids, *stop_token_ids]))
        generation: dict[str, Any] = {**self._generation, "eos_token_id": ends}
        if self.eod_token_id is not None:
            generation.setdefault("pad_token_id", self.eod_token_id)
        if self.template_problem is not None:
            log.warning("%s; no chat template is written", self.template_problem)
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

    def _stops(self) -> tuple[int, ...]:
        """Ends of generation_config.json, then the tokenizer's own; by name where it lists none."""
        eos = self._generation.get("eos_token_id")
        listed = [i for i in (eos if isinstance(eos, list) else [eos]) if type(i) is int and i >= 0]
        own = self.token_to_id(self.special_tokens.get("eos_token", EOD))
        named = [] if listed else [self.token_to_id(n) for n in (EOD, END_OF_TURN)]
        found = [*listed, own, *named]
        return tuple(dict.fromkeys(i for i in found if i is not None))

    @functools.cached_property
    def _bytes(self) -> dict[int, bytes]:
        """Bytes of each token; an added one is its UTF-8, whatever letters it has."""
        alphabet, added = byte_alphabet(), {t["id"] for t in self._added}
        table = {}
        for i, token in self._names.items():
            codes = [None] if i in added else [alphabet.get(c) for c in token]
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
    generation = {"bos_token_id": backend.token_to_id(BOS), "eos_token_id": stop}
    template = FoundTemplate(builtin_template("chat"))
    parsed = parse(backend.to_str())
    return Tokenizer(parsed, template=template, config=config, generation=generation)


def _sound(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as err:
        raise RequestError(f"the text has a lone surrogate at character {err.start}") from None
    return text


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")
