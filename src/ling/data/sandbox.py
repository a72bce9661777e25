"""The jinja2 environment in which chat templates run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from jinja2 import Environment, Template, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from ..errors import TemplateError
from ..text import first_line

MAX_OUTPUT = 1 << 20
MAX_SOURCE = 1 << 18
_MAX_NUMBER = 1 << 63
Cut = tuple[int, bool]
"""How many messages of a conversation, and whether the assistant's turn is opened behind them."""
_WIDTH = re.compile(r"%(?:\([^)]*\))?[-+ #0]*(?:\*|\d{4}|\d*\.(?:\*|\d{4}))")


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}`: marks what the assistant said, for training.

    Rendered text has no use for the mark: the block is its body, with variables of its own.
    """

    tags = {"generation"}  # noqa: RUF012 - jinja2 reads a set here

    def parse(self, parser: Parser) -> nodes.Node:
        """The body between the two tags."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


_OF_DICTS = frozenset(dir(dict))
_UNCHANGEABLE = frozenset({str, LoopContext, Namespace})


class _Sandbox(ImmutableSandboxedEnvironment):
    """No loader, no private attributes, no operator that turns a short text into a huge value."""

    intercepted_binops = frozenset(["*", "**", "%"])

    def getattr(self, obj: Any, attribute: str) -> Any:
        """As the original does it, of a key of a dictionary without asking for an attribute."""
        if type(obj) is dict and attribute in obj and attribute not in _OF_DICTS:
            return obj[attribute]
        return super().getattr(obj, attribute)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """As the original says, at once for what it has no more rules for."""
        if type(obj) in _UNCHANGEABLE:
            return not attr.startswith("_")
        return super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" or not _small_product(operator, left, right):
            raise TemplateError(f"`{operator}` on these values is not allowed")
        return left * right if operator == "*" else left % right


def _small_product(operator: str, left: Any, right: Any) -> bool:
    if isinstance(left, (int, float)) and isinstance(right, (int, float)):
        return abs(left) < _MAX_NUMBER and abs(right) < _MAX_NUMBER
    if operator == "%":
        # Text formatting: a width of 10**10 is a text of 10**10 characters.
        return isinstance(left, str) and not _WIDTH.search(left)
    sequence, count = (right, left) if isinstance(left, int) else (left, right)
    return isinstance(sequence, (str, list)) and len(sequence) * count <= MAX_OUTPUT


_EXTENSIONS: list[str | type[Extension]] = ["jinja2.ext.loopcontrols", _Generation]


def compile_template(source: str) -> Template:
    """Compile with the settings that transformers has for chat templates."""
    if len(source) > MAX_SOURCE:
        raise TemplateError(f"{len(source)} characters long, the limit is {MAX_SOURCE}")
    return _compiled(_Sandbox, source)


class _Own(Environment):
    """Without checks of each attribute, which take as long as the rest."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        """As the original does it, of a key of a dictionary without asking for an attribute."""
        if type(obj) is dict and attribute in obj and attribute not in _OF_DICTS:
            return obj[attribute]
        return super().getattr(obj, attribute)


def compile_own(source: str) -> Template:
    """Compile a template of this package."""
    return _compiled(_Own, source)


def _compiled(kind: type[Environment], source: str) -> Template:
    env = kind(trim_blocks=True, lstrip_blocks=True, extensions=_EXTENSIONS)
    env.filters["tojson"] = _to_json
    env.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
    del env.globals["lipsum"]
    try:
        return env.from_string(source)
    except Exception as err:  # the compiler recurses and folds constants: it can fail in any way
        raise TemplateError(first_line(err)) from None


def render_template(template: Template, variables: Mapping[str, Any]) -> str:
    """Render; raises `TemplateError` with one line, also for more than `MAX_OUTPUT` characters."""
    pieces: list[str] = []
    size = 0
    try:
        for piece in template.generate(variables):
            pieces.append(piece)
            size += len(piece)
            if size > MAX_OUTPUT:
                raise TemplateError(f"the output is longer than {MAX_OUTPUT} characters")
    except TemplateError:
        raise
    except Exception as err:  # template code of anyone's making can fail in any way
        raise TemplateError(first_line(err)) from None
    return "".join(pieces)


def render_own(template: Template, variables: Mapping[str, Any]) -> str:
    """Render a template of this package, which makes no more of its variables than it is given."""
    try:
        text = "".join(template.generate(variables))
    except Exception as err:  # messages of anyone's making, such as a content that is no text
        raise TemplateError(first_line(err)) from None
    if len(text) > MAX_OUTPUT:
        raise TemplateError(f"the output is longer than {MAX_OUTPUT} characters")
    return text


def each_cut(
    run: Callable[[Mapping[str, Any]], str], variables: Mapping[str, Any], cuts: Sequence[Cut]
) -> list[str | TemplateError]:
    """The text, or what is wrong, of each beginning of the messages."""
    found: list[str | TemplateError] = []
    for count, opened in cuts:
        messages = variables["messages"][:count]
        try:
            found.append(run({**variables, "messages": messages, "add_generation_prompt": opened}))
        except TemplateError as err:
            found.append(err)
    return found


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    if indent is not None and not 0 <= indent <= 16:
        raise TemplateError(f"`tojson` with an indent of {indent}")
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: object) -> None:
    raise TemplateError(first_line(Exception(message)))


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(str(pattern)[:64])
