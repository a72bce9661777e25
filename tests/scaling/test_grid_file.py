"""Grid files are checked key by key."""

from __future__ import annotations

import pytest
import yaml
from small_grids import tree, write_grid

from ling.errors import UsageError
from ling.scaling.grid_file import grid_yaml, read_grid


def test_a_grid_is_read_back_as_it_was_written(tmp_path):
    grid = read_grid(write_grid(tmp_path / "g.yaml", extra=[{"budget": 1e9, "size": "a"}] * 0))
    (tmp_path / "again.yaml").write_text(grid_yaml(grid))
    assert read_grid(tmp_path / "again.yaml") == grid


def test_numbers_may_be_written_as_yaml_takes_for_texts(tmp_path):
    grid = read_grid(write_grid(tmp_path / "g.yaml", training={"lr": "1e-3"}))
    assert grid.training.lr == 0.001


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"bugdets": 1}, "g.yaml: no key `bugdets` .did you mean `budgets`"),
        ({"sizes": {"a": {"hidden": 3}}}, "no key `sizes.a.hidden` .did you mean `hidden_size`"),
        ({"sizes": {"a": {"hidden_size": 32}}}, "`sizes.a.num_hidden_layers` is missing"),
        ({"extra": [{"budget": "1e9", "siz": "a"}]}, "no key `extra.0..siz`"),
        ({"vocab_size": "many"}, "`vocab_size` is `many`, expected a whole number"),
        ({"training": {"lr": "high"}}, "`training.lr` is `high`, expected a number"),
        ({"training": {"schedule": "wsm"}}, "`training.schedule` is `wsm`, expected constant or"),
        ({"training": {"threads": 0}}, "`training.threads` is 0"),
        ({"families": {}}, "`families` is `{}`, expected names"),
        ({"data": {"seq_length": 64}}, "give either `data.corpus` or `data.prefix`"),
        ({"data": {"prefix": "x", "corpus": []}}, "`data.prefix` and `data.valid_prefix`"),
    ],
)
def test_a_wrong_key_or_value_is_one_line_with_file_and_key(tmp_path, changes, line):
    path = tmp_path / "g.yaml"
    path.write_text(yaml.safe_dump(tree(tmp_path) | changes))
    with pytest.raises(UsageError, match=line):
        read_grid(path)


def test_a_missing_section_and_another_kind_of_file_are_named(tmp_path):
    path = tmp_path / "g.yaml"
    path.write_text("sizes: {a: {}}\n")
    with pytest.raises(UsageError, match="`budgets` is missing"):
        read_grid(path)
    path.write_text("- a\n")
    with pytest.raises(UsageError, match=r"g.yaml: expected keys such as `budgets:`"):
        read_grid(path)
