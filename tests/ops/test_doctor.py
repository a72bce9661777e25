"""`ling doctor`: one line a fact, and the facts are those of this process."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from ling.ops import doctor as module
from ling.ops import native
from ling.ops.doctor import doctor


def test_doctor_says_what_is_in_use_and_finds_one_openmp_runtime():
    report = doctor()
    assert native.isa() in " ".join(report.values())
    assert len(report["openmp"].split(", ")) == 1


def test_every_fact_is_one_line_about_this_process():
    report = doctor()
    assert all(text and text.isprintable() for text in report.values())
    assert report["torch"] == torch.__version__
    assert report["python"] == sys.version.split()[0]
    assert report["threads"] == str(torch.get_num_threads())


def test_packages_that_are_missing_are_named_with_their_extra(monkeypatch):
    gone = ("uvicorn", "matplotlib")
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: name not in gone)
    assert doctor()["missing extras"] == "uvicorn (serve), matplotlib (plot)"
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: True)
    assert doctor()["missing extras"] == "none"


def test_a_library_that_is_not_built_is_said_with_its_reason(monkeypatch):
    monkeypatch.setattr(native, "isa", lambda: "none")
    assert doctor()["kernels"] == "reference (library not built: no C++ compiler at install)"
    monkeypatch.setattr(native, "isa", lambda: "avx2")
    assert doctor()["kernels"] == "native/avx2"


def test_two_openmp_runtimes_are_both_found(tmp_path, monkeypatch):
    maps = tmp_path / "maps"
    maps.write_text(
        "7f00-7f01 r-xp 00000000 08:01 1 /usr/lib/libgomp.so.1\n"
        "7f02-7f03 r--p 00001000 08:01 1 /usr/lib/libgomp.so.1\n"
        "7f04-7f05 r-xp 00000000 08:01 2 /opt/torch/lib/libiomp5.so\n"
        "7f06-7f07 r-xp 00000000 08:01 3 /usr/lib/libc.so.6\n"
        "7f08-7f09 rw-p 00000000 00:00 0 [heap]\n"
    )
    proc = {"/proc/self/maps": maps}
    monkeypatch.setattr(module, "Path", lambda name: proc.get(name) or Path(name))
    assert doctor()["openmp"] == "libgomp.so.1, libiomp5.so"
    maps.unlink()
    assert doctor()["openmp"] == "none"
