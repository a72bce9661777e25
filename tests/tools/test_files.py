"""Lists of tools in files."""

from __future__ import annotations

import pytest

from ling.errors import UsageError
from ling.tools import BUILTIN
from ling.tools.files import FILE, read_tools, tools_of_model, write_tools

OWN = [{"type": "function", "function": {"name": "späher", "parameters": {}}}]


def test_a_folder_offers_what_was_written(tmp_path):
    assert tools_of_model(tmp_path) is None
    write_tools(tmp_path)
    assert tools_of_model(tmp_path) == [tool.definition for tool in BUILTIN.values()]
    write_tools(tmp_path, OWN)
    assert tools_of_model(tmp_path) == OWN


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", ": not JSON: Expecting"),
        ("[" + "{}," * 200_000 + "{}]", ": more than"),
        ("5", " is no list of tools"),
        ("{}", " is no list of tools"),
        ('["x"]', " is no list of tools"),
        ('[{"function": {"name": 5}}]', " is no list of tools"),
    ],
)
def test_what_is_no_list_of_tools_is_refused(tmp_path, content, words):
    (tmp_path / FILE).write_text(content)
    with pytest.raises(UsageError, match=f"{FILE}`{words}"):
        tools_of_model(tmp_path)


@pytest.mark.parametrize(("name", "words"), [("none", "No such file"), ("", "not a regular file")])
def test_what_cannot_be_read_is_named(tmp_path, name, words):
    with pytest.raises(UsageError, match=f"`: {words}"):
        read_tools(tmp_path / name)
