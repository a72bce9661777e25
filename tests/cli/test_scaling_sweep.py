"""`ling scaling sweep`: its options."""

from __future__ import annotations

import pytest
from small_grids import write_grid

from ling.cli.main import main


@pytest.fixture
def refused(tmp_path, capsys):
    """The line of a command that is refused; it leaves no folder."""

    def run(*options):
        grid, out = write_grid(tmp_path / "g.yaml"), tmp_path / "out"
        assert main(["scaling", "sweep", str(grid), "--out", str(out), *options]) == 2
        assert not out.exists()
        return capsys.readouterr().err

    return run


def test_wrong_options_are_one_line(refused):
    assert "`--jobs` is 0, expected at least 1" in refused("--jobs", "0")
    assert "no run `x` in this grid" in refused("--only", "x")
    assert "`--slurm` has `x`, expected `name=value`" in refused("--slurm", "x")
    assert "did you mean `dry-run`" in refused("--dry-rnu")


def test_a_missing_grid_is_named(capsys):
    assert main(["scaling", "sweep", "ling-gird"]) == 2
    assert "ling-gird: no such recipe (did you mean `ling-grid`?)" in capsys.readouterr().err


def test_the_packaged_grid_is_listed_with_its_command(capsys):
    assert main(["recipes"]) == 0
    text = capsys.readouterr().out
    assert "`ling scaling sweep NAME`:\n  ling-grid" in text
