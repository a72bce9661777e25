"""What `ling bench serve` sends: requests that a seed decides, and when each is sent."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ...errors import UsageError

BACKENDS = {"openai": "/completions", "openai-chat": "/chat/completions"}
DATASETS = ("random", "multi-turn")
_SYLLABLES = [c + v for c in "bcdfghjklmnprstvwz" for v in ("a", "e", "i", "o", "u", "an", "er")]


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """What is sent, how fast, and how often it is measured; names are those of `vllm bench serve`.

    Every combination of `request_rate` and `max_concurrency` is a point of the sweep.
    """

    model: str | None = None
    """The model's name in requests; None is the first that the server lists."""
    backend: str = "openai"
    dataset_name: str = "random"
    num_prompts: int = 32
    """Requests of a measurement; conversations with `multi-turn`."""
    random_input_len: int = 300
    """Tokens of a prompt; with `multi-turn` of each message."""
    random_output_len: int = 100
    random_range_ratio: float = 0.0
    """Lengths are uniform between (1 - ratio) and (1 + ratio) of these."""
    random_prefix_len: int = 0
    """Tokens that all prompts of a measurement begin with, besides `random_input_len`."""
    random_vocab_size: int | None = None
    """Prompts are token ids below it, of exact lengths; None sends text."""
    num_turns: int = 4
    request_rate: Sequence[float] = (math.inf,)
    """Requests per second; infinite sends each as soon as `max_concurrency` allows."""
    burstiness: float = 1.0
    """Shape of the gamma distribution of the time between requests; 1 is a Poisson process."""
    max_concurrency: Sequence[int | None] = (None,)
    sampling: Mapping[str, float] = field(default_factory=lambda: {"temperature": 0.0})
    stop_at_eos: bool = False
    """Answers may end before `random_output_len`; otherwise a shorter one is a fault."""
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    pairs: int = 1
    """Measurements of each point, in turn with the other server's."""
    num_warmups: int = 1
    background_input_len: int | None = None
    """Tokens of the prompts that one more client sends, one after the other, all the time."""
    probe: bool = False
    """Ask `/health` and `/tokenize` all the time, and report how long that takes."""
    timeout_s: float = 600.0

    def __post_init__(self) -> None:
        for name, known in (("backend", BACKENDS), ("dataset_name", DATASETS)):
            if getattr(self, name) not in known:
                raise UsageError(
                    f"`{name}` is `{getattr(self, name)}`, expected {' or '.join(known)}"
                )
        self._check_least(1, "num_prompts", "random_output_len", "random_input_len", "num_turns")
        self._check_least(1, "pairs", "background_input_len", "max_concurrency")
        self._check_least(0, "random_prefix_len", "num_warmups")
        self._check_least(2, "random_vocab_size")
        for name in ("request_rate", "burstiness", "timeout_s"):
            for number in _listed(getattr(self, name)):
                if not number > 0:
                    raise UsageError(f"`{name}` is {number}, expected more than 0")
        if not 0 <= self.random_range_ratio < 1:
            raise UsageError(
                f"`random_range_ratio` is {self.random_range_ratio}, expected 0 to less than 1"
            )
        self._check_together()

    def _check_least(self, least: int, *names: str) -> None:
        for name in names:
            for number in _listed(getattr(self, name)):
                if number is not None and number < least:
                    raise UsageError(f"`{name}` is {number}, expected at least {least}")

    def _check_together(self) -> None:
        if self.dataset_name == "multi-turn" and self.backend != "openai-chat":
            raise UsageError("`dataset_name` multi-turn needs `backend` openai-chat: it is a chat")
        if self.random_vocab_size is not None and self.backend != "openai":
            raise UsageError(
                "`random_vocab_size` needs `backend` openai: a chat takes no token ids"
            )

    @property
    def points(self) -> list[Point]:
        """The sweep, in the order in which it is measured."""
        return [Point(r, c) for r in self.request_rate for c in self.max_concurrency]


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, Sequence) else [value]


