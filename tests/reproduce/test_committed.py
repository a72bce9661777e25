"""Committed results are found by their newest date."""

from __future__ import annotations

from ling.reproduce.committed import committed


def test_the_newest_file_is_found(tmp_path):
    assert committed("*-soak.json", tmp_path) is None
    for day in ("2026-11-30", "2026-11-28"):
        (tmp_path / f"{day}-soak.json").touch()
    found = committed("*-soak.json", tmp_path)
    assert found is not None
    assert found.name == "2026-11-30-soak.json"
    assert committed("*-soak.json", tmp_path / "none") is None
