"""What a sweep would do."""

from __future__ import annotations

from small_grids import write_grid

from ling.cli.main import main


def test_the_table_of_a_grid_has_every_run_and_the_sum(tmp_path, capsys):
    grid = write_grid(tmp_path / "g.yaml")
    assert main(["scaling", "sweep", str(grid), "--dry-run", "--jobs", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [
        "run",
        "1e9-a-dense-seed1",
        "1e9-a-1of4-seed1",
        "2",
    ]
    assert "2 runs" in lines[-1]
    assert "with 2 at a time" in lines[-1]
