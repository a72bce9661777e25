from __future__ import annotations

import json
import statistics

import pytest

from ling.cli.main import main
from ling.config.engine import EngineConfig
from ling.errors import UsageError
from ling.eval import bench_infer, bench_report
from ling.eval.bench_infer import BenchOptions, Ours, bench
from ling.eval.peers import Peer
from ling.ops import native

needs_library = pytest.mark.skipif(native.library() is None, reason="no kernel library")


@needs_library
@pytest.mark.parametrize("kind", ["decode", "prefill", "batch"])
def test_bench_of_a_preset_makes_its_weights_once_and_reports(kind, tmp_path, capsys):
    args = ["bench", kind, "ling-nano", "--cache", str(tmp_path), "--pairs", "2", "--tokens", "8"]
    for _ in range(2):
        assert main([*args, "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    report = json.loads(lines[-1])
    assert (report["kind"], report["format"], len(report["samples"])) == (kind, "int4", 2)
    assert report["tokens_per_s"] == statistics.median(report["samples"]) > 0
    assert report["read_limit_gb_per_s"] > 0
    assert 0 <= report["python_overhead"] < 1
    assert sum(s["share"] for s in report["stages"].values()) == pytest.approx(1)
    assert [p.name for p in tmp_path.iterdir()] == ["ling-nano-int4"]


@needs_library
@pytest.mark.parametrize(("small_kv", "share"), [("int8", 0.6), ("int4", 0.35)])
def test_bench_with_a_small_cache_reads_less_and_says_so(tmp_path, small_kv, share):
    def report(kv):
        engine = EngineConfig(kv_cache_dtype=kv)
        options = BenchOptions(kind="decode", context=300, tokens=4, pairs=1, engine=engine)
        return bench("ling-nano", options, cache=str(tmp_path), log=str)

    plain, small = report("bf16"), report(small_kv)
    assert small["stages"]["attention"]["gb"] < share * plain["stages"]["attention"]["gb"]
    assert f"{small_kv} KV cache" in small["line"]
    assert "KV cache" not in plain["line"]


@needs_library
def test_coin_keeps_about_the_asked_share_of_drafts(tmp_path):
    options = BenchOptions(
        kind="decode",
        tokens=60,
        pairs=5,
        acceptance=0.75,
        engine=EngineConfig(speculative="mtp", num_drafts=1),
    )
    report = bench("ling-nano", options, cache=str(tmp_path), log=str)
    assert 0.6 < report["acceptance_measured"] < 0.9


@needs_library
def test_drafting_takes_turns_with_plain_decoding(tmp_path):
    drafting = EngineConfig(speculative="mtp", num_drafts=2)
    options = BenchOptions(kind="decode", tokens=20, pairs=2, acceptance=0.75, engine=drafting)
    report = bench("ling-nano", options, against="plain", cache=str(tmp_path), log=str)
    assert report["against"] == "plain"
    assert report["ratio"] > 0
    ours = Ours(tmp_path / "ling-nano-int4", options)
    ours.measure_plain()
    assert ours.engine.stats.drafted == 0
    ours.measure()
    assert ours.engine.stats.drafted > 0


def test_only_drafting_is_compared_with_plain_decoding(tmp_path):
    for options in (
        BenchOptions(kind="decode"),
        BenchOptions(kind="prefill", engine=EngineConfig(speculative="mtp")),
    ):
        with pytest.raises(UsageError, match="without drafts"):
            bench("ling-nano", options, against="plain", cache=str(tmp_path), log=str)


@needs_library
def test_context_is_computed_once_and_reused(tmp_path):
    bench("ling-nano", BenchOptions(kind="decode", tokens=4, pairs=1), cache=str(tmp_path), log=str)
    options = BenchOptions(kind="decode", context=200, tokens=4, pairs=1)
    ours = Ours(tmp_path / "ling-nano-int4", options)
    ours.measure()
    request = ours.engine.add(ours.prompts[0], ours.params())
    ours.engine.step()
    assert request.num_cached_tokens == 192


@needs_library
def test_models_that_do_not_fit_together_are_loaded_for_their_turns(fake, tmp_path, monkeypatch):
    options = BenchOptions(kind="decode", tokens=4, pairs=3)
    bench("ling-nano", options, cache=str(tmp_path), log=str)
    peer, started, read_in = fake("fast"), [], []
    peer.model.touch()
    start = Peer.start
    monkeypatch.setattr(Peer, "start", lambda *a: started.append(start(*a)) or started[-1])
    monkeypatch.setattr(bench_infer.Ours, "map_in", lambda self: read_in.append(1))
    for room, processes in ((1 << 50, 1), (1 << 20, 3)):
        started.clear()
        monkeypatch.setattr(bench_infer, "memory_available", lambda room=room: room)
        report = bench_infer.run(tmp_path / "ling-nano-int4", "x", options, peers=[peer], log=str)
        # One more, where each has its turn, counts the experts.
        assert len(started) == (processes if processes == 1 else processes + 1)
        assert report["theirs"] == 4.0
        assert report["theirs_experts"] == 101
        assert all(p.process.poll() == 0 for p in started)
    assert len(read_in) == 3


@needs_library
def test_only_the_asked_settings_of_a_peer_run(tmp_path, monkeypatch):
    every = [Peer(f"llama.cpp Q4_0 flash={f}", "p", tmp_path, 2, f, "on") for f in ("off", "on")]
    monkeypatch.setattr(bench_infer, "llama_cpp", lambda *_: every)
    ran = []
    monkeypatch.setattr(bench_infer, "run", lambda *_, peers, **__: ran.extend(peers) or {})
    options = BenchOptions(kind="decode", tokens=4, pairs=1)
    kwargs = {"cache": str(tmp_path), "log": str, "against": "llama.cpp"}
    bench("ling-tiny", options, peer_settings="flash=on", **kwargs)
    assert ran == every[1:]
    with pytest.raises(UsageError, match=r"there are llama\.cpp Q4_0 flash=off"):
        bench("ling-tiny", options, peer_settings="flash=maybe", **kwargs)


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (["bench", "decode", "ling-nano", "--pairs", "0"], "--pairs"),
        (["bench", "decode", "ling-nano", "--against", "vim"], "llama.cpp"),
        (["bench", "start", "ling-nano", "--against", "llama.cpp"], "leave out"),
        (["bench", "fly"], "decode"),
    ],
)
def test_bad_bench_usage_is_one_line(args, word, capsys):
    assert main(args) == 2
    error = capsys.readouterr().err
    assert word in error
    assert error.count("\n") == 1


