from __future__ import annotations

import pytest

from ling.data.sandbox import MAX_OUTPUT, MAX_SOURCE, compile_template, render_template
from ling.errors import TemplateError


def render(source: str, **variables: object) -> str:
    return render_template(compile_template(source), variables)


def test_blocks_leave_no_blank_lines_and_loops_can_break():
    source = "{% for x in xs %}\n    {% if x > 1 %}{% break %}{% endif %}\n{{ x }}\n{% endfor %}"
    assert render(source, xs=[0, 1, 2, 3]) == "0\n1\n"


def test_json_is_written_as_given():
    assert render("{{ x | tojson }}", x={"b": "é<", "a": 1}) == '{"b": "é<", "a": 1}'
    assert render("{{ x | tojson(indent=1) }}", x=[1]) == "[\n 1\n]"
    assert render("{{ x | tojson(sort_keys=True) }}", x={"b": 1, "a": 2}) == '{"a": 2, "b": 1}'


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ ''._x }}{{ ''.__init__.__globals__ }}", "unsafe|undefined"),
        ("{% for x in [1] %}{{ loop.__init__.__globals__ }}{% endfor %}", "unsafe"),
        ("{% set n = namespace(a=1) %}{{ n.__init__.__globals__ }}", "no attribute"),
        ("{{ {'a': 1}.__class__.__mro__ }}", "unsafe"),
        ("{{ {'a': 1}.update({}) }}", "not safely callable|unsafe"),
        ("{{ '{0.__class__.__mro__}'.format(1) }}", "unsafe"),
        ("{{ 'A' * 20000000000 }}", "not allowed"),
        ("{{ 9 ** (9 ** 9) }}", "not allowed"),
        ("{{ '%10000000000d' % 1 }}", "not allowed"),
        ("{{ '%(a)-10000d' % {'a': 1} }}", "not allowed"),
        ("{{ '%*d' % (10000, 1) }}", "not allowed"),
        ("{{ '%.10000f' % 1.5 }}", "not allowed"),
        ("{% generation %}{{ x }}", "endgeneration"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{% if %}", "Expected an expression"),
        ("{{ xs.append(1) }}", "not safely callable|unsafe"),
        ("{{ lipsum() }}", "undefined"),
        ("{{ raise_exception('bad\nrole \x1b') }}", r"^bad$"),
        ("{{ [1] | tojson(indent=99) }}", "indent of 99"),
        ("{% for i in range(99999) %}{{ 'x' * 99 }}{% endfor %}", f"longer than {MAX_OUTPUT}"),
    ],
)
def test_what_a_template_may_not_do_is_one_short_line(source, words):
    with pytest.raises(TemplateError, match=words) as err:
        render(source, xs=[])
    assert str(err.value).isprintable()
    assert len(str(err.value)) <= 300


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{% generation %}{{ x }}{% endgeneration %}", "hi"),
        ("{% for i in [1, 2] %}{% generation %}{{ i }}{% endgeneration %}{% endfor %}", "12"),
        ("{% set y = 1 %}{% generation %}{% set y = 2 %}{% endgeneration %}{{ y }}", "1"),
        ("a\n  {%- generation -%}\n b {% endgeneration %}", "ab "),
        ("{{ '%s says' % x }}{{ '%3d' % 7 }}{{ '%.2f' % 1.5 }}", "hi says  71.50"),
        ("{{ {'a': 1}.a }}{{ {'items': 1}.items() | list }}{{ {}.a }}", "1[('items', 1)]"),
        ("{{ '{} says'.format(x) }}{{ '=' * 3 }}{{ 7 % 4 }}", "hi says===3"),
    ],
)
def test_what_templates_that_people_have_use(source, text):
    assert render(source, x="hi") == text


def test_source_has_a_limit():
    with pytest.raises(TemplateError, match=f"the limit is {MAX_SOURCE}"):
        compile_template("x" * (MAX_SOURCE + 1))
