"""A sweep as Slurm jobs; stand-ins for Slurm's programs run them here."""

from __future__ import annotations

import sys
import time

import pytest
from small_grids import write_grid

from ling.errors import UsageError
from ling.scaling.grid_file import read_grid
from ling.scaling.submit import submit
from ling.scaling.sweep_folder import results

# Starts the tasks of an array one after the other in the background: they wait for what is written
# once sbatch has ended.
SBATCH = """#!{python}
import os, re, subprocess, sys
if sys.argv[1] != "--run":
    text = open(sys.argv[1]).read()
    open({log!r}, "a").write(text)
    with open(os.devnull, "w") as null:
        subprocess.Popen([*sys.orig_argv[:2], "--run", sys.argv[1]], stdout=null, stderr=null)
    print("Submitted batch job 7")
    sys.exit()
count = int(re.search(r"--array=0-([0-9]+)", open(sys.argv[2]).read())[1]) + 1
names = "JOB_NUM_NODES=1 NTASKS=1 NODEID=0 PROCID=0 LOCALID=0 JOB_NODELIST=here ARRAY_JOB_ID=7"
for task in range(count):
    words = [*names.split(), f"JOB_ID={{100 + task}}", f"ARRAY_TASK_ID={{task}}"]
    given = dict(("SLURM_" + word).split("=") for word in words)
    subprocess.run(["bash", sys.argv[2]], env=os.environ | given)
"""
# Its options end where the program's name begins.
SRUN = """#!{python}
import os, sys
words = sys.argv[1:]
while words[0].startswith("-"):
    words = words[1:] if "=" in words[0] or words[0].startswith("--unb") else words[2:]
os.execv(words[0], words)
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """The batch script that was submitted."""
    pytest.importorskip("submitit")
    log, programs = tmp_path / "batch", tmp_path / "bin"
    programs.mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", SRUN)):
        program = programs / name
        program.write_text(text.format(python=sys.executable, log=str(log)))
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    return log


def quiet(text):
    pass


@pytest.mark.slow
def test_an_array_trains_all_runs_that_are_left(slurm, tmp_path):
    grid = read_grid(write_grid(tmp_path / "g.yaml"))
    jobs = submit(grid, tmp_path / "out", ["partition=short", "mem=2G"], quiet, at_once=1)
    assert len(jobs) == 2
    end = time.monotonic() + 120
    while len(results(tmp_path / "out")) < 2:
        assert time.monotonic() < end
        time.sleep(0.2)
    assert {row.status for row in results(tmp_path / "out").values()} == {"done"}
    script = slurm.read_text()
    for option in ("--partition=short", "--mem=2G", "--array=0-1%1", "--time=30"):
        assert f"#SBATCH {option}" in script
    assert submit(grid, tmp_path / "out", [], quiet) == []


def test_an_unknown_option_is_refused(slurm, tmp_path):
    grid = read_grid(write_grid(tmp_path / "g.yaml"))
    with pytest.raises(UsageError, match=r"`--slurm`: Unavailable parameter.*partitoin"):
        submit(grid, tmp_path / "out", ["partitoin=short"], quiet)


@pytest.mark.parametrize("option", ["short", "=short"])
def test_an_option_is_a_name_and_a_value(tmp_path, option):
    grid = read_grid(write_grid(tmp_path / "g.yaml"))
    with pytest.raises(UsageError, match="expected `name=value`"):
        submit(grid, tmp_path / "out", [option], quiet)
    assert not (tmp_path / "out").exists()


def test_without_submitit_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    grid = read_grid(write_grid(tmp_path / "g.yaml"))
    with pytest.raises(UsageError, match=r"pip install 'ling\[slurm\]'"):
        submit(grid, tmp_path / "out", [], quiet)