class Point(NamedTuple):
    """One setting of the sweep."""

    request_rate: float
    max_concurrency: int | None

    @property
    def words(self) -> str:
        """The setting for a table or an axis."""
        n = self.max_concurrency
        streams = None if n is None else f"{n} stream" if n == 1 else f"{n} streams"
        rate = None if math.isinf(self.request_rate) else f"{self.request_rate:g} requests/s"
        return ", ".join(filter(None, (streams, rate))) or "all at once"


class Turn(NamedTuple):
    """One request of a conversation: its new text or token ids, and the length of its answer."""

    content: str | list[int]
    output_len: int


class Conversation(NamedTuple):
    """Turns that are sent one after the other; `seed` is that of their sampling."""

    turns: list[Turn]
    seed: int


class Words(NamedTuple):
    """How many tokens a server makes of a text of made-up words: `fixed` + words × `each`."""

    fixed: float = 0.0
    each: float = 2.0

    def count(self, tokens: int) -> int:
        """Words of a text of about this many tokens."""
        return max(1, round((tokens - self.fixed) / self.each))


def conversations(options: LoadOptions, label: str, words: Words) -> list[Conversation]:
    """All requests of one measurement: a function of the seed and of `label` alone, so that two
    servers get the same and no two measurements share a prompt."""
    rng = random.Random(f"{options.seed}/{label}")
    prefix = _content(options, rng, options.random_prefix_len, words)
    turns = options.num_turns if options.dataset_name == "multi-turn" else 1
    return [
        Conversation(
            [_turn(options, rng, words, prefix if t == 0 else None) for t in range(turns)],
            rng.randrange(1 << 31),
        )
        for _ in range(options.num_prompts)
    ]


def _turn(
    options: LoadOptions, rng: random.Random, words: Words, prefix: str | list[int] | None
) -> Turn:
    content = _content(options, rng, _length(options, rng, options.random_input_len), words)
    if prefix:
        content = [*prefix, *content] if isinstance(content, list) else f"{prefix} {content}"
    return Turn(content, _length(options, rng, options.random_output_len))


def _length(options: LoadOptions, rng: random.Random, length: int) -> int:
    spread = int(length * options.random_range_ratio)
    return length + rng.randint(-spread, spread)


def _content(
    options: LoadOptions, rng: random.Random, tokens: int, words: Words
) -> str | list[int]:
    if options.random_vocab_size is not None:
        return [rng.randrange(options.random_vocab_size) for _ in range(tokens)]
    return text_of(rng, words.count(tokens)) if tokens else ""


def text_of(rng: random.Random, count: int) -> str:
    """Made-up words of one to three syllables."""
    return " ".join("".join(rng.choices(_SYLLABLES, k=rng.randint(1, 3))) for _ in range(count))


def background_turn(options: LoadOptions, label: str, words: Words) -> Turn:
    """A long prompt of the client beside the measured ones."""
    rng = random.Random(f"{options.seed}/{label}")
    assert options.background_input_len is not None
    return Turn(_content(options, rng, options.background_input_len, words), 1)


def arrivals(options: LoadOptions, rate: float, count: int, label: str) -> list[float]:
    """Seconds after the start at which each conversation may begin."""
    if math.isinf(rate):
        return [0.0] * count
    rng, now, out = random.Random(f"{options.seed}/{label}/arrivals"), 0.0, []
    for _ in range(count):
        out.append(now)
        now += rng.gammavariate(options.burstiness, 1 / (rate * options.burstiness))
    return out


def request_body(
    options: LoadOptions,
    model: str,
    turn: Turn,
    seed: int,
    history: Sequence[Mapping[str, str]] = (),
) -> dict[str, Any]:
    """The JSON of one streamed request; `history` are the messages before it."""
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": turn.output_len,
        "stream": True,
        "stream_options": {"include_usage": True},
        **options.sampling,
    }
    if options.sampling.get("temperature"):
        body["seed"] = seed
    if not options.stop_at_eos:
        body["ignore_eos"] = True
    if options.backend == "openai-chat":
        body["messages"] = [*history, {"role": "user", "content": turn.content}]
    else:
        body["prompt"] = turn.content
    return body | dict(options.extra_body)
