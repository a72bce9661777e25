"""Our scorers as a model of lm-eval; imported only where that is installed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from lm_eval.api.model import TemplateLM

from ..scorer import Ask, Messages, Row, Scorer, cut, rolling

DEFAULT_MAX_TOKENS = 256
"""Of answers whose task does not say; lm-eval's own default."""


class ChatText(str):
    """A rendered conversation that remembers its messages: servers render them themselves.

    The text is that of JSON where the template is not known here.
    """

    messages: Messages
    is_rendered: bool

    @classmethod
    def of(cls, scorer: Scorer, messages: Messages, *, opens_turn: bool) -> ChatText:
        """Without `opens_turn` the last message, the assistant's, is continued."""
        before, begun = (messages, "") if opens_turn else (messages[:-1], messages[-1]["content"])
        known = scorer.has_template
        text = cls(scorer.render(before) + begun if known else json.dumps(messages))
        text.messages, text.is_rendered = messages, known
        return text


class HarnessModel(TemplateLM):
    """`LM` of lm-eval over a scorer."""

    def __init__(self, scorer: Scorer) -> None:
        super().__init__()
        self._scorer = scorer

    @property
    def eot_token_id(self) -> int:
        return self._scorer.end_id

    @property
    def max_length(self) -> int:
        return self._scorer.max_length

    @property
    def tokenizer_name(self) -> str:
        return "ling"

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        # As transformers reads texts: what is spelt like a control token is one.
        return self._scorer.encode(string, special=True)

    def apply_chat_template(
        self, chat_history: Messages, add_generation_prompt: bool = True
    ) -> str:
        return ChatText.of(self._scorer, chat_history, opens_turn=add_generation_prompt)

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        if isinstance(context, ChatText) and not context.is_rendered:
            self._scorer.render(context.messages)  # raises: scores need the template's text
        return super()._encode_pair(context, continuation)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        found = self._scorer.score([Row(c, n) for _, c, n in requests])
        return [(one.logprob, one.is_greedy) for one in found]

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        rows, counts = list[Row](), list[int]()
        for request in requests:
            ids = self.tok_encode(request.args[0])
            new = list(rolling(ids, self.eot_token_id, self.max_length))
            rows, counts = rows + new, [*counts, len(new)]
        scores = iter(self._scorer.score(rows))
        return [sum(next(scores).logprob for _ in range(n)) for n in counts]

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        asks, seen = [], Counter[str]()
        for request in requests:
            context, options = request.args
            ask = asked_for(context, options, seen[f"{context}\0{options}"])
            seen[f"{context}\0{options}"] += 1
            asks.append(ask)
        return [cut(t, a.stop) for t, a in zip(self._scorer.generate(asks), asks, strict=True)]


def asked_for(context: str, options: dict[str, Any], sample: int = 0) -> Ask:
    """A request of lm-eval as ours; its options are those of transformers' `generate`."""
    until = options.get("until") or ()
    stop = (until,) if isinstance(until, str) else tuple(word for word in until if word)
    temperature = float(options.get("temperature") or 0.0)
    if not options.get("do_sample", temperature > 0):
        temperature = 0.0
    limit = options.get("max_gen_toks") or options.get("max_new_tokens") or DEFAULT_MAX_TOKENS
    prompt: str | Messages = str(context)
    if isinstance(context, ChatText) and not context.is_rendered:  # the server renders it
        prompt = context.messages
    return Ask(
        prompt,
        int(limit),
        stop,
        temperature,
        float(options.get("top_p") or 1.0),
        sample,
    )
