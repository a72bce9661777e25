"""The script as its users start it, at small size on the CPU, with no package but what torch,
Triton and transformers bring."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from gpu_check.__main__ import STAGES, main
from gpu_check.page import page
from gpu_check.record import gpu_here, read_record

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "gpu_check"

# What the named packages need, as they say themselves; nothing else is found.
ONLY_THESE = """
import importlib.machinery, sys

ALLOWED = set('''
torch torchgen functorch triton transformers numpy sympy mpmath networkx jinja2 markupsafe fsspec
filelock typing_extensions setuptools tokenizers safetensors huggingface_hub yaml regex packaging
tqdm requests httpx ling gpu_check
'''.split())


class Allowed:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names or top in ALLOWED or top.startswith("_"):
            return importlib.machinery.PathFinder.find_spec(name, path, target)


finder = importlib.machinery.PathFinder
sys.meta_path = [Allowed() if f is finder else f for f in sys.meta_path]
"""


def started(*args, blocked: Path | None = None):
    path = [str(blocked)] if blocked else []
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([*path, str(ROOT / "src")]),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, args)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The file of a run of all stages."""
    folder = tmp_path_factory.mktemp("gpu_check")
    (folder / "sitecustomize.py").write_text(ONLY_THESE)
    done = started("--tiny", "--out", folder / "found.json", blocked=folder)
    assert done.returncode == 0, done.stderr
    return folder / "found.json"


def test_every_stage_runs_to_its_end_on_a_cpu(tiny):
    stages = read_record(tiny)["stages"]
    assert list(stages) == list(STAGES)
    assert {name: stage["status"] for name, stage in stages.items()} == dict.fromkeys(
        STAGES, "done"
    )
    fine = {"ok"} if find_spec("triton") else {"ok", "missing"}
    odd = {
        f"{name}: {entry['name']}": (entry["status"], entry.get("error"))
        for name, stage in stages.items()
        for entry in stage["entries"]
        if entry["status"] not in fine
    }
    assert odd == {}
    assert all(stage["entries"] for stage in stages.values())


def test_the_file_names_versions_and_sources(tiny):
    machine = read_record(tiny)["machine"]
    assert machine["gpu"] is None
    assert machine["torch"]
    assert len(machine["source"]) == 12


def test_names_of_checks_are_unique(tiny):
    for stage in read_record(tiny)["stages"].values():
        names = [entry["name"] for entry in stage["entries"]]
        assert len(names) == len(set(names))


def test_a_page_has_every_stage_and_says_that_it_was_a_cpu(tiny):
    text = page(tiny)
    assert "its times mean nothing" in text
    for title in ("upstream's results", "FP8 beside", "training needs", "Rates", "full width"):
        assert f"## {title}" in text or title in text
    assert "Decoding, one request" in text


def in_process(monkeypatch, *args):
    """What a command ends with, in this process."""
    monkeypatch.setattr(sys, "argv", ["gpu_check", *map(str, args)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def test_without_a_gpu_it_says_so_in_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("gpu_check.__main__.gpu_here", lambda: None)
    assert in_process(monkeypatch, "--out", tmp_path / "found.json") == 2
    assert "torch sees no GPU" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "found.json").exists()


def test_this_machine_has_no_gpu_or_names_it():
    found = gpu_here()
    assert found is None or {"name", "memory", "driver"} <= set(found)


def test_a_place_that_cannot_be_written_to_is_one_line(monkeypatch, tmp_path):
    out = tmp_path / "absent" / "found.json"
    said = in_process(monkeypatch, "--tiny", "--out", out)
    assert said.startswith(f"gpu_check: {out}: cannot write here")


def test_other_files_are_no_results(monkeypatch, tmp_path):
    (tmp_path / "other.json").write_text(json.dumps({"format": 0}))
    said = in_process(monkeypatch, "--page", tmp_path / "other.json", "--to", tmp_path / "page.md")
    assert said == f"{tmp_path / 'other.json'}: no record of gpu_check of format 1"


def test_without_fixtures_the_cpu_is_the_reference(tmp_path):
    out, absent = tmp_path / "found.json", tmp_path / "absent"
    done = started("--tiny", "--out", out, "--stages", "parity", "--fixtures", absent)
    assert done.returncode == 0, done.stderr
    entries = read_record(out)["stages"]["parity"]["entries"]
    assert "ling-tiny on the CPU gradients grouped" in {entry["name"] for entry in entries}
    assert {entry["status"] for entry in entries} == {"ok"}
