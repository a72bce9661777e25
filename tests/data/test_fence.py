from __future__ import annotations

import time

import pytest

from ling.data import fence
from ling.data.chat import ChatTemplate
from ling.data.fence import FencedTemplate
from ling.errors import TemplateError


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ 'A' * 20000000000 }}",
        "{{ 9 ** (9 ** 9) }}",
        "{% include '/etc/passwd' %}",
        "{% for i in range(99999999) %}x{% endfor %}",
        "{% if %}",
        "{{ messages.append(1) }}",
    ],
)
def test_hostile_templates_end_in_one_line(source):
    with pytest.raises(TemplateError) as err:
        ChatTemplate(source).render([])
    assert "\n" not in str(err.value)


def test_child_renders_what_the_parent_would_and_stays_for_the_next():
    template = FencedTemplate("{{ x | tojson }} {{ y }}")
    child = template._child
    assert template.render({"x": ["é"], "y": "\u2028 <role>"}) == '["é"] \u2028 <role>'
    assert template.render({"x": 1, "y": ""}) == "1 "
    with pytest.raises(TemplateError, match=r"^messages: Object of type set"):
        template.render({"x": {1}})
    assert template._child is child
    failing = FencedTemplate("{{ a.b }}")
    with pytest.raises(TemplateError, match="'a' is undefined"):
        failing.render({})
    assert failing.render({"a": {"b": 3}}) == "3"


def test_child_that_takes_too_long_is_ended_and_replaced(monkeypatch):
    monkeypatch.setattr(fence, "TIMEOUT_S", 0.5)
    source = "{% for i in range(n) %}{% for j in range(99999) %}{% endfor %}{% endfor %}done"
    template = FencedTemplate(source)
    child, start = template._child, time.monotonic()
    with pytest.raises(TemplateError, match=r"stopped: it takes more than 0\.5 s"):
        template.render({"n": 99999})
    assert time.monotonic() - start < 5
    assert child.process.wait() != 0
    monkeypatch.undo()
    assert template.render({"n": 0}) == "done"


def test_beginnings_of_a_conversation_are_rendered_in_one_request(monkeypatch):
    source = "{{ messages | join('') ~ add_generation_prompt }}{{ messages[1].x }}"
    template, asked = FencedTemplate(source), []
    ask = template._ask
    monkeypatch.setattr(template, "_ask", lambda *args: asked.append(args) or ask(*args))
    texts = template.render_beginnings(
        {"messages": ["a", "b", "c"]}, [(3, False), (2, True), (1, True)]
    )
    assert texts[:2] == ["abcFalse", "abTrue"]
    assert isinstance(texts[2], TemplateError)  # there is no second message
    assert "no element 1" in str(texts[2])
    assert len(asked) == 1


def test_beginnings_that_the_whole_does_not_have_are_texts_of_their_own():
    template = FencedTemplate("{{ messages[0] if messages | length < 3 else messages | join('') }}")
    cuts = [(3, False), (2, True), (1, True)]
    assert template.render_beginnings({"messages": ["aa", "b", "c"]}, cuts) == ["aabc", "aa", "aa"]
    assert template.render_beginnings({"messages": ["", "b", "c"]}, cuts) == ["bc", "", ""]
    swapped = FencedTemplate("{{ messages | reverse | join('') }}")
    assert swapped.render_beginnings({"messages": ["aa", "b", "c"]}, cuts) == ["cbaa", "baa", "aa"]


def test_beginnings_that_are_too_long_together_are_rendered_one_by_one(monkeypatch):
    monkeypatch.setattr(fence, "_MAX_ANSWER", 500_000)
    template = FencedTemplate("{{ messages | reverse | join('') }}")
    messages = [letter * 100_000 for letter in "abcd"]
    texts = template.render_beginnings({"messages": messages}, [(n, False) for n in (4, 3, 2, 1)])
    assert [len(t) for t in texts] == [400_000, 300_000, 200_000, 100_000]
    with pytest.raises(TemplateError, match="stopped"):
        template.render_beginnings({"messages": messages * 2}, [(8, False), (1, False)])
