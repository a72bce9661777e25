"""A scorer whose scores and answers a test decides."""

from __future__ import annotations


class ScriptedScorer:
    """Tokens are bytes; `likes` gives the log-probability of a continuation's text, `says` the
    answer to a prompt. `asked` counts requests; with `fail_after` more of them are an error."""

    end_id, has_template = 0, True

    def __init__(self, likes=lambda text: -1.0, says=lambda ask: "", *, max_length=4096):
        self.likes, self.says, self.max_length = likes, says, max_length
        self.asked, self.fail_after = 0, None
        self.rows, self.asks = [], []

    def encode(self, text, *, special=False):
        return list(text.encode())

    def render(self, messages):
        return "".join(f"<{m['role']}>{m['content']}" for m in messages) + "<assistant>"

    def _count(self, items):
        self.asked += len(items)
        if self.fail_after is not None and self.asked > self.fail_after:
            raise KeyboardInterrupt

    def score(self, rows):
        from ling.eval.scorer import Scored

        self._count(rows)
        self.rows += rows
        texts = [bytes(row.continuation).decode() for row in rows]
        return [Scored(self.likes(text), False) for text in texts]

    def generate(self, asks):
        self._count(asks)
        self.asks += asks
        return [self.says(ask) for ask in asks]

    def close(self):
        pass
