"""Files of questions: one JSON object a line, and beside them, where the defaults are not wanted, a
YAML file of the same name that says how they are asked.

    {"question": "2 + 3 =", "answer": "5"}
    {"question": "Which is a fruit?", "choices": ["stone", "apple"], "answer": 1}

docs/guides/evaluation.md describes both.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from ...data.records import Record, read_json_records
from ...errors import DataError, UsageError
from ...files.guarded import read_regular
from ...text import as_json, nearest, one_line, shown
from ..code.sandbox import Limits
from .answers import number_of

Kind = Literal["choice", "number", "text", "value"]
KINDS: tuple[Kind, ...] = ("choice", "number", "text", "value")
MAX_SETTINGS_BYTES = 1 << 20
_LIMITS = Limits()
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, kw_only=True)
class QuizSettings:
    """How questions are asked and answers are read; the keys of the YAML file."""

    question: str = "question"
    """Key of the question in a record."""
    answer: str = "answer"
    """Key of the answer: text or number; of choices the number from 0, the letter or the text."""
    choices: str = "choices"
    """Key of the list of choices."""
    skip_if: str = ""
    """Leave records out in which this key has a value, such as an image."""
    kind: str = ""
    """choice, number, text or value (of Python); empty is what the records look like."""
    prompt: str = ""
    """The text that is asked, with `{question}`, `{choices}` (a line each, behind a letter) and
    `{KEY}` for any other text of the record; empty is the kind's own. The letters are scored where
    it has `{choices}`, else the choices themselves."""
    examples: int = 0
    """Records of `examples_file` that are asked and answered before each question."""
    examples_file: str = ""
    """A file of questions in the same folder."""
    max_tokens: int = 1024
    """Tokens of an answer at most."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer."""
    extract: str = ""
    """Regular expression whose last match, or the first group of it, is the answer."""
    samples: int = 1
    """Answers to each question; the share that is right is averaged."""
    temperature: float = 0.0
    """0 is greedy; several samples need more."""
    top_p: float = 1.0
    wall_s: float = _LIMITS.wall_s
    """Seconds that a program may take with its tests, where the answers are programs."""
    memory_bytes: int = _LIMITS.memory_bytes
    """What it may use of memory."""

    def __post_init__(self) -> None:
        if self.kind and self.kind not in KINDS:
            raise ValueError(f"`kind` is {shown(self.kind)}, expected {', '.join(KINDS)}")
        if self.prompt and not {"{question}", f"{{{self.question}}}"} & set(_places(self.prompt)):
            raise ValueError("`prompt` has no {question}")
        if self.samples < 1 or self.max_tokens < 1 or self.examples < 0:
            raise ValueError("`samples` and `max_tokens` are at least 1, `examples` at least 0")
        if self.samples > 1 and self.temperature <= 0:
            raise ValueError("several `samples` need a `temperature` above 0")
        if self.examples and not self.examples_file:
            raise ValueError("`examples` need an `examples_file`")
        Limits(wall_s=self.wall_s, memory_bytes=self.memory_bytes)
        try:
            re.compile(self.extract)
        except re.error as err:
            raise ValueError(f"`extract` is no regular expression ({err})") from None


@dataclass(frozen=True)
class Question:
    """One of a file; `answer` is the number of the right choice where there are `choices`."""

    text: str
    answer: str
    choices: tuple[str, ...] = ()
    others: Mapping[str, str] = field(default_factory=dict, compare=False)
    """All texts of the record by their keys."""

    @property
    def right(self) -> int:
        """Which choice is right."""
        return int(self.answer)


@dataclass(frozen=True)
class Questions:
    """What a file has, and how many records were left out."""

    questions: tuple[Question, ...]
    kind: Kind
    left_out: int


def _places(text: str) -> list[str]:
    return re.findall(r"\{\w+\}", text)


