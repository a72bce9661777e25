"""A real `ling.LLM` whose model says what a test tells it to, token by token.

Tokenizer, template, engine, drafts, masks, cache and server are the real ones; only the network is
not: its "keys and values" are the tokens themselves, and its scores point at the next token of the
answer. Where a mask forbids that token, it continues as a model would that has lost its thread.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from ling import LLM
from ling.data.tokenizer import Tokenizer, train_tokenizer
from ling.infer.drafting import Drafter
from ling.infer.pages import PAGE
from ling.infer.runner import RunnerBase
from ling.infer.sampler import choose
from ling.presets import preset

TEXTS = [
    '<think>\nweather in Paris\n</think>\n\n<tool_call>\n{"name": "get_weather", "arguments": '
    '{"city": "Paris", "unit": "celsius"}}\n</tool_call><tool_response>',
    "The weather in Paris is sunny. Grüße, 世界 ☃! detailed thinking on off # Tools <tools>",
]
SURE, LIKELY = 100.0, 20.0
"""Scores of the next token of the script, and of what ends a value where there is none."""

Say = str | Callable[[str], str]
"""The answer, or a function from the text of the prompt to it."""


def small_tokenizer() -> Tokenizer:
    """Bytes, some merges, Ling's control tokens and its template."""
    return train_tokenizer(TEXTS * 4, 400)


@dataclass(eq=False)
class Node:
    """A token after all that come before it; every sequence that was seen is a path of them."""

    token: int
    parent: Node | None
    children: dict[int, Node] = field(default_factory=dict)
    answer: bytes | None = None
    """What is to be said after the prompt that ends here."""
    number: int = 0


class ScriptedRunner(RunnerBase):
    """The seam that the engine has for models. Hidden states are numbers of nodes."""

    mapped_bytes, max_step_tokens, draft_vocab, weights_id = 0, 512, 0, ""

    def __init__(self, tokenizer: Tokenizer, context: int, num_drafts: int = 0) -> None:
        shape = preset("ling-tiny")
        self.config = replace(
            shape,
            vocab_size=tokenizer.vocab_size,
            max_position_embeddings=context,
            num_nextn_predict_layers=min(num_drafts, 1),
            eos_token_id=tokenizer.stop_token_ids[0],
        )
        self._tokenizer, self._root = tokenizer, Node(-1, None)
        self._nodes = [self._root]
        self._closers = [i for i in range(tokenizer.vocab_size) if self._closes(i)]
        self._stop = tokenizer.stop_token_ids[0]

    def _closes(self, token: int) -> bool:
        data = self._tokenizer.token_bytes(token)
        return bool(data) and all(b in b'"}]:,0' for b in data)

    def expect(self, prompt: Sequence[int], answer: str) -> None:
        """Say `answer` after this prompt."""
        node = self._root
        for token in prompt:
            node = self._child(node, token)
        node.answer = answer.encode()

    def _child(self, node: Node, token: int) -> Node:
        if token not in node.children:
            child = node.children[token] = Node(token, node, number=len(self._nodes))
            self._nodes.append(child)
        return node.children[token]

    # ---- the engine's side ---------------------------------------------------------------------

    def page_bytes(self) -> int:
        return PAGE * 8

    def default_pages(self, positions: int) -> int:
        return 16 * -(-positions // PAGE)

    def allocate(self, num_pages: int) -> None:
        self._pages = torch.zeros(num_pages, PAGE, dtype=torch.int64)

    def page(self, number: int) -> list[Tensor]:
        return [self._pages[number]]

    def clear_mtp(self, number: int) -> None:
        pass  # its layer keeps nothing

    def numerics(self) -> str:
        return "scripted"

    def trace_experts(self, routing) -> None:
        pass

    def step_done(self) -> None:
        pass

    def forward(self, tokens, segments) -> Tensor:
        hidden = torch.zeros(len(tokens), 1, dtype=torch.float64)
        for s in segments:
            node = self._root
            if s.first:
                before = s.first - 1
                node = self._nodes[self._pages[s.pages[before // PAGE], before % PAGE]]
            for row in range(s.start, s.stop):
                node = self._child(node, tokens[row])
                at = s.first + row - s.start
                self._pages[s.pages[at // PAGE], at % PAGE] = hidden[row, 0] = node.number
        return hidden

    def mtp(self, j, next_tokens, hidden, segments) -> Tensor:
        pairs = zip(hidden[:, 0].tolist(), next_tokens, strict=True)
        numbers = [self._child(self._nodes[int(n)], t).number for n, t in pairs]
        return torch.tensor(numbers, dtype=torch.float64)[:, None]

    def logits(self, hidden: Tensor, vocab: int = 0) -> Tensor:
        rows = [self._scores(self._nodes[int(n)]) for n in hidden[:, 0].tolist()]
        return torch.from_numpy(np.stack(rows))[:, : vocab or None]

    def choose(self, scores: Tensor, choices):
        rows = zip(scores.numpy(), choices, strict=True)
        return [choose(row, choice, self.banned_ids) for row, choice in rows]

    # ---- the script ----------------------------------------------------------------------------

    def _scores(self, node: Node) -> np.ndarray:
        scores = np.random.default_rng(node.number).random(self.config.vocab_size, np.float32)
        scores[self._closers] += LIKELY
        scores[self._next(node)] = SURE
        return scores

    def _next(self, node: Node) -> int:
        """The next token of the script; the end of the turn where it is over, or left."""
        said: list[int] = []
        at: Node | None = node
        while at is not None and at.answer is None:
            said.append(at.token)
            at = at.parent
        if at is None or at.answer is None:
            return self._stop
        text = b"".join(self._tokenizer.token_bytes(i) for i in reversed(said))
        rest = at.answer[len(text) :]
        if not rest or not at.answer.startswith(text):
            return self._stop
        return self._first(rest)

    def _first(self, rest: bytes) -> int:
        text = rest.decode("utf-8", "ignore")
        token = self._tokenizer.encode(text, parse_special=True)[0] if text else -1
        if rest.startswith(self._tokenizer.token_bytes(token) or b"\0"):
            return token
        # Within a character, of which only part has been said.
        ids = range(self.config.vocab_size)
        return max((i for i in ids if self._tokenizer.token_bytes(i) == rest[:1]), key=lambda i: -i)


class ScriptedLLM(LLM):
    """Says `say` after every prompt; it can be changed between requests.

    With `num_drafts` several tokens come in one step, as with MTP.
    """

    def __init__(
        self,
        say: Say = "",
        tokenizer: Tokenizer | None = None,
        *,
        num_drafts: int = 0,
        context: int = 2048,
        **options,
    ) -> None:
        tokenizer = tokenizer or small_tokenizer()
        self.say = say
        self.runner = ScriptedRunner(tokenizer, context, num_drafts)
        options = {"speculative": "mtp" if num_drafts else "off", **options}
        if num_drafts:
            options["num_drafts"] = num_drafts
        with tempfile.TemporaryDirectory() as folder:
            tokenizer.save(folder)
            with mock.patch("ling.llm.open_runner", return_value=self.runner):
                super().__init__(Path(folder), num_pages=256, **options)
        if num_drafts:  # always drafts, whatever it costs
            stops = self.engine.stop_token_ids
            self.engine.drafter = Drafter(
                num_drafts, False, stops, uses_mtp=True, uses_ngrams=False
            )

    def submit(self, submissions):
        for s in submissions:
            text = self.tokenizer.decode(s.token_ids, skip_special_tokens=False)
            answer = self.say if isinstance(self.say, str) else self.say(text)
            self.runner.expect(s.token_ids, answer)
        return super().submit(submissions)
