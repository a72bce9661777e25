"""A specification as the text of a grammar for llguidance (its dialect of Lark)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .spec import Reasoning, StructuredOutputs, ToolGrammar

WHITE_SPACE = r"[ \n\t\r]{1,8}"
"""Between the tokens of JSON: a model can run away in white space that has no bound."""
# Calls are written as the chat template writes them, which leaves no choice of white space: more
# of their tokens are forced.
_CALL_STYLE = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False}
_ANY_TEXT = "/(?s:.*)/"


@dataclass(frozen=True, slots=True)
class TagIds:
    """Ids of the tags that are a single token of the tokenizer; others are text."""

    ids: Mapping[str, int]

    def token(self, tag: str) -> str | None:
        """The token in a rule; None where the tag is text."""
        return f"<[{self.ids[tag]}]>" if tag in self.ids else None

    def symbol(self, tag: str) -> str:
        """The tag in a rule."""
        return self.token(tag) or json.dumps(tag)


def grammar_source(spec: StructuredOutputs, reasoning: Reasoning, tags: TagIds) -> str:
    """The grammar of what a checked specification allows, reasoning before it included."""
    if spec.grammar is not None and reasoning == "none":
        return json.dumps({"grammars": [{"lark_grammar": spec.grammar}]})
    inner = spec if spec.tools is None else spec.tools.answer
    grammars: list[dict[str, Any]] = []
    if inner is not None and inner.grammar is not None:
        grammars = [{"name": "given", "lark_grammar": inner.grammar}]
    rules = [f"answer: {_answer(spec)}"] if spec.tools is None else _tool_rules(spec.tools, tags)
    lark = "\n".join([*_start(reasoning, tags), *rules])
    return json.dumps({"grammars": [{"lark_grammar": lark}, *grammars]})


def _answer(spec: StructuredOutputs) -> str:
    """What comes behind the name of a rule."""
    if spec.grammar is not None:
        return "@given"
    if spec.regex is not None:
        return regex_literal(spec.regex)
    if spec.choice is not None:
        return " | ".join(json.dumps(text) for text in spec.choice)
    schema = {"type": "object"} if spec.json_object else spec.json
    assert isinstance(schema, Mapping)
    return _json(schema, strict=spec.strict, whitespace_pattern=WHITE_SPACE)


def _json(schema: Mapping[str, Any], *, strict: bool, **options: Any) -> str:
    lenient = {} if strict else {"lenient": True}
    return "%json " + json.dumps({**schema, "x-guidance": {**options, **lenient}})


def regex_literal(regex: str) -> str:
    """A regular expression as Lark writes it: between slashes, in one line."""
    out, escaped = [], False
    for c in regex:
        if c == "/" and not escaped:
            out.append("\\/")
        elif c in _CONTROLS:
            out.append(_CONTROLS[c][1:] if escaped else _CONTROLS[c])
        else:
            out.append(c)
        escaped = c == "\\" and not escaped
    return "/" + "".join(out) + "/"


_CONTROLS = {"\n": "\\n", "\r": "\\r"}


def _start(reasoning: Reasoning, tags: TagIds) -> list[str]:
    """The first rules: reasoning as far as there may be some, then the answer."""
    if reasoning == "none":
        return ["start: answer"]
    # Behind reasoning only line ends are dropped, so other white space would belong to the answer.
    first, rules = "thought LINES?", [r"LINES: /\n{1,8}/"]
    if reasoning == "auto":
        first = f"(GAP? {tags.symbol('<think>')} thought LINES?)?"
        rules.append(f"GAP: /{WHITE_SPACE}/")
    rules.insert(0, f"start: {first} answer")
    end = tags.token("</think>")
    if end is not None:
        return [*rules, f"thought: THOUGHT {end}", f"THOUGHT: {_ANY_TEXT}"]
    return [*rules, r"thought[lazy]: /(?s:.*)<\/think>/"]


def _tool_rules(grammar: ToolGrammar, tags: TagIds) -> list[str]:
    begin, end = tags.symbol("<tool_call>"), tags.symbol("</tool_call>")
    rules = [f'call: {begin} "\\n" body "\\n" {end}']
    calls = 'call ("\\n" call)*' if grammar.parallel else "call"
    if grammar.required:
        rules.append(f"answer: {calls}")
    elif grammar.answer is not None:
        rules += [f"answer: {calls} | content", f"content: {_answer(grammar.answer)}"]
    else:
        rules += _free_rules(grammar, tags)
    names = range(len(grammar.tools))
    rules.append("body: " + " | ".join(f"call_{i}" for i in names))
    for i, tool in enumerate(grammar.tools):
        head = '{"name": ' + json.dumps(tool.name, ensure_ascii=False) + ', "arguments": '
        rules.append(f'call_{i}: {json.dumps(head)} arguments_{i} "}}"')
        schema = _json(tool.parameters, strict=tool.strict, **_CALL_STYLE)
        rules.append(f"arguments_{i}: {schema}")
    return rules


def _free_rules(grammar: ToolGrammar, tags: TagIds) -> list[str]:
    """Text with calls in it: the tag itself begins a call, wherever it comes."""
    text = [f"TEXT: {_ANY_TEXT}", "tail: TEXT"]
    begin = tags.token("<tool_call>")
    if begin is None:  # the shortest text that ends in the tag, so that no text can hold it
        text.append('head[lazy]: TEXT "<tool_call>"')
        free = 'head "\\n" body "\\n" ' + tags.symbol("</tool_call>")
    else:
        free = "TEXT? call"
    text.append(f"free_call: {free}")
    answer = "free_call* tail" if grammar.parallel else "free_call | tail"
    return [f"answer: {answer}", *text]
