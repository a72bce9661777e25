"""Specifications as grammars of llguidance: texts are quoted, tags are tokens where there are."""

from __future__ import annotations

import json
import re

import pytest

from ling.grammar.source import TagIds, grammar_source, regex_literal
from ling.grammar.spec import StructuredOutputs
from ling.grammar.tools import tool_grammar

TEXT, TOKENS = TagIds({}), TagIds({"<think>": 7, "</think>": 8, "<tool_call>": 9})


def lark(spec, reasoning="none", tags=TEXT):
    return json.loads(grammar_source(spec, reasoning, tags))["grammars"][0]["lark_grammar"]


@pytest.mark.parametrize(
    ("regex", "literal"),
    [
        ("a/b", r"/a\/b/"),
        (r"a\/b", r"/a\/b/"),
        (r"a\\/b", r"/a\\\/b/"),
        ("a\nb", r"/a\nb/"),
        ("a\\\nb", r"/a\nb/"),
        (r"[/]\\", r"/[\/]\\/"),
    ],
)
def test_regular_expressions_stay_one_line_between_slashes(regex, literal):
    assert regex_literal(regex) == literal


def test_texts_of_a_choice_cannot_become_rules():
    text = '"\nother: /x/ // \\'
    (rule,) = lark(StructuredOutputs(choice=[text])).splitlines()[1:]
    assert json.loads(rule.removeprefix("answer: ")) == text


def test_names_of_tools_cannot_become_rules():
    name = 'f"\nanswer: "x'
    rules = lark(tool_grammar([{"name": name}], "required")).splitlines()
    (head,) = re.findall(r'^call_0: (".*") arguments_0 "}"$', "\n".join(rules), re.M)
    assert json.loads(json.loads(head) + "{}}") == {"name": name, "arguments": {}}
    assert sum(rule.startswith("answer:") for rule in rules) == 1


def test_tags_are_named_by_id_where_they_are_tokens():
    spec = tool_grammar([{"name": "f"}], "required")
    assert 'call: "<tool_call>"' in lark(spec)
    assert 'call: <[9]> "\\n" body "\\n" "</tool_call>"' in lark(spec, tags=TOKENS)
    assert "thought: THOUGHT <[8]>" in lark(spec, "open", TOKENS)
    assert lark(spec, "auto", TOKENS).startswith("start: (GAP? <[7]> thought LINES?)? answer")


def test_a_given_grammar_stays_apart_from_the_rules_around_it():
    spec = StructuredOutputs(grammar='start: "a"\nanswer: "b"')
    assert lark(spec) == spec.grammar
    first, given = json.loads(grammar_source(spec, "open", TEXT))["grammars"]
    assert given == {"name": "given", "lark_grammar": spec.grammar}
    assert first["lark_grammar"].endswith("answer: @given")


def test_only_schemas_that_are_not_strict_are_read_leniently():
    loose = lark(StructuredOutputs(json={"type": "object"}))
    strict = lark(StructuredOutputs(json={"type": "object"}, strict=True))
    assert '"lenient": true' in loose
    assert "lenient" not in strict
    assert "{1,8}" in strict
