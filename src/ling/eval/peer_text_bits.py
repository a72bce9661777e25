"""Likelihood of texts under a GGUF file, by llama.cpp.

Needs only `llama-cpp-python` and what that needs, so it runs in a process (and an environment) of
its own:

    python src/ling/eval/peer_text_bits.py model.gguf < asked.jsonl

A line of standard input is `{"text": TEXT}`, scored behind the mark of a document's beginning, or
`{"messages": [...], "text": TEXT}`, scored as the assistant's words behind these messages in the
chat template of the file. Each is answered with a line `{"nats": ..., "tokens": ...}`; the first
line printed describes the model. `text_bits.py` asks for the same of our own.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

import llama_cpp
import numpy as np
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

CONTEXT = 4096
# What parts documents in training, where the file has it; else its mark of a beginning.
DOCUMENT_END = "<|endoftext|>"


class Scorer:
    """A GGUF file that scores texts."""

    def __init__(self, path: str, threads: int) -> None:
        self.model = llama_cpp.Llama(
            path,
            n_ctx=CONTEXT,
            n_batch=512,
            n_threads=threads,
            n_threads_batch=threads,
            logits_all=True,
            verbose=False,
        )
        self.begin = self._begin()
        template = self.model.metadata.get("tokenizer.chat_template")
        self.chat = template and Jinja2ChatFormatter(
            template,
            eos_token=self._name(self.model.token_eos()),
            bos_token=self._name(self.model.token_bos()),
        )

    def _name(self, token: int) -> str:
        return self.model.detokenize([token], special=True).decode()

    def _begin(self) -> int:
        ids = self._ids(DOCUMENT_END, special=True)
        return ids[0] if len(ids) == 1 else self.model.token_bos()

    def _ids(self, text: str, *, special: bool = False) -> list[int]:
        return self.model.tokenize(text.encode(), add_bos=False, special=special)

    def score(self, text: str, messages: list[dict[str, Any]] | None = None) -> dict[str, Any]:
        """Nats of all tokens of the text, and how many they are."""
        before = (
            [self.begin] if messages is None else self._ids(self._asked(messages), special=True)
        )
        ids = self._ids(text)
        self.model.reset()
        self.model.eval(before + ids)
        rows = self.model.scores[len(before) - 1 : len(before) + len(ids) - 1].astype(np.float64)
        top = rows.max(axis=1, keepdims=True)
        total = np.log(np.exp(rows - top).sum(axis=1)) + top[:, 0]
        nats = total - rows[np.arange(len(ids)), ids]
        return {"nats": float(nats.sum()), "tokens": len(ids)}

    def _asked(self, messages: list[dict[str, Any]]) -> str:
        if not self.chat:
            raise SystemExit("this GGUF file has no chat template")
        return self.chat(messages=messages).prompt

    def facts(self) -> dict[str, Any]:
        """What was loaded."""
        return {
            "name": self.model.metadata.get("general.name"),
            "parameters": llama_cpp.llama_model_n_params(self.model.model),
            "bytes": os.path.getsize(self.model.model_path),
            "llama_cpp": llama_cpp.__version__,
        }


def main() -> None:
    """Answer what standard input asks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", help="GGUF file")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    scorer = Scorer(args.model, args.threads)
    print(json.dumps(scorer.facts()), flush=True)
    for line in sys.stdin:
        print(json.dumps(scorer.score(**json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
