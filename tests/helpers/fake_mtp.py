"""A model of MTP layers alone, whose drafts can be computed by hand, and requests in a step."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from ling.infer.pages import BlockTable
from ling.infer.request import Request, SamplingParams
from ling.infer.scheduler import ScheduledRequest


class FakeMtp:
    """Keeps what the MTP layers are asked for. Layer j answers a row with its token and j, and the
    best id after that is token + 100 · (j + 1)."""

    draft_vocab = 0

    def __init__(self, layers=1):
        self.config, self.calls = SimpleNamespace(num_nextn_predict_layers=layers), []

    def mtp(self, j, tokens, hidden, segments):
        self.calls.append((j, list(tokens), hidden[:, 0].tolist(), segments))
        return torch.tensor([[float(t), float(j)] for t in tokens])

    def logits(self, hidden, vocab):
        best = (hidden[:, 0] + 100 * (hidden[:, 1] + 1)).long().tolist()
        return torch.zeros(len(hidden), 1000), best

    def banned_ids(self):
        return None


def hidden_of(rows):
    """Rows that can be told apart: row i is i."""
    return torch.arange(rows).float()[:, None].expand(-1, 2)


def request(tokens, output=1, max_tokens=50, pages=(0,)):
    """A request whose last `output` tokens are generated."""
    made = Request(0, tokens[: len(tokens) - output], SamplingParams(temperature=0), 0, max_tokens)
    made.tokens = list(tokens)
    made.block_table = BlockTable(list(pages))
    return made


def scheduled(r, first, rows, start=0, num_drafts=0, reaches_end=True):
    """The request's rows in a step."""
    return ScheduledRequest(r, [0] * rows, first, num_drafts, reaches_end, start)
