"""What a `tokenizer.json` may hold: byte-level BPE whose cost is bounded for every text.

The library trusts its file: it truncates, pads, drops merges at random, rewrites or backtracks as
the file says, and panics on some values. So the file is checked, and a backend is built from the
parts that byte-level BPE needs and from nothing else.
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

from tokenizers import Regex, pre_tokenizers
from tokenizers import Tokenizer as Backend

from ..errors import TokenizerError
from ..files.guarded import HEAD_BYTES, impostor
from ..text import first_line, shown

# The released models' rule, llama.cpp's pre-tokenizer "bailingmoe2".
PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*"
    r"|\s*[\r\n]|\s+(?!\S)|\s+"
)
MAX_FILE_BYTES = 32 << 20
MAX_ID = 1 << 22
MAX_ADDED_TOKENS = 16384
_MAX_PATTERN = 2048
_NORMALIZERS = {"NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents"}
_SPLITTERS = {"ByteLevel", "Split", "Digits", "Punctuation", "Whitespace", "WhitespaceSplit"}
_PROBE_LIMIT_S = 0.25


def read_backend(path: Path) -> tuple[Backend, str]:
    """A checked backend and the text of the file; raises `TokenizerError` naming the file."""
    try:
        if not path.is_file():
            raise TokenizerError("no such file")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise TokenizerError(f"{path.stat().st_size} bytes, the limit is {MAX_FILE_BYTES}")
        text = path.read_text("utf-8")
        if (what := impostor(text[:HEAD_BYTES].encode())) is not None:
            raise TokenizerError(what)
        return _build(json.loads(text)), text
    except TokenizerError as err:
        raise TokenizerError(f"{path}: {err}") from None
    except RecursionError:
        raise TokenizerError(f"{path}: nested too deeply") from None
    except (OSError, ValueError) as err:
        raise TokenizerError(f"{path}: unreadable ({shown(first_line(err))})") from None


def byte_alphabet() -> dict[str, int]:
    """GPT-2's letters for bytes: printable Latin-1 stands for itself, the rest follows U+0100."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(others)}


def _build(raw: Any) -> Backend:
    model = raw.get("model") if isinstance(raw, dict) else None
    if not isinstance(model, dict):
        raise TokenizerError("no tokenizer: expected an object with a `model`")
    vocab, added = _checked_vocab(model), _checked_added(raw.get("added_tokens") or [])
    decoder = raw.get("decoder")
    if not isinstance(decoder, dict) or decoder.get("type") != "ByteLevel":
        raise TokenizerError("`decoder` is not ByteLevel; only byte-level BPE can be read")
    clean = {
        "version": raw.get("version", "1.0"),
        "added_tokens": added,
        "normalizer": _checked_steps(raw.get("normalizer"), "normalizer", _NORMALIZERS),
        "pre_tokenizer": _checked_steps(raw.get("pre_tokenizer"), "pre_tokenizer", _SPLITTERS),
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}
        | {"use_regex": True},
        "model": {
            "type": "BPE",
            "vocab": vocab,
            "merges": model.get("merges"),
            "ignore_merges": model.get("ignore_merges") is True,
        },
    }
    backend = _parse(json.dumps(clean, ensure_ascii=False))
    for token in added:
        # The library numbers added tokens in order, whatever their `id` says.
        if backend.token_to_id(token["content"]) != token["id"]:
            raise TokenizerError(
                f"`added_tokens`: {shown(token['content'])} has id {token['id']}, but the file's "
                f"order gives {backend.token_to_id(token['content'])}"
            )
    _probe(clean["pre_tokenizer"], backend)
    return backend


def _checked_vocab(model: dict[str, Any]) -> dict[str, int]:
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


def _checked_added(added: Any) -> list[dict[str, Any]]:
    if not isinstance(added, list) or len(added) > MAX_ADDED_TOKENS:
        raise TokenizerError(f"`added_tokens` is not a list of at most {MAX_ADDED_TOKENS}")
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    clean = []
    for token in added:
        content = token.get("content") if isinstance(token, dict) else None
        if not isinstance(content, str) or not content:
            raise TokenizerError("`added_tokens`: an entry has no `content`")
        if type(token.get("id")) is not int or not 0 <= token["id"] < MAX_ID:
            raise TokenizerError(f"`added_tokens`: {shown(content)} has id {shown(token['id'])}")
        clean.append(
            {"id": token["id"], "content": content} | {f: token.get(f) is True for f in flags}
        )
    return clean


def _checked_steps(step: Any, field: str, allowed: set[str]) -> Any:
    """A normaliser or pre-tokeniser made of `allowed` types, possibly in a sequence."""
    if step is None and field == "normalizer":
        return None
    kind = step.get("type") if isinstance(step, dict) else None
    if kind == "Sequence":
        parts = step.get(f"{field}s", step.get("pretokenizers"))
        if not isinstance(parts, list) or not 0 < len(parts) <= 8:
            raise TokenizerError(f"`{field}`: a sequence of no or too many steps")
        inner = [_checked_steps(part, field, allowed) for part in parts]
        return {"type": "Sequence", f"{field}s".replace("pre_tok", "pretok"): inner}
    if kind not in allowed:
        raise TokenizerError(
            f"`{field}`: {shown(kind)} cannot be read, expected {', '.join(sorted(allowed))}"
        )
    pattern = step.get("pattern")
    if isinstance(pattern, dict) and isinstance(pattern.get("Regex"), str):
        check_pattern(pattern["Regex"])
    return step


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


def _probe(step: dict[str, Any], backend: Backend) -> None:
    """Time every pattern but ours on long runs of one character; refuse what is not linear."""
    steps = step.get("pretokenizers", [step])
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
                start = time.perf_counter()
                guarded(splitter.pre_tokenize_str, char * length + end)
                if time.perf_counter() - start > _PROBE_LIMIT_S:
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


def _parse(text: str) -> Backend:
    return guarded(Backend.from_str, text)
