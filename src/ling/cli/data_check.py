"""`ling data check`: what fine-tuning would make of files of conversations."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from ..text import terminal_text
from .options import at_least_one, make_parser

if TYPE_CHECKING:
    from ..config.sft import ChatDataConfig
    from ..data.conversations.check import Check, Checked
    from ..data.conversations.supervise import Supervised
    from ..data.tokenizer import Tokenizer

_TRAINED, _DIM, _PLAIN = "\033[32m", "\033[2m", "\033[0m"


def data_check(args: list[str]) -> None:
    """Print each sample with what of it is trained, then a summary."""
    ns = _parser().parse_args(args)
    at_least_one("show", ns.show)
    from ..config.sft import ChatDataConfig

    cfg = ChatDataConfig(
        files=ns.files,
        dataset_info=ns.dataset_info,
        format=ns.format,
        tokenizer=ns.tokenizer,
        template=ns.template,
        thinking=ns.thinking,
        seq_length=ns.seq_length,
        split_turns=ns.split_turns,
        skip_bad=ns.skip_bad,
    )
    check = _open(cfg)
    from ..data.conversations.records import read_records

    found = check.records(read_records(cfg))
    if ns.json:
        _print_json(check, found, many=len(ns.files) > 1)
    else:
        _print_text(check, found, ns.show)


def _parser() -> Any:
    from ..config.sft import ChatDataConfig

    formats = get_args(get_type_hints(ChatDataConfig)["format"])
    parser = make_parser("data check")
    parser.add_argument("files", nargs="+", help="files of records, or names in --dataset-info")
    parser.add_argument(
        "--json", action="store_true", help="one JSON object a sample, and one with the summary"
    )
    parser.add_argument(
        "--tokenizer",
        type=str,
        default=None,
        help="a tokenizer's or model's folder, or a model's name on a hub; without one, no ids",
    )
    parser.add_argument(
        "--template",
        type=str,
        default=None,
        help="a chat template's file, or `megatron`; default: the tokenizer's, else Ling's",
    )
    parser.add_argument(
        "--skip-bad", action="store_true", help="count records that cannot be used, and go on"
    )
    parser.add_argument(
        "--split-turns",
        action="store_true",
        help="a sample of its own for each turn whose reasoning disappears later",
    )
    parser.add_argument(
        "--thinking", action="store_true", help="render as for a request that asks for reasoning"
    )
    parser.add_argument(
        "--dataset-info", type=str, default=None, help="a dataset_info.json of LLaMA-Factory"
    )
    parser.add_argument(
        "--format", choices=formats, default="auto", help="format of the records (default: by keys)"
    )
    parser.add_argument("--seq-length", type=int, default=8192, help="tokens of a row")
    parser.add_argument("--show", type=int, default=5, help="samples that are printed as text")
    return parser


def _open(cfg: ChatDataConfig) -> Check:
    from ..data.conversations.batches import Supervisor
    from ..data.conversations.check import Check
    from ..data.conversations.template import open_template

    tokenizer = _tokenizer(cfg.tokenizer)
    template = open_template(cfg.template, tokenizer)
    # Ids that are given are checked against a tokenizer only where there is one.
    known = tokenizer.vocab_size if cfg.tokenizer else 1 << 31
    supervisor = Supervisor(template, tokenizer, known, cfg.thinking, cfg.split_turns)
    return Check(cfg, supervisor, has_ids=cfg.tokenizer is not None)


def _tokenizer(name: str | None) -> Tokenizer:
    """Without a name one of bytes: texts and what is trained of them do not depend on ids."""
    from ..data.tokenizer import Tokenizer, train_tokenizer
    from ..data.tokenizer_vocab import SPECIAL_TOKENS

    if name is None:
        print("[no ids: name a tokenizer by `--tokenizer`]", file=sys.stderr)
        return train_tokenizer([], 256 + len(SPECIAL_TOKENS))
    from ..hub import resolve_tokenizer

    folder = resolve_tokenizer(name)
    if (folder / "tokenizer.json").is_file():
        return Tokenizer.from_folder(folder)
    from ..checkpoint.open import tokenizer_folder

    return Tokenizer.from_folder(tokenizer_folder(folder) or folder)


def _print_json(check: Check, records: Iterable[Checked], *, many: bool) -> None:
    """`file` is named where there are several."""
    for checked in records:
        for found in checked.as_json(with_ids=check.has_ids):
            file = {"file": str(checked.record.origin.path)} if many else {}
            print(json.dumps({**file, **found}, ensure_ascii=False))
    print(json.dumps({"summary": check.summary()}, ensure_ascii=False))


def _print_text(check: Check, records: Iterable[Checked], show: int) -> None:
    from ..data.conversations.report import report_lines

    has_colours = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    left = show
    for checked in records:
        for name, sample in checked.sides:
            if left > 0:
                head = f"{checked.record.origin}" + (f" ({name})" if name else "")
                print(shown_sample(head, sample, has_colours), end="\n\n")
            left -= 1
    if left < 0:
        print(f"[{-left:,} more samples are not shown]\n")
    for line in report_lines(check.summary()):
        print(terminal_text(line))


def shown_sample(head: str, sample: Supervised, has_colours: bool) -> str:
    """A sample for a terminal: what is trained in green, or between brackets without colours."""
    begin, end = (_TRAINED, _PLAIN) if has_colours else ("[[", "]]")
    parts, at = [], 0
    for start, stop in sample.spans:
        parts += [terminal_text(sample.text[at:start]), begin]
        parts += [terminal_text(sample.text[start:stop]), end]
        at = stop
    parts.append(terminal_text(sample.text[at:]))
    notes = [f"note: {terminal_text(note)}" for note in sample.notes]
    head = f"{_DIM}{terminal_text(head)}{_PLAIN}" if has_colours else terminal_text(head)
    return "\n".join([head, "".join(parts), *notes])
