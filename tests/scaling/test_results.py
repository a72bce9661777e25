"""Rows of results: what is written is read, and a bad line is named."""

from __future__ import annotations

import dataclasses
import json
import resource
import signal

import numpy as np
import pytest
from scaling_rows import row

from ling.errors import DataError, RunError, UsageError
from ling.scaling.results import append_row, read_rows


def test_rows_come_back(tmp_path):
    path = tmp_path / "results.jsonl"
    rows = [row(), row(run="b", family="1/32", granularity=8.0, loss=None, status="diverged")]
    for one in rows:
        append_row(path, one)
    assert read_rows(path) == rows


def test_a_loss_that_is_not_finite_is_none_and_valid_json(tmp_path):
    found = row(loss=float("nan"), train_loss=float("inf"), status="diverged")
    assert (found.loss, found.train_loss) == (None, None)
    path = tmp_path / "results.jsonl"
    path.write_text(found.as_json().replace('"loss": null', '"loss": NaN', 1) + "\n")
    assert read_rows(path) == [found]


def test_numbers_of_other_types_become_plain_ones():
    found = row(flops=10**13, loss=np.float64(3.5))
    assert (found.flops, type(found.flops)) == (1e13, float)
    assert type(found.loss) is float
    with pytest.raises(UsageError, match="`flops` is `true`, expected a number"):
        row(flops=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": "1"}, '`seed` is `"1"`, expected a whole number'),
        ({"seed": True}, "`seed` is `true`, expected a whole number"),
        ({"held_out": 1}, "`held_out` is `1`, expected true or false"),
        ({"status": "failed"}, "`status` is `failed`, expected done or diverged"),
        ({"flops": 0.0}, "`flops` is 0.0, expected a number above 0"),
        ({"lr": float("inf")}, "`lr` is inf, expected a number above 0"),
        ({"loss": -1.0}, "`loss` is -1.0, expected a number above 0"),
        ({"steps": 10**400}, "`steps` has 1329 bits"),
        ({"seconds": float("inf")}, "`seconds` is inf, expected a number"),
        ({"activation_ratio": 8.0}, "`activation_ratio` is 8.0, expected at most 1"),
        ({"run": ""}, "`run` and `family` must not be empty"),
    ],
)
def test_wrong_values_are_refused(change, message):
    with pytest.raises(UsageError, match=message.replace("(", r"\(")):
        row(**change)


def changed(**values):
    return json.dumps({**dataclasses.asdict(row()), **values})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        (changed(los=1), "`los` is no key of a result (did you mean `loss`?)"),
        (changed(tokens=1.5), "`tokens` is `1.5`, expected a whole number"),
        ('{"run": "a"}', "`family` is missing"),
        ('{"run": "a", "run": "b"}', "`run` is there twice"),
    ],
)
def test_a_damaged_line_is_named(tmp_path, line, message):
    path = tmp_path / "results.jsonl"
    path.write_text(row().as_json() + "\n" + line + "\n")
    with pytest.raises(DataError) as err:
        read_rows(path)
    assert f"{path}:2: {message}" in str(err.value)


def test_half_a_line_is_named_and_nothing_is_added_to_it(tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text(row().as_json() + "\n" + row(run="b").as_json()[:-20])
    before = path.read_bytes()
    for use in (lambda: read_rows(path), lambda: append_row(path, row(run="c"))):
        with pytest.raises(DataError, match=r"results.jsonl:2: the last line is cut off"):
            use()
    assert path.read_bytes() == before


def test_empty_missing_or_no_file(tmp_path):
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(DataError, match="no results in it"):
        read_rows(tmp_path / "empty")
    with pytest.raises(DataError, match="No such file"):
        read_rows(tmp_path / "none")
    with pytest.raises(DataError, match="not a regular file"):
        read_rows(tmp_path)


def test_a_full_disk_leaves_no_half_a_line(tmp_path):
    path = tmp_path / "results.jsonl"
    append_row(path, row())
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, limits[1]))
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(RunError, match=r"could not save .*results.jsonl"):
            append_row(path, row(run="b"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, old)
    assert path.read_bytes() == before


def test_a_file_of_another_kind_is_not_called_cut_off(tmp_path):
    path = tmp_path / "other.json"
    path.write_text('{"curves": []}')
    with pytest.raises(DataError, match=r"other.json:1: `curves` is no key of a result"):
        read_rows(path)


def test_a_number_in_quotes_is_shown_with_them(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text(row().as_json().replace('"loss": 4.0', '"loss": "4.0"') + "\n")
    with pytest.raises(DataError, match=r'`loss` is `"4.0"`, expected a number'):
        read_rows(path)
