"""The card as text: the page of the docs, and the README beside the weights."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from typing import Any

from ..eval.wsm import chosen
from ..text import size
from .checkpoints import MERGED
from .pictures import CHECKPOINTS, CURVE, WSM, trains_mtp

Facts = dict[str, Any]

GOALS = {
    "formed_and_stopped": ("in form, and ended by itself", 1.0),
    "right_tool": ("the right tool", 0.95),
    "exact_listed": ("the exact call, arguments from a list", 0.85),
    "exact_free": ("the exact call, free arguments (aim)", 0.8),
}
"""Of held-out dialogues of the repertoire, by the names of the shares."""
_COLUMNS = {
    "new": "of new wordings",
    "strict": "`strict` tools",
    "new_names": "tools of unknown names",
    "new_names_strict": "of unknown names, `strict`",
}
_INTRODUCTION = """
`ling-nano` is the small model that comes with the package: a mixture of experts of {total}
parameters, {active} of them active for a token, with an MTP layer of {mtp} for drafts. It keeps to
a repertoire: greetings, who it is, sums with and without a tool, units, dates, lists, yes or no on
given facts, what a word means. Outside of that it is fluent at best, and it knows next to nothing:
do not use it for facts or advice."""


_LONGEST = 240  # characters of a failed turn's text


def page(card: Facts, numbers: str = "card.json") -> str:
    """The page of the docs, which links to the card's `numbers`; `wsm` is what `eval/wsm.py`
    reported, where it was run, with the `run_date` of another run.

    Raises `KeyError` for a card that is not whole.
    """
    parts = (_head, _making, _dialogues, _bits, _mtp, _checkpoints, _wsm, _questions, _missed)
    texts = ["\n".join(part(card)).strip() for part in parts]
    texts.append(f"All of it as numbers: [{numbers.rpartition('/')[2]}]({numbers}).")
    return "\n\n".join(filter(None, texts)) + "\n"


def reached(card: Facts) -> dict[str, float | None]:
    """The shares that have goals."""
    shares = card["dialogues"]["shares"]
    return {name: shares[name] for name in GOALS}


def readme(card: Facts) -> str:
    """A short model card, as hubs show it."""
    licences = sorted({p["licence"] for p in card["making"]["packages"].values()})
    front = [
        "---",
        "license: mit",
        "language: [en]",
        "library_name: ling",
        "pipeline_tag: text-generation",
        "tags: [mixture-of-experts, bailing_moe, int8]",
        "---",
        "",
        "# ling-nano",
        "",
        _introduction(card),
        "",
        "```bash",
        "ling chat ling-nano",
        "ling serve ling-nano",
        "```",
        "",
        *_goal_table(card),
        "",
        f"Trained on text from packages ({'; '.join(licences)}), fetched by name, and on dialogues "
        "from grammars; `ling nano OUT` makes it again. The whole card: docs/evidence/ling-nano.md "
        "of the repository.",
    ]
    return "\n".join(front) + "\n"


# ---- parts of the page -------------------------------------------------------------------------


def _introduction(card: Facts) -> str:
    counts = card["model"]["parameters"]
    named = {key: f"{counts[key] / 1e6:.1f}M" for key in ("total", "active", "mtp")}
    return " ".join(_INTRODUCTION.format(**named).split())


def _head(card: Facts) -> Iterator[str]:
    machine, model = card["machine"], card["model"]
    yield "# ling-nano, a small model that speaks"
    yield ""
    yield _introduction(card)
    yield ""
    later = (f", {what} {date}" for what, date in card["dates"].items() if date != card["date"])
    yield (
        f"The folder has {size(model['bytes'])}: int8 weights with MTP, and a tokenizer of "
        f"{model['shape']['vocab_size']:,} ids. Measured on {machine.get('cpu')}, "
        f"{machine.get('threads')} threads, torch {machine.get('torch')}, "
        f"{card['date']}{''.join(later)}. "
        "Written by `ling nano OUT --stage card`, as are `OUT/card/card.json` and the pictures. "
        "Shares and bits below are of text and dialogues that were held out."
    )


def _making(card: Facts) -> Iterator[str]:
    making = card["making"]
    yield "## How it was made"
    yield ""
    yield from _code("bash", making["commands"])
    yield ""
    seconds = {k: v for k, v in making["seconds"].items() if v}
    if seconds:
        spent = ", ".join(f"{k} {v / 60:.1f} min" for k, v in seconds.items())
        yield f"Time of the stages: {spent}."
        yield ""
    yield f"![Loss over the steps of the pre-training]({CURVE})"
    yield ""
    rows = [
        (name, p["source"], p["client"], p["licence"], f"{p['documents']:,}", _mb(p["text_bytes"]))
        for name, p in making["packages"].items()
    ]
    yield from _table(("text", "package", "by", "licence", "documents", "size"), rows)
    yield ""
    yield (
        "The rest are dialogues from grammars of the project's own, and Python's standard library "
        "(PSF licence)."
    )


def _dialogues(card: Facts) -> Iterator[str]:
    dialogues = card["dialogues"]
    shares = dialogues["shares"]
    yield "## Held-out dialogues"
    yield ""
    yield (
        f"{dialogues['records']:,} dialogues that were held out; each turn of the assistant "
        "greedily, behind the messages of the record. The goals are for held-out wordings and "
        f"values of the repertoire: {shares['turns']:,} turns, {shares['calls']:,} of them calls. "
        f"{dialogues['new']['turns']:,} of these are of wordings that no training text has; in the "
        "others the values are new, but for small talk that `memory` has between what is told and "
        f"what is asked. Another {dialogues['new_names']['turns']:,} turns are of records that "
        "call a tool of a name that no training text has. `strict` is with tools of "
        '`"strict": true`, whose names and arguments are enforced.'
    )
    yield ""
    yield from _goal_table(card)
    yield ""
    yield "By kind of the repertoire, as shares of its turns:"
    yield ""
    keys = ("turns", "stopped", "formed", "right_tool", "exact_listed", "exact_free", "right_words")
    rows = [
        (kind, *(_share(found[key]) if key != "turns" else found[key] for key in keys))
        for kind, found in dialogues["kinds"].items()
    ]
    yield from _table(
        ("kind", "turns", "ended", "in form", "right tool", "exact (list)", "exact (free)",
         "right words"),
        rows,
    )  # fmt: skip


def _goal_table(card: Facts) -> Iterator[str]:
    shares, dialogues = reached(card), card["dialogues"]
    rows = [
        (
            words,
            _share(shares[name]),
            f"{goal:.0%}",
            *(_share(dialogues[part].get(name)) for part in _COLUMNS),
        )
        for name, (words, goal) in GOALS.items()
    ]
    return _table(("held-out dialogues", "reached", "goal", *_COLUMNS.values()), rows)


def _bits(card: Facts) -> Iterator[str]:
    ours, theirs = card["bits_per_byte"]["ling-nano"], card["bits_per_byte"]["smollm2-135m"]
    yield "## Bits per byte"
    yield ""
    yield (
        "Less is better, and the tokenizer does not matter: both models score the same bytes "
        "behind the same bytes. Documents are cut into windows of 1,024 bytes, each scored alone; "
        "of conversations without tools the words of the assistant are scored, in each model's own "
        "chat template. Whole documents are held out: a passage that two of them share, such as "
        "two files of the standard library, may have been seen."
    )
    yield ""
    peer = theirs.get("parts", {})
    rows = [
        (name, f"{bits['bytes']:,}", _bpb(bits), _bpb(peer.get(name, {})))
        for name, bits in ours["parts"].items()
    ]
    yield from _table(("text", "bytes", "ling-nano (int8)", "SmolLM2-135M-Instruct (Q4_1)"), rows)
    yield ""
    if "missing" in theirs:
        yield f"SmolLM2 was not there: `{theirs['missing']}`, delete `bits_per_byte` of card.json."
    else:
        yield (
            f"SmolLM2-135M has {theirs['model']['parameters'] / 1e6:.0f}M parameters and was "
            "trained on 2T tokens, ling-nano on what is above; dialogues of this kind only "
            "ling-nano has seen."
        )


def _mtp(card: Facts) -> Iterator[str]:
    mtp, speed = card["mtp"], card["speed"]
    yield "## Speed and drafts"
    yield ""
    for kind, found in speed.items():
        yield (
            f"* {kind}: {found['tokens_per_s']:,.0f} tokens/s ({found['threads']} threads, "
            f"{found['format']}; other load: {found['load']})"
        )
    yield ""
    shown = ", ".join(f"{name} {_share(v)}" for name, v in mtp["agreement"].items())
    yield f"MTP's first choice is the main head's, on held-out text: {shown}."
    yield ""
    yield (
        "Drafting in turn with plain decoding of the same prompts: one token at each step, or what "
        "pays, as when it serves (median ratio of the speeds with its 95% interval; an interval "
        "with 1.00 in it is no gain):"
    )
    yield ""
    rows = [
        (
            gain["prompts_of"],
            f"{gain['temperature']:g}",
            gain["num_drafts"],
            _share(gain["acceptance"]),
            f"{gain['tokens_per_step']:.2f}",
            f"{gain['step_cost']:.2f}",
            f"{gain['ratio']:.2f} [{gain['interval'][0]:.2f}, {gain['interval'][1]:.2f}]",
        )
        for gain in mtp["gains"]
    ]
    head = (
        "prompts",
        "temperature",
        "drafts",
        "acceptance",
        "tokens/step",
        "step cost",
        "speed-up",
    )
    yield from _table(head, rows)


def _checkpoints(card: Facts) -> Iterator[str]:
    rows = card["checkpoints"]
    names = list(rows[0]["bits_per_byte"])
    yield "## Along the run"
    yield ""
    yield (
        "Five checkpoints at a constant learning rate, and the merge of the last ones (WSM); base "
        "models, before fine-tuning; their dialogues call tools of unknown names, too."
        + ("" if trains_mtp(card) else " The MTP layer learns in fine-tuning only.")
    )
    yield ""
    yield f"![Bits per byte and dialogues of five checkpoints]({CHECKPOINTS})"
    yield ""
    cells = [
        (
            row["step"] if row["step"] == MERGED else f"{row['step']:,}",
            *(f"{row['bits_per_byte'][name]:.3f}" for name in names),
            _share(row["dialogues"]["right_tool"]),
            _share(row["dialogues"]["exact_listed"]),
        )
        for row in rows
    ]
    head = ("step", *(f"{name}, bits/byte" for name in names), "right tool", "exact call (list)")
    yield from _table(head, cells)


def _wsm(card: Facts) -> Iterator[str]:
    report = card.get("wsm")
    if report is None:
        return
    best = chosen(report["merges"])
    last = report["last"]["loss"]
    run = f"An earlier run, of {report['run_date']}," if "run_date" in report else "The same run"
    yield "## Merge or decay"
    yield ""
    yield (
        f"{run} at a constant rate, its last checkpoints merged (WSM) over windows and "
        "intervals; and decays that were really trained from the same checkpoints, on the same "
        f"rows, all to step {report['step']:,}. Held-out loss is the mean of the parts by their "
        f"weight in the mixture, {report['rows'] // 2} rows of each; the last checkpoint has "
        f"{last:.4f}. The merge was chosen on as many other rows."
    )
    yield ""
    yield f"![Held-out loss over window and interval, and of decays]({WSM})"
    yield ""
    rows = [
        (f"merge of {best['count']}, every {best['interval']} steps, {best['schedule']}", best),
        *(
            (f"decay over {row['window']:,} steps ({report['shape']})", row)
            for row in report["decays"]
        ),
    ]
    yield from _table(
        ("at the same step", "window", "held-out loss", "less than the last checkpoint"),
        [(what, r["window"], f"{r['loss']:.4f}", f"{last - r['loss']:+.4f}") for what, r in rows],
    )
    yield ""
    yield from _code("bash", ["python benchmarks/wsm.py OUT/pretrain WSM"])


def _questions(card: Facts) -> Iterator[str]:
    yield "## Twenty free questions"
    yield ""
    yield (
        "Written before the model was there (`src/ling/nano/questions.py`), answered greedily, "
        "printed as they came. Some, such as who it is, it was trained on."
    )
    yield ""
    for answer in card["questions"]:
        said = answer["said"] if answer["stopped"] else answer["said"] + " […]"
        yield from _code("text", [f"> {answer['asked']}", said])
        yield ""


def _missed(card: Facts) -> Iterator[str]:
    yield "## Where it failed"
    yield ""
    yield (
        "The first held-out turns of the repertoire that were not as the record has them, one of "
        "each kind in turn."
    )
    yield ""
    for turn in card["dialogues"]["missed"]:
        said = (("> ", "asked"), ("said:   ", "said"), ("record: ", "wanted"))
        lines = [who + _cut(turn[key]) for who, key in said]
        yield f"{turn['kind']}:"
        yield ""
        yield from _code("text", lines)
        yield ""


# ---- cells -------------------------------------------------------------------------------------


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[:_LONGEST] + " […]"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _bpb(bits: Facts) -> str:
    value = bits.get("bits_per_byte")
    return "–" if value is None else f"{value:.3f}"


def _mb(nbytes: int) -> str:
    return f"{nbytes / 1e6:.1f} MB"


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(html.escape(str(cell)).replace("|", "\\|") for cell in row) + " |"


def _code(language: str, lines: Sequence[str]) -> Iterator[str]:
    """A block that no line of it can end."""
    text = "\n".join(lines)
    fence = "```"
    while fence in text:
        fence += "`"
    yield f"{fence}{language}"
    yield text
    yield fence
