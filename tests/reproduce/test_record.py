"""Records come back from their files as they were, and damaged ones are named."""

from __future__ import annotations

import json

import pytest
from stand_in_records import record

from ling.errors import UsageError
from ling.reproduce.record import find_record, read_record


def test_a_record_is_read_as_it_was_written(tmp_path):
    one = record("laws", data={"points": [1, 2.5]})
    one.save(tmp_path)
    assert read_record(tmp_path / "laws.json") == one
    assert find_record(tmp_path, "laws") == one
    assert find_record(tmp_path, "sizes") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format": 2}',
        '{"format": 1, "figures": []}',
        '{"format": 1, "figures": [1]}',
    ],
)
def test_a_damaged_record_is_named(tmp_path, text):
    path = tmp_path / "laws.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"laws\.json"):
        read_record(path)
    assert find_record(tmp_path, "laws") is None


@pytest.mark.parametrize(
    "change",
    [{"outcome": "great"}, {"figures": [{"how": "guessed"}]}, {"figures": [{"outcome": "great"}]}],
)
def test_words_that_no_page_has_are_damage(tmp_path, change):
    record("laws").save(tmp_path)
    path = tmp_path / "laws.json"
    tree = json.loads(path.read_text())
    if "figures" in change:
        change = {"figures": [{**tree["figures"][0], **change["figures"][0]}]}
    path.write_text(json.dumps({**tree, **change}))
    with pytest.raises(UsageError, match=r"laws\.json: no record"):
        read_record(path)


def test_figures_of_older_records_have_no_outcome_of_their_own(tmp_path):
    record("laws").save(tmp_path)
    path = tmp_path / "laws.json"
    tree = json.loads(path.read_text())
    del tree["figures"][0]["outcome"]
    path.write_text(json.dumps(tree))
    assert read_record(path) == record("laws")
