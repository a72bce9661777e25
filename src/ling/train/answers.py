"""Held-out prompts that a model answers while it is fine-tuned: in the log and `samples.jsonl`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from ..config.sft import SFTConfig
from ..data.chat import encode_chat
from ..data.conversations.template import open_template
from ..data.tokenizer import Tokenizer
from ..data.tokenizer_vocab import END_OF_TURN
from ..files.atomic import write_atomic
from ..text import one_line
from .after_held_out import Verdict
from .chat_rows import ChatRows
from .greedy import answer
from .heldout import HeldOut
from .log import SAMPLES, each_row

if TYPE_CHECKING:
    from ..data.conversations.rendered import TrainingTemplate
    from .setup import Run
    from .state import TrainState

_SHOWN = 200


class Prompt(NamedTuple):
    """A held-out conversation up to an answer, as ids, and the text of that answer."""

    messages: Sequence[dict[str, Any]]
    ids: list[int]
    expected: str


class ShowAnswers:
    """Lets the model answer held-out prompts greedily, always the same ones."""

    def __init__(self) -> None:
        self._prompts: list[Prompt] | None = None

    def __call__(self, run: Run, held_out: HeldOut) -> Verdict:
        recipe, state, tokenizer = run.recipe, run.state, run.state.tokenizer
        if not isinstance(recipe, SFTConfig) or tokenizer is None:
            return Verdict()
        if self._prompts is None:
            self._prompts = state.world.together(lambda: _prompts(run, recipe, tokenizer))
        found = [_answer(state, prompt, recipe.train.show_tokens) for prompt in self._prompts]
        rows = [
            {"step": state.step, "valid_loss": held_out.loss, **_row(prompt, ids, tokenizer)}
            for prompt, ids in zip(self._prompts, found, strict=True)
        ]
        if rows:
            state.world.lead(lambda: _write(run.out / SAMPLES, rows, run.log))
        return Verdict()


# ---- prompts -----------------------------------------------------------------------------------


def _prompts(run: Run, recipe: SFTConfig, tokenizer: Tokenizer) -> list[Prompt]:
    """Those that leave room for an answer; none where ranks share the layers or tokens of a row."""
    count, cfg = recipe.train.show_samples, run.state.model.config
    if not count or not isinstance(run.rows, ChatRows):
        return []
    if recipe.parallel.cp > 1 or recipe.parallel.pp > 1:
        run.log("no answers are shown: `parallel.cp` and `parallel.pp` spread a prompt over ranks")
        return []
    template = open_template(recipe.data.template, tokenizer)
    found = [
        _prompt(template, tokenizer, *given, thinking=recipe.data.thinking)
        for given in run.rows.data.prompts(count)
    ]
    return [p for p in found if len(p.ids) < cfg.max_position_embeddings]


def _prompt(
    template: TrainingTemplate,
    tokenizer: Tokenizer,
    messages: Sequence[dict[str, Any]],
    tools: Any,
    expected: dict[str, Any],
    *,
    thinking: bool,
) -> Prompt:
    variables = {"enable_thinking": True} if thinking else {}
    text, ids = encode_chat(template.render, tokenizer, messages, tools, True, **variables)
    whole = template.render([*messages, expected], tools, False, **variables)
    # A template may show an answer otherwise than it begins one.
    said = whole.removeprefix(text) if whole.startswith(text) else expected.get("content") or ""
    return Prompt(messages, ids, said)


# ---- answers -----------------------------------------------------------------------------------


def _answer(state: TrainState, prompt: Prompt, most: int) -> list[int]:
    cfg, tokenizer = state.model.config, state.tokenizer
    assert tokenizer is not None
    valid = torch.from_numpy(tokenizer.valid_ids_mask(cfg.vocab_size)).to(state.device)
    return answer(
        state.network,
        prompt.ids,
        max_tokens=min(most, cfg.max_position_embeddings - len(prompt.ids)),
        stop_ids=stop_ids(tokenizer),
        valid_V=valid,
        agree=lambda token: state.world.gather(token)[0],
    )


def stop_ids(tokenizer: Tokenizer) -> set[int]:
    """Where a server would stop."""
    end = tokenizer.token_to_id(END_OF_TURN)
    return {*tokenizer.stop_token_ids, *([] if end is None else [end])}


def _row(prompt: Prompt, ids: list[int], tokenizer: Tokenizer) -> dict[str, Any]:
    """An answer with its end mark, which shows whether the model knows where to stop."""
    return {
        "messages": list(prompt.messages),
        "expected": prompt.expected,
        "answer": tokenizer.decode(ids, skip_special_tokens=False),
        "tokens": len(ids),
        "stopped": bool(ids) and ids[-1] in stop_ids(tokenizer),
    }


# ---- the file ----------------------------------------------------------------------------------


def _forget(path: Path, step: int) -> None:
    """Steps from `step` on are done again: what was answered then goes."""
    if path.exists():
        kept = [row for row in each_row(path) if row["step"] < step]
        write_atomic(path, (json.dumps(row) + "\n" for row in kept))


def _write(path: Path, rows: Sequence[dict[str, Any]], log: Callable[[str], None]) -> None:
    _forget(path, rows[0]["step"])
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    for row in rows:
        asked = row["messages"][-1].get("content") or ""
        log(f"step {row['step']}, held-out prompt: {_short(asked)}")
        log(f"  answer:   {_short(row['answer'])}")
        log(f"  expected: {_short(row['expected'])}")


def _short(text: object) -> str:
    """A text in one line of a terminal, whatever it is."""
    line = one_line(text if isinstance(text, str) else json.dumps(text, ensure_ascii=False))
    return line if len(line) <= _SHOWN else line[:_SHOWN] + "..."
