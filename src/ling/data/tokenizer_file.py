"""What a `tokenizer.json` may hold: byte-level BPE whose cost is bounded for every text.

The library trusts its file: it truncates, pads, drops merges at random, rewrites or backtracks as
the file says, and panics on some values. So the file is checked, and a backend is built from the
parts that byte-level BPE needs and from nothing else.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import AddedToken, Regex, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from ..errors import TokenizerError
from ..files.guarded import HEAD_BYTES, impostor
from ..text import first_line, shown
from .tokenizer_vocab import (
    FLAGS,
    byte_alphabet,
    checked_added,
    checked_merges,
    checked_vocab,
    is_control,
    merge_added,
)

# The released models' rule, llama.cpp's pre-tokenizer "bailingmoe2".
PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*"
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
)
MAX_FILE_BYTES = 32 << 20
_MAX_PATTERN = 2048
_NORMALIZERS = {"NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents"}
_SPLITTERS = {"ByteLevel", "Split", "Digits", "Punctuation", "Whitespace", "WhitespaceSplit"}
_PROBE_LIMIT_S = 0.25
_MAX_STEPS = 8
_DECODER = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}


class Parsed(NamedTuple):
    """A tokenizer file, checked.

    `backend` encodes plain text and has no control token, so that no text can become one. `ids`
    has every token by name, `added` the entries of `added_tokens` in the order of their ids.
    """

    backend: Backend
    text: str
    ids: dict[str, int]
    added: list[dict[str, Any]]


def read_backend(path: Path, more: Sequence[dict[str, Any]] = ()) -> Parsed:
    """Read a file, and `more` tokens that only the files beside it have.

    Raises `TokenizerError` naming the file.
    """
    try:
        if not path.is_file():
            raise TokenizerError("no such file")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise TokenizerError(f"{path.stat().st_size} bytes, the limit is {MAX_FILE_BYTES}")
        data = path.read_bytes()
        if (what := impostor(data[:HEAD_BYTES])) is not None:
            raise TokenizerError(what)
        return parse(data.decode("utf-8-sig"), more)
    except TokenizerError as err:
        raise TokenizerError(f"{path}: {err}") from None
    except RecursionError:
        raise TokenizerError(f"{path}: nested too deeply") from None
    except (OSError, ValueError) as err:
        raise TokenizerError(f"{path}: unreadable ({shown(first_line(err))})") from None


def parse(text: str, more: Sequence[dict[str, Any]] = ()) -> Parsed:
    """Check the text of a file and build its backend; raises `TokenizerError`."""
    raw = json.loads(text)
    model = raw.get("model") if isinstance(raw, dict) else None
    if not isinstance(model, dict):
        raise TokenizerError("no tokenizer: expected an object with a `model`")
    vocab, own = checked_vocab(model), checked_added(raw.get("added_tokens") or [])
    added = merge_added(vocab, own, checked_added(list(more)))
    backend = _build(raw, model, vocab, added)
    if added != own:
        text = json.dumps({**raw, "added_tokens": added}, ensure_ascii=False)
    return Parsed(backend, text, vocab | {t["content"]: t["id"] for t in added}, added)


def _build(
    raw: dict[str, Any], model: dict[str, Any], vocab: dict[str, int], added: list[dict[str, Any]]
) -> Backend:
    """The vocabulary is handed over as it was parsed: the library's own reading costs as much."""
    _check_decoder(raw.get("decoder"))
    pre = _checked_steps(raw.get("pre_tokenizer"), "pre_tokenizer", _SPLITTERS)
    if not pre:
        raise TokenizerError("`pre_tokenizer`: a sequence of no or too many steps")
    _probe(pre)
    if not any(step["type"] == "ByteLevel" for step in pre):
        raise TokenizerError("`pre_tokenizer` has no ByteLevel step")
    normalizer = _checked_steps(raw.get("normalizer"), "normalizer", _NORMALIZERS)
    shell: dict[str, Any] = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": normalizer} if normalizer else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": pre} if len(pre) > 1 else pre[0],
        "decoder": _DECODER,
        "model": {"type": "BPE", "vocab": {}, "merges": []},
    }
    backend = guarded(Backend.from_str, json.dumps(shell, ensure_ascii=False))
    # A letter of the alphabet stays: without it some texts would have no ids.
    control = {t["content"] for t in added if is_control(t)} - byte_alphabet().keys()
    plain = [t for t in added if t["content"] not in control]
    known = {token: i for token, i in vocab.items() if token not in control}
    known |= {t["content"]: t["id"] for t in plain}
    merges = checked_merges(model, control & vocab.keys())
    whole = model.get("ignore_merges") is True
    backend.model = guarded(models.BPE, known, merges, ignore_merges=whole)
    guarded(backend.add_tokens, [_added_token(t) for t in plain if not is_control(t)])
    return backend


