"""All 43 claims have a row, and each row says what became of it."""

from __future__ import annotations

import pytest
import yaml

from ling.reproduce.registry import NAMES, claims
from ling.reproduce.rows import FILE, STATUSES, read_rows


def test_every_claim_of_the_original_has_a_row_with_its_status():
    rows, sources = read_rows()
    assert [row.number for row in rows] == list(range(1, 44))
    assert {row.status for row in rows} == set(STATUSES.values())
    assert {key for row in rows for key in row.source.split(", ")} == set(sources)
    assert all(len(row.planned + row.not_here) > 20 for row in rows if not row.by)


def test_every_claim_that_can_be_run_says_what_differs():
    assert [one.name for one in claims()] == list(NAMES)
    assert all(one.published and one.source and one.differs for one in claims())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"number": 7}, "row 7 is in place 1"),
        ({"by": "", "planned": ""}, "row 1 needs one of"),
        ({"not_here": "too large"}, "row 1 needs one of"),
        ({"by": "sums"}, "which does not exist"),
        ({"source": "X"}, "which is not listed"),
        ({"source": "R, X"}, "which is not listed"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(tmp_path, change, message):
    tree = yaml.safe_load(FILE.read_text())
    tree["rows"][0] |= change
    path = tmp_path / "rows.yaml"
    path.write_text(yaml.safe_dump(tree))
    with pytest.raises(ValueError, match=message):
        read_rows(path)
