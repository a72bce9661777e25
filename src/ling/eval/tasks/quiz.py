"""A file of questions as a task: choices by their likelihood, other answers by generation."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...errors import DataError
from ..kept import Kept
from ..scorer import Ask, Messages, Row, pair
from ..scorers.choose import Subject
from .answers import extracted, same_number, same_text, same_value
from .files import file_id
from .questions import (
    LETTERS,
    Kind,
    Question,
    QuizSettings,
    read_questions,
    read_settings,
)
from .task import Outcome, TaskOptions

PROMPTS: dict[Kind, str] = {
    "choice": "Question: {question}\n{choices}\nAnswer:",
    "number": "Question: {question}\nAnswer:",
    "text": "Question: {question}\nAnswer:",
    "value": "Question: {question}\nAnswer:",
}
CHAT_PROMPTS: dict[Kind, str] = {
    "choice": "{question}\n{choices}\nAnswer with the letter alone.",
    "number": "{question}\n\nReason step by step, and put the final answer in \\boxed{}.",
    "text": "{question}\n\nReason step by step, and put the final answer in \\boxed{}.",
    "value": "{question}\n\nReason step by step, and put the value, as Python writes it, in "
    "\\boxed{}.",
}
_SAME: dict[Kind, Callable[[str, str], bool]] = {
    "number": same_number,
    "text": same_text,
    "value": same_value,
}
# Where a model that only continues texts would go on with a question of its own.
STOP = ("\nQuestion:",)
_PLACE = re.compile(r"\{(\w+)\}")


class Quiz:
    """The questions of `path`."""

    def __init__(
        self, name: str, path: Path, options: TaskOptions, defaults: QuizSettings | None = None
    ) -> None:
        self.name, self._path, self._options = name, path, options
        beside = path.with_name(f"{name}.yaml")
        settings = read_settings(beside, defaults or QuizSettings())
        if options.num_fewshot is not None:
            try:
                settings = dataclasses.replace(settings, examples=options.num_fewshot)
            except ValueError as err:
                raise DataError(f"`--num-fewshot`: {err}", path=beside) from None
        self._settings = settings
        # Now, so that what is wrong is said before any task of any model runs.
        self._asked = read_questions(path, settings, options.limit)
        self._form = Form(settings, self._asked.kind, options.chat, self._examples())

    def _examples(self) -> Sequence[Question]:
        """Those that are shown: where the one that is asked is among them, one more is read."""
        settings, asked = self._settings, self._asked
        if not settings.examples:
            return ()
        path = self._examples_path
        found = read_questions(path, settings)
        if (found.kind == "choice") != (asked.kind == "choice"):
            raise DataError(f"its questions are not of the kind `{asked.kind}`", path=path)
        different = list(dict.fromkeys(found.questions))[: settings.examples + 1]
        needed = settings.examples + any(q in asked.questions for q in different)
        if len(different) < needed:
            raise DataError(
                f"{len(different)} different questions for {settings.examples} examples, none of "
                "which is the one that is asked",
                path=path,
            )
        return different

    def settings(self) -> dict[str, Any]:
        found = dataclasses.asdict(self._settings)
        files = [self._path, *([self._examples_path] if self._settings.examples else [])]
        return {
            "task": self.name,
            "limit": self._options.limit,
            "chat": self._options.chat,
            "questions": found | {"stop": list(self._settings.stop)},
            "data": [file_id(path) for path in files],
        }

    @property
    def _examples_path(self) -> Path:
        return self._path.parent / self._settings.examples_file

    def run(self, subject: Subject, scorer: Kept) -> Outcome:
        asked = self._asked
        measure = _choices if asked.kind == "choice" else _generated
        metrics, headline = measure(scorer, self._form, asked.questions)
        count = len(asked.questions)
        details = {"left_out": asked.left_out, "kind": asked.kind}
        return Outcome(metrics, headline, count=count, details=details)


class Form:
    """How the questions of a file are put."""

    def __init__(
        self, settings: QuizSettings, kind: Kind, chat: bool, examples: Sequence[Question] = ()
    ) -> None:
        self.settings, self.kind, self.chat, self._examples = settings, kind, chat, examples
        self._text = settings.prompt or (CHAT_PROMPTS if chat else PROMPTS)[kind]
        self.by_letter = "{choices}" in self._text

    def prompt(self, question: Question) -> str | Messages:
        """What is asked: messages where it is a chat."""
        if not self.chat:
            shots = [f"{self._put(q)} {self._answer(q)}" for q in self._shown(question)]
            return "\n\n".join([*shots, self._put(question)])
        messages: Messages = []
        for q in self._shown(question):
            messages.append({"role": "user", "content": self._put(q)})
            messages.append({"role": "assistant", "content": self._answer(q)})
        return [*messages, {"role": "user", "content": self._put(question)}]

    def _shown(self, question: Question) -> list[Question]:
        """The examples, without the question itself and its answer."""
        return [q for q in self._examples if q != question][: self.settings.examples]

    def named(self, question: Question) -> Sequence[str]:
        """What tells the choices apart: their letters or themselves."""
        return LETTERS[: len(question.choices)] if self.by_letter else question.choices

    def choices(self, question: Question) -> list[str]:
        """The continuations that are compared."""
        return [choice if self.chat else f" {choice}" for choice in self.named(question)]

    def _put(self, question: Question) -> str:
        listed = "\n".join(f"{LETTERS[i]}. {c}" for i, c in enumerate(question.choices))
        texts = {**question.others, "question": question.text, "choices": listed}
        return _PLACE.sub(lambda m: texts.get(m[1], m[0]), self._text)

    def _answer(self, question: Question) -> str:
        return self.named(question)[question.right] if question.choices else question.answer


def _choices(scorer: Kept, form: Form, questions: Sequence[Question]) -> tuple[dict[str, Any], str]:
    rows: list[Row] = []
    for question in questions:
        prompt = form.prompt(question)
        if isinstance(prompt, str):
            rows += [pair(scorer, prompt, choice) for choice in form.choices(question)]
        else:
            before = scorer.encode(scorer.render(prompt), special=True)
            rows += [Row(before, scorer.encode(choice)) for choice in form.choices(question)]
    scores = iter(scorer.score(rows))
    right, right_norm = [], []
    for question in questions:
        logprobs = [next(scores).logprob for _ in question.choices]
        sizes = [len(choice.encode()) for choice in form.named(question)]
        by_byte = [p / n for p, n in zip(logprobs, sizes, strict=True)]
        right.append(_best(logprobs) == question.right)
        right_norm.append(_best(by_byte) == question.right)
    found = {**_mean("acc", right), **_mean("acc_norm", right_norm)}
    return found, "acc" if form.by_letter else "acc_norm"


def _generated(
    scorer: Kept, form: Form, questions: Sequence[Question]
) -> tuple[dict[str, Any], str]:
    settings = form.settings
    stop = settings.stop or (() if form.chat else STOP)
    asks = [
        Ask(form.prompt(q), settings.max_tokens, stop, settings.temperature, settings.top_p, k)
        for q in questions
        for k in range(settings.samples)
    ]
    said = iter(scorer.generate(asks))
    same = _SAME[form.kind]
    shares, answered = [], 0
    for question in questions:
        found = [extracted(next(said), settings.extract) for _ in range(settings.samples)]
        answered += sum(map(bool, found))
        shares.append(sum(same(one, question.answer) for one in found) / settings.samples)
    metrics = {**_mean("exact_match", shares), "answered": answered / len(asks)}
    return metrics, "exact_match"


def _best(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)


def _mean(name: str, values: Sequence[float]) -> dict[str, float]:
    """The mean with its standard error."""
    n = len(values)
    mean = sum(values) / n
    variance = sum((v - mean) ** 2 for v in values) / (n - 1) if n > 1 else 0.0
    return {name: mean, f"{name}_stderr": math.sqrt(variance / n)}
