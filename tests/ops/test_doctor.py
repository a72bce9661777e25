"""What `ling doctor` reports, also on machines that lack things."""

from __future__ import annotations

import json
import shutil
from importlib import metadata

import pytest

from ling.cli.main import main
from ling.errors import KernelError
from ling.ops import doctor, machine, native

REQUIRES = [
    "torch>=2.11",
    'fastapi>=0.1; extra == "serve"',
    'no-such-package>=1; extra == "serve"',
    'no-such-package>=1; extra == "all"',
    'absent-tool; extra == "dev"',
    'ling[serve]; extra == "test"',
]


def test_json_has_what_a_bug_report_needs(capsys):
    assert main(["doctor", "--json"]) == 0
    out = capsys.readouterr().out
    assert out.isascii()
    report = json.loads(out)
    assert report["cpu"]["usable_cores"] >= 1
    assert {"total", "available"} <= set(report["memory"])
    assert "free of" in report["disk"]["here"]
    assert report["versions"]["torch"].startswith("2.")
    assert report["install"]["kind"] in ("editable", "copy")
    assert {"ling", "python", "platform", "gpu", "kernels", "environment"} <= set(report)


def test_lines_are_for_people():
    report = doctor.doctor()
    assert all(isinstance(v, str) and "\n" not in v and "{" not in v for v in report.values())


def test_only_absent_extras_are_missing(monkeypatch):
    monkeypatch.setattr(metadata, "requires", lambda name: REQUIRES)
    assert doctor.missing_extras() == ["no-such-package (serve)"]
    assert "torch" in doctor.versions()
    assert "absent-tool" not in doctor.versions()


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("OMP_NUM_THREADS", "3", "3"),
        ("LING_ISA", "avx2", "avx2"),
        ("HF_TOKEN", "hf_abc", "(set)"),
        ("LING_API_KEY", "abc", "(set)"),
        ("https_proxy", "http://me:pass@host:80", "http://...@host:80"),
        ("HOME_SWEET", "x", None),
    ],
)
def test_variables_are_shown_without_secrets(monkeypatch, name, value, shown):
    monkeypatch.setenv(name, value)
    assert doctor.environment().get(name) == shown


def test_absent_kernels_are_explained(monkeypatch):
    monkeypatch.setattr(native, "isa", lambda: "none")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    report = doctor.facts()
    assert report["kernels"].startswith("reference")
    assert "install g++" in report["build"]["compiler"]


def test_the_error_of_a_build_is_shown(monkeypatch, tmp_path):
    (tmp_path / "CMakeLists.txt").write_text("cmake_minimum_required(VERSION 3.10)\nnonsense()\n")
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("no cmake")
    assert "error" in doctor._build_error(cmake, tmp_path).lower()


def test_kernels_that_do_not_load_are_no_crash(monkeypatch, tmp_path):
    (tmp_path / "libling_kernels.so").write_text("no library")
    with pytest.raises(KernelError, match="does not load"):
        native._loaded(tmp_path / "libling_kernels.so")

    def broken():
        raise KernelError("libling_kernels.so does not load")

    monkeypatch.setattr(native, "isa", broken)
    assert doctor._kernels() == "reference (libling_kernels.so does not load)"


def test_gpus_are_those_of_the_drivers_tool(monkeypatch, tmp_path):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA H100, 81559 MiB, 550.54'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert machine.gpus() == [{"name": "NVIDIA H100", "memory": "81559 MiB", "driver": "550.54"}]
    tool.write_text("#!/bin/sh\necho 'no devices'; exit 9\n")
    assert machine.gpus() == []


def test_unreadable_machines_are_no_error(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "none")
    monkeypatch.setattr(machine, "MEMINFO", tmp_path / "none")
    assert machine.cpu()["usable_cores"] >= 1
    assert "total" not in machine.memory()
