from __future__ import annotations

import pytest

from ling.errors import RunError, UsageError
from ling.eval.bench_infer import BenchOptions
from ling.eval.peers import Restarted, best_of, interval, llama_cpp


def test_peers_take_turns_with_us_and_the_fastest_setting_is_kept(fake):
    options, said = BenchOptions(kind="decode"), []
    best = best_of([fake("slow"), fake("fast"), fake("crash")], options, said.append)
    assert best.name == "fast"
    assert any("crash" in line and "left out" in line for line in said)
    running = best.start(options)
    assert "--context" in running.setting["argv"]
    assert running.measure() == 4.0
    running.stop()
    assert running.process.poll() == 0


def test_no_setting_that_works_is_an_error(fake):
    with pytest.raises(RunError, match="no setting"):
        best_of([fake("crash-a"), fake("crash-b")], BenchOptions(kind="decode"), str)


def test_interpreter_without_llama_cpp_is_named(tmp_path):
    bare = tmp_path / "python"
    bare.write_text("#!/bin/sh\nexit 1\n")
    bare.chmod(0o755)
    with pytest.raises(UsageError, match="llama-cpp-python"):
        llama_cpp("ling-nano", ["q4_0"], tmp_path, str(bare), str)


def test_settings_of_a_file_are_all_that_may_matter(tmp_path):
    able = tmp_path / "python"
    able.write_text("#!/bin/sh\nexit 0\n")
    able.chmod(0o755)
    (tmp_path / "m.gguf").touch()
    peers = llama_cpp(str(tmp_path / "m.gguf"), ["q4_0"], tmp_path, str(able), str)
    assert {(p.flash, p.repack) for p in peers} == {
        (f, r) for f in ("off", "on") for r in ("off", "on")
    }
    assert peers[0].name == "llama.cpp Q4_0 flash=off repack=on"
    with pytest.raises(UsageError, match=r"absent\.gguf: no such GGUF file"):
        llama_cpp("absent.gguf", ["q4_0"], tmp_path, str(able), str)


def test_prefill_is_asked_for_as_such(fake):
    running = fake("fast").start(BenchOptions(kind="prefill", tokens=64))
    assert running.setting["argv"][-2:] == ["--prefill", "64"]
    assert running.request == {"what": "prefill", "tokens": 64}
    running.stop()


def test_experts_are_counted_in_a_step_of_the_measured_shape(fake):
    for options, experts in (
        (BenchOptions(kind="prefill", tokens=64), 1 + 100 * 64),
        (BenchOptions(kind="batch", batch=16), 16 + 100),
    ):
        running = fake("fast").start(options)
        assert running.experts() == experts
        running.stop()
        peer = Restarted(fake("slow"), options)
        assert peer.experts() == experts


def test_peer_without_memory_between_measurements_starts_for_each(fake):
    peer = Restarted(fake("slow"), BenchOptions(kind="decode"))
    assert (peer.measure(), peer.measure()) == (2.0, 2.0)
    peer.stop()


def test_a_single_setting_is_not_measured_to_be_chosen(fake):
    only = fake("crash")
    assert best_of([only], BenchOptions(kind="decode"), str) is only


def test_interval_holds_the_median_of_steady_ratios():
    low, high = interval([1.9, 2.0, 2.1, 2.0, 2.0, 1.95, 2.05])
    assert 1.9 <= low <= 2.0 <= high <= 2.1
