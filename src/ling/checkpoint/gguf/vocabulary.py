"""A tokenizer folder as GGUF metadata, and back (docs/guides/gguf.md)."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

from ...data.tokenizer import EOD, Tokenizer
from ...data.tokenizer_file import PATTERN
from ...errors import GGUFError, TokenizerError
from ...text import shown

log = logging.getLogger("ling.convert")

PRE = "bailingmoe2"
_SAME_RULE = (PRE, "bailingmoe", "llada-moe")
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
_SPECIAL = {"bos": "bos", "eos": "eos", "padding": "pad", "cls": "cls"}


def vocabulary_metadata(folder: Path | None, vocab_size: int) -> dict[str, Any]:
    """Tokens, merges, special ids and template; without a folder llama.cpp gets ids only.

    Ids without a token become unused ones, up to `vocab_size`. Raises `TokenizerError` for a
    tokenizer that llama.cpp would cut differently.
    """
    if folder is None:
        return {"tokenizer.ggml.model": "none"}
    tokenizer = Tokenizer.from_folder(folder)
    raw = json.loads(tokenizer.backend.to_str())
    _check_rule(folder, raw)
    if tokenizer.vocab_size > vocab_size:
        raise TokenizerError(
            f"{folder}: {tokenizer.vocab_size} tokens, but `vocab_size` is {vocab_size}"
        )
    added = {token["id"] for token in raw["added_tokens"]}
    control = set(tokenizer.control_tokens.values())
    tokens, types = [], []
    for i in range(vocab_size):
        token = tokenizer.id_to_token(i)
        tokens.append(f"[PAD{i}]" if token is None else token)
        in_use = CONTROL if i in control else USER_DEFINED if i in added else NORMAL
        types.append(UNUSED if token is None else in_use)
    values = {
        "model": "gpt2",
        "pre": PRE,
        "tokens": tokens,
        "token_type": types,
        "merges": [m if isinstance(m, str) else " ".join(m) for m in raw["model"]["merges"]],
        **_special_ids(tokenizer),
        "add_bos_token": False,
        "add_eos_token": False,
    }
    template = tokenizer.chat_template
    head = {} if template is None else {"tokenizer.chat_template": template}
    return {f"tokenizer.ggml.{k}": v for k, v in values.items()} | head


def _check_rule(folder: Path, raw: dict[str, Any]) -> None:
    step = raw["pre_tokenizer"]
    steps = step.get("pretokenizers", [step])
    patterns = [s["pattern"].get("Regex") for s in steps if s["type"] == "Split"]
    # Possessive or not, the rule cuts alike; llama.cpp's is not.
    plain = [str(p).replace("?+", "?").replace("++", "+") for p in patterns]
    if plain != [PATTERN.replace("?+", "?").replace("++", "+")] or raw["model"].get(
        "ignore_merges"
    ):
        raise TokenizerError(
            f"{folder}: llama.cpp has no name for the way this tokenizer cuts words; only the "
            "rule of Ling 2.0 can be exported"
        )
    if raw.get("normalizer"):
        log.warning("llama.cpp does not normalise text; this tokenizer does")


def _special_ids(tokenizer: Tokenizer) -> dict[str, int]:
    ids: dict[str, int] = {}
    for key, name in _SPECIAL.items():
        i = tokenizer.token_to_id(tokenizer.special_tokens.get(f"{name}_token", ""))
        if i is not None:
            ids[f"{key}_token_id"] = i
    # llama.cpp stops at eos, at <|endoftext|> (by its name) and at one more id.
    known = (ids.get("eos_token_id"), tokenizer.eod_token_id)
    others = [i for i in tokenizer.stop_token_ids if i not in known]
    return ids | ({"eot_token_id": others[0]} if others else {})


def write_tokenizer(metadata: dict[str, Any], vocab_size: int, folder: Path) -> bool:
    """Write a Hugging Face tokenizer folder from a file's metadata; False when it has none.

    Raises `GGUFError` for tokens that contradict each other or the model.
    """
    own = {
        k.removeprefix("tokenizer.ggml."): v
        for k, v in metadata.items()
        if k.startswith("tokenizer.ggml.")
    }
    if own.get("model", "none") in ("none", "no_vocab"):
        return False
    if own["model"] != "gpt2" or own.get("pre") not in _SAME_RULE:
        raise GGUFError(
            f"tokenizer {shown(own['model'])} / {shown(own.get('pre'))}, expected `gpt2` / `{PRE}`"
        )
    tokens, types = _tokens(own, vocab_size)
    (folder / "tokenizer.json").write_text(
        json.dumps(_tokenizer_json(tokens, types, own.get("merges")), ensure_ascii=False), "utf-8"
    )
    special = _special_tokens(own, tokens)
    config = {
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1000000000000000019884624838656,
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{k: v for k, v in special.items() if k != "eot_token"},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    stops = [EOD, special.get("eos_token"), special.get("eot_token")]
    used = {t: i for i, (t, kind) in enumerate(zip(tokens, types, strict=True)) if kind != UNUSED}
    ids = list(dict.fromkeys(used[t] for t in stops if t in used))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}), "utf-8")
    template = metadata.get("tokenizer.chat_template")
    if isinstance(template, str):
        (folder / "chat_template.jinja").write_text(template, "utf-8")
    try:
        Tokenizer.from_folder(folder).save(folder)  # checks it, and completes the folder
    except TokenizerError as err:
        raise GGUFError(str(err).removeprefix(f"{folder}/")) from None
    return True


def _tokens(own: dict[str, Any], vocab_size: int) -> tuple[list[str], list[int]]:
    tokens, types = own.get("tokens"), own.get("token_type")
    if not isinstance(tokens, list) or not all(isinstance(t, str) for t in tokens):
        raise GGUFError("`tokenizer.ggml.tokens` is not a list of strings")
    if len(tokens) != vocab_size:
        raise GGUFError(f"{len(tokens)} tokens, but the model has {vocab_size}")
    if not isinstance(types, list) or len(types) != len(tokens):
        raise GGUFError("`tokenizer.ggml.token_type` does not belong to the tokens")
    twice, times = Counter(tokens).most_common(1)[0]
    if times > 1:
        raise GGUFError(f"token {shown(twice)} has {times} ids")
    return tokens, types


def _tokenizer_json(tokens: list[str], types: list[int], merges: Any) -> dict[str, Any]:
    used = [(i, t, kind) for i, (t, kind) in enumerate(zip(tokens, types, strict=True))]
    used = [entry for entry in used if entry[2] != UNUSED]
    if not isinstance(merges, list) or not all(isinstance(m, str) for m in merges):
        raise GGUFError("`tokenizer.ggml.merges` is not a list of strings")
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    split = {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated"}
    to_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": i, "content": t, **flags, "special": kind == CONTROL}
            for i, t, kind in used
            if kind in (CONTROL, USER_DEFINED)
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [split | {"invert": False}, to_bytes | {"use_regex": False}],
        },
        "decoder": {"type": "ByteLevel"},
        # Added tokens too: the library would number them again where ids are left out.
        "model": {"type": "BPE", "vocab": {t: i for i, t, _ in used}, "merges": merges},
    }


def _special_tokens(own: dict[str, Any], tokens: list[str]) -> dict[str, str]:
    names = {}
    for key, name in {**_SPECIAL, "eot": "eot"}.items():
        i = own.get(f"{key}_token_id")
        if i is None:
            continue
        if type(i) is not int or not 0 <= i < len(tokens):
            raise GGUFError(f"`tokenizer.ggml.{key}_token_id` is {shown(i)} of {len(tokens)}")
        names[f"{name}_token"] = tokens[i]
    return names
