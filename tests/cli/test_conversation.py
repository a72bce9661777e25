"""What a chat remembers: turns that fit, and files that it was saved to."""

from __future__ import annotations

import json
import re

import pytest

from ling.cli.conversation import Conversation
from ling.errors import UsageError


def length(turns) -> int:
    return sum(len(turn["content"]) for turn in turns)


def test_the_last_question_and_the_system_message_stay():
    talking = Conversation("s")
    for role, text in (("user", "a" * 50), ("assistant", "b" * 30), ("user", "c" * 90)):
        talking.add(role, text)
    assert talking.fit(length, 91) == 1
    assert [m["content"][0] for m in talking.messages] == ["s", "c"]
    assert talking.fit(length, 10) == 0


def test_results_of_tools_go_with_their_question():
    talking = Conversation()
    for role in ("user", "assistant", "tool", "assistant", "user", "assistant", "user"):
        talking.add(role, role)
    assert talking.fit(length, 18) == 1
    assert [m["role"] for m in talking.messages] == ["user", "assistant", "user"]
    assert talking.undo() == "user"
    assert [talking.undo(), talking.undo(), talking.messages] == ["user", None, []]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "talk.json`: not JSON: "),
        ("5", "holds no conversation"),
        ('{"format": "ling-chat", "system": 5, "messages": []}', "holds no conversation"),
        ('[{"role": "root", "content": "x"}]', "message 0 of the file has none of the roles"),
        ('[{"role": "user", "content": 5}]', "message 0 of the file: `content` is no text"),
        ('[{"role": "user"}]', "message 0 of the file has no `content`"),
        ('[{"role": "assistant", "tool_calls": [5]}]', "message 0 of the file: `tool_calls`"),
    ],
)
def test_a_foreign_file_is_refused_and_nothing_is_lost(tmp_path, content, words):
    file = tmp_path / "talk.json"
    file.write_text(content)
    talking = Conversation("s")
    talking.add("user", "kept")
    with pytest.raises(UsageError, match=words):
        talking.load(file)
    assert [m["content"] for m in talking.messages] == ["s", "kept"]


def test_messages_in_openai_form_are_read(tmp_path):
    file = tmp_path / "talk.json"
    given = [{"role": "system", "content": "S"}, {"role": "user", "content": "Q", "name": "x"}]
    file.write_text(json.dumps(given))
    talking = Conversation()
    talking.load(file)
    assert talking.messages == [given[0], {"role": "user", "content": "Q"}]


def test_a_long_path_is_named_to_its_end(tmp_path):
    file = tmp_path / ("a folder with a long name " * 4) / "talk.json"
    with pytest.raises(UsageError, match=f"^{re.escape(f'`{file}`')}: No such file"):
        Conversation().load(file)
