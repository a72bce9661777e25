from __future__ import annotations

import pytest
import torch

from ling.checkpoint.hf.save import save_model
from ling.config.engine import EngineConfig
from ling.eval.bench_infer import BenchOptions, bench
from ling.eval.roofline import Cost, Drafted, Recorder, Step, roofline, stage_costs
from ling.infer.engine import Engine
from ling.infer.memory import kv_page_bytes
from ling.infer.open import open_runner
from ling.infer.request import SamplingParams
from ling.model.ling import from_config
from ling.model.size import kv_bytes_per_token, parameter_counts
from ling.ops import native
from ling.presets import preset

needs_library = pytest.mark.skipif(native.library() is None, reason="no kernel library")


@pytest.mark.parametrize("name", ["ling-mini-2.0", "ling-flash-2.0", "dense-8b", "ling-nano"])
def test_one_token_reads_the_active_parameters_and_its_keys_and_values(name):
    cfg = preset(name)
    step = Step(1, 1, 1000, 1000, cfg.num_experts_per_tok)
    costs = stage_costs(cfg, 16, step)
    weights = parameter_counts(cfg)["active_non_embedding"] + cfg.vocab_size * cfg.hidden_size
    want = 2 * weights + 1000 * kv_bytes_per_token(cfg)
    assert sum(c.bytes for c in costs.values()) == pytest.approx(want, rel=1e-3)  # norms
    matrices = sum(c.ops for n, c in costs.items() if n != "attention")
    assert matrices == pytest.approx(2 * weights, rel=1e-3)


def test_a_draft_reads_the_mtp_layer_and_its_part_of_the_head():
    cfg = preset("ling-mini-2.0")
    plain = Step(1, 1, 0, 0, 8)
    drafted = plain._replace(drafted=Drafted(1, 8, 16384))
    bytes_of = [sum(c.bytes for c in stage_costs(cfg, 16, s).values()) for s in (plain, drafted)]
    idle = 3 * cfg.hidden_size * cfg.moe_intermediate_size * (cfg.num_experts - 8)
    extra = parameter_counts(cfg)["mtp"] - idle + 16384 * cfg.hidden_size
    assert bytes_of[1] - bytes_of[0] == pytest.approx(2 * extra, rel=1e-3)


def test_further_passes_read_the_layer_again():
    cfg = preset("ling-mini-2.0")
    once = Step(1, 1, 100, 100, 8, Drafted(1, 8, 16384))
    twice = once._replace(drafted=Drafted(2, 16, 2 * 16384, passes=2))
    plain = once._replace(drafted=None)
    bytes_of = [sum(c.bytes for c in stage_costs(cfg, 4, s).values()) for s in (plain, once, twice)]
    assert bytes_of[2] - bytes_of[0] == pytest.approx(2 * (bytes_of[1] - bytes_of[0]))


@pytest.mark.parametrize(("kv", "bits"), [("int8", 8), ("int4", 4)])
def test_pages_of_integers_are_counted_as_they_are(kv, bits):
    cfg = preset("ling-mini-2.0")
    step = Step(rows=1, head_rows=1, positions=16384, pairs=16384, experts=8)
    plain = stage_costs(cfg, 4.25, step)
    small = stage_costs(cfg, 4.25, step, page_bytes=kv_page_bytes(cfg, kv))
    ratio = small["attention"].bytes / plain["attention"].bytes
    assert ratio == pytest.approx((cfg.head_dim * bits / 8 + 4) / (2 * cfg.head_dim))
    assert plain["attention"].bytes == 16384 * cfg.num_hidden_layers * 4 * cfg.kv_size
    assert small["attention"].ops == plain["attention"].ops


def test_the_nearer_limit_is_the_roofline():
    report = roofline(
        {"a": Cost(10, 10), "b": Cost(1, 100)}, {"a": 2.0, "b": 4.0, "c": 2.0}, 10, 50
    )
    assert report["a"]["roofline"] == pytest.approx(0.5)
    assert report["b"]["roofline"] == pytest.approx(0.5)
    assert report["c"] == {"seconds": 2.0, "share": 0.25}


@needs_library
def test_recorder_counts_rows_positions_and_experts_and_changes_nothing(tmp_path):
    cfg = preset("ling-tiny")
    (tmp_path / "m").mkdir()
    save_model(from_config(cfg, seed=0, dtype=torch.float32), cfg, tmp_path / "m")
    params = SamplingParams(temperature=0, max_tokens=5, ignore_eos=True)

    def run(recorded):
        config = EngineConfig(format="int4", max_model_len=64)
        engine = Engine(open_runner(tmp_path / "m", config), config)
        recorder = Recorder(engine.runner)
        if recorded:
            engine.runner = recorder
        requests = [engine.add([1, 2, 3], params), engine.add([4, 5, 6, 7], params)]
        while engine.has_work:
            engine.step()
        return [r.output for r in requests], recorder

    plain, _ = run(False)
    tokens, recorder = run(True)
    assert tokens == plain
    step = recorder.mean()
    assert recorder.steps == 5  # the prompts together, then four tokens each
    assert step.rows * 5 == 3 + 4 + 4 * 2
    assert step.head_rows * 5 == 2 * 5
    assert step.positions * 5 == (3 + 4) + sum(3 + i + 4 + i for i in range(1, 5))
    assert step.pairs * 5 == (6 + 10) + sum(3 + i + 4 + i for i in range(1, 5))
    assert cfg.num_experts_per_tok <= step.experts <= cfg.num_experts


@needs_library
def test_batch_reads_more_experts_than_a_token_and_fewer_than_all_rows_alone(tmp_path):
    options = BenchOptions(kind="batch", batch=8, tokens=6, pairs=1)
    report = bench("ling-nano", options, cache=str(tmp_path), log=str)
    assert 4 < report["experts_per_step"] <= 32
    assert report["tokens_per_step"] == 8
    assert report["share_of_limit"] > 0


@needs_library
def test_start_is_timed_in_a_process_of_its_own(tmp_path):
    report = bench("ling-tiny", BenchOptions(kind="start", pairs=1), cache=str(tmp_path), log=str)
    assert report["seconds"] == report["samples"][0] > 0.1