@pytest.fixture
def quick_limits(monkeypatch):
    """The machine's limits, which take most of a short measurement, are not what is asked."""
    monkeypatch.setattr(bench_infer, "READ_BYTES", 1 << 20)
    monkeypatch.setattr(bench_report, "int8_peak", lambda: 1e11)


@needs_library
@pytest.mark.usefixtures("quick_limits")
@pytest.mark.parametrize("kv", ["bf16", "int8", "int4"])
def test_a_context_of_noise_is_decoded_behind_without_a_prompt_being_read(tmp_path, kv):
    """Beyond the model's own context, too."""
    engine = EngineConfig(kv_cache_dtype=kv)
    options = BenchOptions(
        kind="decode", context=4096, tokens=4, pairs=1, engine=engine, noise_cache=True
    )
    report = bench("ling-nano", options, cache=str(tmp_path), log=str)
    assert "context 4096 of noise" in report["line"]
    ours = Ours(tmp_path / "ling-nano-int4", options)
    request = ours._begin()[0]
    assert request.num_cached_tokens == 4096
    page = ours.runner.page(request.block_table.pages[3])[0]
    assert page.float().std() > 1
    assert ours.runner.config.rope_scaling["factor"] == 2


@needs_library
@pytest.mark.usefixtures("quick_limits")
def test_some_layers_of_a_preset_are_scaled_to_all(tmp_path):
    options = BenchOptions(kind="decode", context=64, tokens=8, pairs=1, layers=2)
    report = bench("ling-nano", options, cache=str(tmp_path), log=str)
    assert (report["measured_layers"], report["all_layers"]) == (2, 5)
    assert 0.4 * report["tokens_per_s"] < report["scaled_tokens_per_s"] < report["tokens_per_s"]
    assert report["scaled_kv_cache_gb"] == pytest.approx(2 * report["kv_cache_gb"])
    assert "2 of 5 layers, scaled to all" in report["line"]


def test_noise_and_layers_are_refused_where_they_mean_nothing(tmp_path):
    with pytest.raises(UsageError, match="`noise_cache` stands for a `context`"):
        BenchOptions(kind="decode", noise_cache=True)
    for model, layers, line in (
        (str(tmp_path), 1, "`layers` is for presets"),
        ("ling-nano", 5, "`layers` is 5, and ling-nano has 5"),
    ):
        options = BenchOptions(kind="decode", layers=layers)
        with pytest.raises(UsageError, match=line):
            bench(model, options, cache=str(tmp_path), log=str)
