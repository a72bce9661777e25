"""Records come back from their files as they were, and damaged ones are named."""

from __future__ import annotations

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