def read_settings(path: Path, defaults: QuizSettings) -> QuizSettings:
    """The settings in a YAML file over the `defaults`, which are returned where there is no file.

    Raises `DataError` naming what is wrong."""
    if not path.is_file():
        return defaults
    try:
        given = yaml.safe_load(read_regular(path, MAX_SETTINGS_BYTES)) or {}
    except (OSError, yaml.YAMLError, ValueError) as err:
        raise DataError(one_line(str(err)), path=path) from None
    if not isinstance(given, dict):
        raise DataError("expected keys and values", path=path)
    fields = {f.name: f for f in dataclasses.fields(QuizSettings)}
    for key, value in given.items():
        if key not in fields:
            raise DataError(f"no key {shown(key)}{nearest(str(key), list(fields))}", path=path)
        if key == "stop":
            value = given[key] = tuple(value) if isinstance(value, list) else (value,)
            wrong = not all(isinstance(v, str) and v for v in value)
        else:
            wanted = type(fields[key].default)
            wrong = type(value) is not wanted and not (wanted is float and type(value) is int)
        if wrong:
            raise DataError(f"`{key}` is {as_json(value)}, of another kind", path=path)
    try:
        return dataclasses.replace(defaults, **given)
    except (UsageError, ValueError) as err:
        raise DataError(str(err), path=path) from None


def read_questions(path: Path, settings: QuizSettings, limit: int | None = None) -> Questions:
    """The questions of a file in their order; raises `DataError` naming the line that is wrong."""
    found, left_out = list[tuple[Record, Question]](), 0
    for record in read_json_records(path):
        if limit is not None and len(found) == limit:
            break
        value = record.value
        if not isinstance(value, dict):
            raise DataError(f"{as_json(value)}, expected an object", path=path, line=record.line)
        if settings.skip_if and value.get(settings.skip_if):
            left_out += 1
            continue
        try:
            found.append((record, _question(value, settings)))
        except ValueError as err:
            raise DataError(str(err), path=path, line=record.line) from None
    if not found:
        raise DataError("no questions in it", path=path)
    kind = _kind([q for _, q in found], settings)
    for record, question in found:
        if wrong := _unlike(question, kind, settings):
            raise DataError(wrong, path=path, line=record.line)
    return Questions(tuple(q for _, q in found), kind, left_out)


def _question(value: dict[str, Any], settings: QuizSettings) -> Question:
    text, answer = value.get(settings.question), value.get(settings.answer)
    if not isinstance(text, str) or not text.strip():
        keys = ", ".join(shown(k) for k in list(value)[:10])
        raise ValueError(f"no text under `{settings.question}`; the keys are {keys}")
    if isinstance(answer, bool) or not isinstance(answer, (str, int, float)):
        raise ValueError(f"`{settings.answer}` is {as_json(answer)}, expected a text or a number")
    if not str(answer).strip():
        raise ValueError(f"`{settings.answer}` is empty")
    others = {key: one for key, one in value.items() if isinstance(one, str)}
    listed = value.get(settings.choices)
    if listed is None or settings.kind not in ("", "choice"):
        return Question(text, str(answer).strip(), others=others)
    if not isinstance(listed, list) or not all(isinstance(c, str) and c for c in listed):
        raise ValueError(f"`{settings.choices}` is {as_json(listed)}, expected a list of texts")
    if not 2 <= len(listed) <= len(LETTERS):
        raise ValueError(f"{len(listed)} choices, expected 2 to {len(LETTERS)}")
    return Question(text, str(_right(answer, listed)), tuple(listed), others)


def _right(answer: str | int | float, choices: Sequence[str]) -> int:
    """The number of the right choice, which is given as such, by its letter, or by its text."""
    if isinstance(answer, str):
        if choices.count(answer) == 1:
            return choices.index(answer)
        letter = answer.strip().strip("().").upper()
        at = LETTERS.find(letter) if len(letter) == 1 else -1
        answer = at if at >= 0 else int(answer) if answer.strip().isdecimal() else -1
    if isinstance(answer, float) or not 0 <= answer < len(choices):
        raise ValueError(
            f"the answer is none of the {len(choices)} choices: give its number from 0, its letter "
            "or its text"
        )
    return answer


def _unlike(question: Question, kind: Kind, settings: QuizSettings) -> str:
    """What does not fit the kind of the file's questions; empty where all does."""
    if kind == "choice" and not question.choices:
        return f"no `{settings.choices}`, which the questions before have"
    if kind != "choice" and question.choices:
        return f"`{settings.choices}`, which the questions before do not have"
    if kind == "number" and number_of(question.answer) is None:
        return f"`{settings.answer}` is {shown(question.answer)}, expected a number"
    return ""


def _kind(questions: Sequence[Question], settings: QuizSettings) -> Kind:
    if settings.kind:
        return next(k for k in KINDS if k == settings.kind)
    if questions[0].choices:
        return "choice"
    numbers = all(number_of(q.answer) is not None for q in questions)
    return "number" if numbers else "text"