def _added_token(token: dict[str, Any]) -> AddedToken:
    return AddedToken(token["content"], **{flag: token[flag] for flag in FLAGS})


def _check_decoder(decoder: Any) -> None:
    """ByteLevel, alone or in a sequence; `Fuse` there joins what is joined anyway."""
    kinds = [step.get("type") for step in _flat(decoder, "decoder", "decoders")]
    if "ByteLevel" not in kinds or not set(kinds) <= {"ByteLevel", "Fuse"}:
        raise TokenizerError("`decoder` is not ByteLevel; only byte-level BPE can be read")


def _flat(step: Any, field: str, key: str) -> list[dict[str, Any]]:
    """The steps of nested sequences in one list; none for null and for an empty sequence."""
    if step is None:
        return []
    if not isinstance(step, dict):
        raise TokenizerError(f"`{field}`: {shown(step)} cannot be read, expected an object")
    if step.get("type") != "Sequence":
        return [step]
    parts = step.get(key)
    if not isinstance(parts, list):
        raise TokenizerError(f"`{field}`: a sequence without a list `{key}`")
    steps = [inner for part in parts for inner in _flat(part, field, key)]
    if len(steps) > _MAX_STEPS:
        raise TokenizerError(f"`{field}`: a sequence of no or too many steps")
    return steps


def _checked_steps(step: Any, field: str, allowed: set[str]) -> list[dict[str, Any]]:
    """The steps of a normaliser or a pre-tokeniser, all of `allowed` types."""
    key = "normalizers" if field == "normalizer" else "pretokenizers"
    steps = _flat(step, field, key)
    for part in steps:
        if part.get("type") not in allowed:
            raise TokenizerError(
                f"`{field}`: {shown(part.get('type'))} cannot be read, expected "
                f"{', '.join(sorted(allowed))}"
            )
        pattern = part.get("pattern")
        if isinstance(pattern, dict) and isinstance(pattern.get("Regex"), str):
            check_pattern(pattern["Regex"])
    return steps


def check_pattern(pattern: str) -> None:
    """Refuse patterns that can take exponential time: repeated groups with choices inside."""
    if len(pattern) > _MAX_PATTERN:
        raise TokenizerError(f"`pre_tokenizer`: a pattern of {len(pattern)} characters")
    if re.search(r"\\[1-9kg]|\(\?[(&R]", pattern):
        raise TokenizerError("`pre_tokenizer`: back references and recursion cannot be read")
    # Escapes and classes become one letter each, so that only the structure is left.
    plain = re.sub(r"\\[pPx]\{[^}]*\}|\\.|\[(?:\\.|\[:\^?\w+:\]|[^\]\\])*\]", "x", pattern)
    has_choice = [False]
    for token in re.finditer(
        r"\((?:\?(?:[imx-]*:|<?[=!]|>))?|\)([*+]|\{\d*,\d*\})?|[*+?{|]", plain
    ):
        if token[0].startswith("("):
            has_choice.append(False)
        elif token[0].startswith(")"):
            inside = has_choice.pop() if len(has_choice) > 1 else False
            if inside and token[1]:
                raise TokenizerError("`pre_tokenizer`: a repetition inside a repeated group")
            has_choice[-1] |= inside
        else:
            has_choice[-1] = True


def _probe(steps: Sequence[dict[str, Any]]) -> None:
    """Time every pattern but ours on long runs of one character; refuse what is not linear."""
    for pattern in (s.get("pattern") for s in steps):
        regex = pattern.get("Regex") if isinstance(pattern, dict) else None
        if regex in (None, PATTERN):
            continue
        splitter = pre_tokenizers.Split(guarded(Regex, regex), behavior="isolated")
        # Its own letters at the end, or the matcher would see at once that none can follow.
        end = f"\0{regex}"
        for char in dict.fromkeys(f"a0 .\n\t'_é中{regex}"):
            # Growing lengths: what is cubic must be seen before it takes hours.
            for length in (200, 2_000, 20_000):
                # Of this thread: other programs must not make a good pattern look slow.
                start = time.thread_time()
                guarded(splitter.pre_tokenize_str, char * length + end)
                if time.thread_time() - start > _PROBE_LIMIT_S:
                    raise TokenizerError(f"`pre_tokenizer`: {shown(regex)} is slow on long words")


def guarded(function: Any, *args: Any, **kwargs: Any) -> Any:
    """Call the library; its panics derive from BaseException and become `TokenizerError`."""
    try:
        return function(*args, **kwargs)
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as err:
        raise TokenizerError(
            f"the tokenizers library refuses it ({shown(first_line(err))})"
        ) from None
