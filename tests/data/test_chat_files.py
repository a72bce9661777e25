from __future__ import annotations

import json

import pytest

from ling.data.chat_files import NO_TEMPLATE, FoundTemplate, find_template

NAMED = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}]


@pytest.mark.parametrize(
    ("value", "source"),
    [
        ("yes", "yes"),
        (NAMED, "yes"),
        ([{"name": "chat", "template": "yes"}], "yes"),
        ({"default": "yes", "rag": "no"}, "yes"),
        ({"chat": "yes"}, "yes"),
        (None, None),
        ("", None),
        (" \n", None),
        ([], None),
        ({}, None),
        ([{"name": "default"}], None),
    ],
)
def test_every_form_in_the_settings_is_read(tmp_path, value, source):
    assert find_template(tmp_path, {"chat_template": value}) == FoundTemplate(source)
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": value}))
    assert find_template(tmp_path, {}) == FoundTemplate(source)


def test_a_file_of_its_own_leads_unless_it_is_empty(tmp_path):
    path = tmp_path / "chat_template.jinja"
    path.write_text("file")
    assert find_template(tmp_path, {"chat_template": "settings"}).source == "file"
    path.write_text("")
    assert find_template(tmp_path, {"chat_template": "settings"}).source == "settings"
    assert find_template(tmp_path, {}) == NO_TEMPLATE


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_of_editors_are_read(tmp_path, encoding):
    (tmp_path / "chat_template.jinja").write_bytes("<é>".encode(encoding))
    assert find_template(tmp_path, {}).source == "<é>"


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("chat_template.jinja", b"\xff", "not readable as UTF-8"),
        ("chat_template.jinja", b"\xff\xfe\x00", "not readable as UTF-8"),
        ("chat_template.json", b"{", "not valid JSON"),
        ("chat_template.json", b'{"chat_template": 3}', "is `3`, expected text"),
        (
            "chat_template.json",
            b'{"chat_template": {"a": "x", "b": "y"}}',
            "several chat templates, none named `default`",
        ),
    ],
)
def test_what_cannot_be_used_is_a_sentence(tmp_path, name, data, words):
    (tmp_path / name).write_bytes(data)
    found = find_template(tmp_path, {})
    assert found.source is None
    assert f"{name}: " in found.problem
    assert words in found.problem
