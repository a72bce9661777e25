"""A model of the transformers library as a scorer: for models of others, and to compare ours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from ...data.tokenizer_vocab import EOD
from ...errors import UsageError
from ...text import first_line
from ..scorer import Ask, Messages, Row, Scored, cut, fitted, with_room

BATCH_TOKENS = 4096
"""Tokens of rows that are computed together, padding included."""


class TransformersScorer:
    """A `Scorer` over `AutoModelForCausalLM`; no code of the model's folder is run."""

    has_template = True

    def __init__(self, model: str | Path, *, dtype: str = "auto", device: str = "cpu") -> None:
        try:
            from transformers import AutoModelForCausalLM, AutoTokenizer
        except ImportError:
            raise UsageError(
                "`--scorer transformers` needs transformers: pip install 'ling[hf]'"
            ) from None
        try:
            # Of a folder only data: neither its code nor pickled weights.
            loaded = AutoModelForCausalLM.from_pretrained(
                model, dtype=dtype, use_safetensors=True, trust_remote_code=False
            )
            self._tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
        except (OSError, ValueError) as err:
            raise UsageError(f"{model}: transformers cannot load it: {first_line(err)}") from None
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model: Any = loaded.to(device).eval()
        self._device = device
        self.max_length = int(self._model.config.max_position_embeddings)
        # Of a chat model `eos_token` ends a turn; texts begin behind what ends documents, as with
        # our engine.
        end = self._tokenizer.get_vocab().get(EOD, self._tokenizer.eos_token_id)
        if end is None:
            raise UsageError(f"{model}: the tokenizer has no `eos_token`")
        self.end_id = int(end)

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        return self._tokenizer.encode(
            text, add_special_tokens=False, split_special_tokens=not special
        )

    def render(self, messages: Messages) -> str:
        return self._tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )

    @torch.no_grad()
    def score(self, rows: Sequence[Row]) -> list[Scored]:
        fit = [fitted(row, self.max_length) for row in rows]
        found: dict[int, Scored] = {}
        for batch in _batches(fit):
            wholes = [fit[i].context + fit[i].continuation for i in batch]
            width = max(map(len, wholes)) - 1
            ids = torch.tensor([w[:-1] + [self.end_id] * (width - len(w) + 1) for w in wholes])
            mask = torch.tensor([[k < len(w) - 1 for k in range(width)] for w in wholes]).long()
            scores = self._model(
                input_ids=ids.to(self._device), attention_mask=mask.to(self._device)
            ).logits
            for i, whole, own in zip(batch, wholes, scores, strict=True):
                wanted = torch.tensor(fit[i].continuation, device=own.device)
                tail = own[len(fit[i].context) - 1 : len(whole) - 1]
                nats = F.cross_entropy(tail.float(), wanted, reduction="none")
                is_greedy = bool((tail.argmax(-1) == wanted).all())
                found[i] = Scored(-float(nats.double().sum()), is_greedy)
        return [found[i] for i in range(len(rows))]

    @torch.no_grad()
    def generate(self, asks: Sequence[Ask]) -> list[str]:
        return [self._generate(ask) for ask in asks]

    def _generate(self, ask: Ask) -> str:
        text = ask.prompt if isinstance(ask.prompt, str) else self.render(ask.prompt)
        ids = self.encode(text, special=True) or [self.end_id]
        ids, room = with_room(ids, ask.max_tokens, self.max_length)
        options: dict[str, Any] = {
            "max_new_tokens": room,
            "do_sample": ask.temperature > 0,
            "pad_token_id": self.end_id,
        }
        if ask.temperature > 0:
            options |= {"temperature": ask.temperature, "top_p": ask.top_p}
            torch.manual_seed(ask.sample)
        if ask.stop:
            options |= {"stop_strings": list(ask.stop), "tokenizer": self._tokenizer}
        prompt = torch.tensor([ids], device=self._device)
        out = self._model.generate(prompt, attention_mask=torch.ones_like(prompt), **options)
        said = self._tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True)
        return cut(said, ask.stop)

    def close(self) -> None:
        self._model = None


def _batches(rows: Sequence[Row]) -> list[list[int]]:
    """Numbers of the rows, those of about equal lengths together."""
    lengths = [len(row.context) + len(row.continuation) for row in rows]
    batches: list[list[int]] = []
    for i in sorted(range(len(rows)), key=lambda i: (-lengths[i], i)):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= BATCH_TOKENS:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches
