"""Programming problems of HumanEval, MBPP and LiveCodeBench, from files of JSON lines.

What a row is, its keys tell; docs/guides/evaluation-code.md has the three forms.
"""

from __future__ import annotations

import base64
import binascii
import json
import keyword
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...checkpoint.raw.pickle_data import read_pickle
from ...data.records import parse_json, read_json_records
from ...errors import DataError, DCPError
from ...text import as_json, shown
from .answers import code_of, is_defined

MAX_CASES_BYTES = 256 << 20
_STOPS = ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint(", "\n@", "\n```")
_DEFINED = re.compile(r"^(?:async[ \t]+def|def|class)[ \t]+(\w+)", re.MULTILINE)
_SAME = (
    "def _same(got, wanted):\n    return (list(got) if isinstance(got, tuple) else got) == wanted\n"
)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One problem, and how an answer to it is checked: by `test`, or by `cases`."""

    id: str
    prompt: str
    """What is asked: the beginning of a program where `is_prefix`, or else words."""
    is_prefix: bool = False
    names: tuple[str, ...] = ()
    """Functions and classes of the answer that the test uses."""
    setup: str = ""
    """Code before the test, of the problem."""
    test: str = ""
    """Code that raises nothing where the answer is right."""
    cases: tuple[tuple[str, str], ...] = ()
    """Text that a program reads, and text that it is to write."""
    shown: str = ""
    """Tests that the prompt shows, as MBPP's does."""
    canonical: str = ""
    """An answer that is right."""

    def program(self, answer: str) -> str:
        """The program of an answer, which defines the function or continues the prompt."""
        code = code_of(answer, self.names[0] if self.names else "")
        if not self.is_prefix:
            return code
        if any(is_defined(name, code) for name in self.names):
            return f"{_with_body(self.prompt)}\n{code}"
        return self.prompt + code


def _with_body(prompt: str) -> str:
    """The prompt as a program: a function that has not even a docstring gets a body."""
    lines = [line.strip() for line in prompt.splitlines()]
    code = [line for line in lines if line and not line.startswith("#")]
    return f"{prompt.rstrip()}\n    pass\n" if code and code[-1].endswith(":") else prompt


@dataclass(frozen=True)
class Prompts:
    """How a model is asked: `text` is continued until one of `stops`, `chat` is a message to it."""

    text: str
    chat: str
    stops: tuple[str, ...]


def prompts_of(problem: Problem) -> Prompts:
    """The prompts of a problem for models that continue text, and for models that chat."""
    if problem.is_prefix:
        asked = f"Complete this Python function.\n\n```python\n{problem.prompt.strip()}\n```\n\n"
        chat = f"{asked}Answer with the whole function, with its imports, in one block of code."
        return Prompts(problem.prompt, chat, _STOPS)
    form = "Answer with the whole program, in one block of Python code."
    if problem.cases:
        form = f"Read from standard input and write to standard output. {form}"
    chat = f"{problem.prompt.strip()}\n\n{form}"
    if problem.shown:
        chat += f"\nIt passes these tests:\n\n```python\n{problem.shown}\n```"
    return Prompts(f"{chat}\n\n```python\n", chat, ("\n```",))


def read_problems(path: Path, limit: int | None = None) -> list[Problem]:
    """The problems of a file, in its order; raises `DataError` with the line of the first bad
    one."""
    problems: list[Problem] = []
    lines: dict[str, int] = {}
    for record in read_json_records(path):
        if limit is not None and len(problems) == limit:
            break
        try:
            problem = _problem(record.value, record.number)
        except _RowError as err:
            raise DataError(str(err), path=path, line=record.line) from None
        first = lines.setdefault(problem.id, record.line)
        if first != record.line:
            reason = f"problem {shown(problem.id)} is there twice, first on line {first}"
            raise DataError(reason, path=path, line=record.line)
        problems.append(problem)
    if not problems:
        raise DataError("no problems", path=path)
    return problems


def holds_problems(path: Path) -> bool:
    """Whether the file's first row is a programming problem, by its keys."""
    row = next((record.value for record in read_json_records(path)), None)
    return isinstance(row, dict) and any(all(key in row for key in keys) for keys in _FORMS)


class _RowError(Exception):
    """What is wrong with a row."""


def _problem(row: Any, number: int) -> Problem:
    if not isinstance(row, dict):
        raise _RowError(f"{as_json(row)}, expected a JSON object")
    for keys, read in _FORMS.items():
        if all(key in row for key in keys):
            return read(row, number)
    forms = ", ".join(" + ".join(f"`{key}`" for key in keys) for keys in _FORMS)
    raise _RowError(f"not a problem: expected the keys {forms}")


def _human_eval(row: Mapping[str, Any], number: int) -> Problem:
    name = _identifier(row, "entry_point")
    return Problem(
        id=_id(row, number),
        prompt=_text(row, "prompt"),
        is_prefix=True,
        names=(name,),
        # The prompt's own helpers, so that tests do not use what an answer makes of them.
        setup=_with_body(_text(row, "prompt")),
        test=f"{_text(row, 'test')}\ncheck({name})\n",
        canonical=_text(row, "canonical_solution", ""),
    )


def _mbpp(row: Mapping[str, Any], number: int) -> Problem:
    imports = row.get("test_imports", [])
    tests = row["test_list"]
    for key, value in (("test_imports", imports), ("test_list", tests)):
        if not isinstance(value, list) or not all(isinstance(line, str) for line in value):
            raise _RowError(f"`{key}` is {as_json(value)}, expected a list of texts")
    test = "\n".join(tests)
    code = _text(row, "code").replace("\r\n", "\n")
    words = set(re.findall(r"\w+", test))
    names = tuple(dict.fromkeys(n for n in _DEFINED.findall(code) if n in words))
    if not names:
        raise _RowError("`test_list` uses no function that `code` defines")
    setup = "\n".join([*imports, _text(row, "test_setup_code", "")])
    prompt = _text(row, "text" if "text" in row else "prompt")
    id = _id(row, number)
    return Problem(
        id=id, prompt=prompt, names=names, setup=setup, test=test, shown=test, canonical=code
    )


def _inputs_outputs(row: Mapping[str, Any], number: int) -> Problem:
    pairs = list(zip(_list(row, "inputs"), _list(row, "outputs"), strict=False))
    if len(row["inputs"]) != len(row["outputs"]):
        raise _RowError(f"{len(row['inputs'])} `inputs` and {len(row['outputs'])} `outputs`")
    return _of_cases(row, number, pairs, row.get("fn_name"))


def _live_code_bench(row: Mapping[str, Any], number: int) -> Problem:
    cases = _packed_cases(row, "public_test_cases")
    if "private_test_cases" in row:
        cases += _packed_cases(row, "private_test_cases")
    if not all(isinstance(case, dict) and {"input", "output"} <= case.keys() for case in cases):
        raise _RowError("a test case without `input` and `output`")
    pairs = [(case["input"], case["output"]) for case in cases]
    metadata = row.get("metadata") or {}
    if isinstance(metadata, str):
        metadata = _parsed(metadata, "metadata")
    name = metadata.get("func_name") if isinstance(metadata, dict) else None
    if name is not None:
        pairs = [(_json_lines(given), _json_lines(wanted)[0]) for given, wanted in pairs]
    return _of_cases(row, number, pairs, name)


_FORMS: dict[tuple[str, ...], Callable[[Mapping[str, Any], int], Problem]] = {
    ("prompt", "entry_point", "test"): _human_eval,
    ("test_list", "code"): _mbpp,
    ("inputs", "outputs"): _inputs_outputs,
    ("question_content", "public_test_cases"): _live_code_bench,
}


def _of_cases(row: Mapping[str, Any], number: int, pairs: list[Any], name: Any) -> Problem:
    """Programs that read and write text, or a function `name` with lists of arguments."""
    if not pairs:
        raise _RowError("no test cases")
    key = next((k for k in ("question_content", "question", "prompt") if k in row), "prompt")
    prompt, id = _text(row, key), _id(row, number)
    if starter := _text(row, "starter_code", ""):
        prompt += f"\n\nBegin with this code:\n\n```python\n{starter.rstrip()}\n```"
    if name is None:
        if not all(isinstance(text, str) for pair in pairs for text in pair):
            raise _RowError("an input or output that is no text, and no name of a function")
        return Problem(id=id, prompt=prompt, cases=tuple(pairs))
    _checked_name(name, "fn_name")
    has_class = "class Solution" in starter
    call = f"Solution().{name}" if has_class else name
    lines = [_SAME]
    for given, wanted in pairs:
        if not isinstance(given, list):
            raise _RowError(f"input {as_json(given)}, expected a list of arguments")
        lines.append(f"assert _same({call}(*{given!r}), {wanted!r})\n")
    names = ("Solution" if has_class else name,)
    return Problem(id=id, prompt=prompt, names=names, test="".join(lines))


# ---- fields ------------------------------------------------------------------------------------


def _id(row: Mapping[str, Any], number: int) -> str:
    return str(row.get("task_id", row.get("question_id", row.get("id", number))))[:200]


def _text(row: Mapping[str, Any], key: str, default: str | None = None) -> str:
    value = row.get(key, default)
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        raise _RowError(f"`{key}` is {as_json(value)}, expected a text")
    return value


def _list(row: Mapping[str, Any], key: str) -> list[Any]:
    if not isinstance(row[key], list):
        raise _RowError(f"`{key}` is {as_json(row[key])}, expected a list")
    return row[key]


def _identifier(row: Mapping[str, Any], key: str) -> str:
    return _checked_name(row[key], key)


def _checked_name(value: Any, key: str) -> str:
    if not isinstance(value, str) or not value.isidentifier() or keyword.iskeyword(value):
        raise _RowError(f"`{key}` is {as_json(value)}, expected the name of a function")
    return value


def _parsed(text: str, key: str) -> Any:
    try:
        return parse_json(text)
    except ValueError as err:
        raise _RowError(f"`{key}`: {err}") from None


def _json_lines(text: Any) -> list[Any]:
    if not isinstance(text, str):
        raise _RowError(f"test case {as_json(text)}, expected a text")
    values = [_parsed(line, "test case") for line in text.splitlines() if line.strip()]
    if not values:
        raise _RowError("an empty test case of a function")
    return values


def _packed_cases(row: Mapping[str, Any], key: str) -> list[Any]:
    """A list, its JSON, or what LiveCodeBench makes of that: pickled, compressed, in base64. The
    pickle is read as data."""
    value = row[key]
    if isinstance(value, str) and not value.lstrip().startswith("["):
        try:
            unpacker = zlib.decompressobj()
            data = unpacker.decompress(base64.b64decode(value, validate=True), MAX_CASES_BYTES)
            if not unpacker.eof:
                raise _RowError(f"`{key}` is cut short or longer than {MAX_CASES_BYTES} bytes")
            value = read_pickle(data, lambda name: False)
        except (binascii.Error, zlib.error, DCPError) as err:
            raise _RowError(f"`{key}` is no list of test cases: {err}") from None
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as err:
            raise _RowError(f"`{key}`: {err}") from None
    if not isinstance(value, list):
        raise _RowError(f"`{key}` is {as_json(value)}, expected a list")
    return value
