"""Claims that are measured, at scales of seconds: what they report is what they did."""

from __future__ import annotations

import pytest
from small_claims import TINY, measured, values

from ling.config.recipe import DataConfig, PretrainConfig
from ling.errors import RunError
from ling.eval import draft_gain
from ling.eval.needle import NeedleOptions
from ling.eval.needle_train import Course, Stage
from ling.ops import native
from ling.reproduce.claim import Context, Scale
from ling.reproduce.claims import balance, decode, fp8_loss, needle, throughput, wsm
from ling.reproduce.small_runs import recipe, train

pytest.importorskip("matplotlib")
needs_kernels = pytest.mark.skipif(native.library() is None, reason="needs the kernel library")


@pytest.fixture(autouse=True)
def _no_time_for_looks(monkeypatch):
    """A run measures the peak of the machine and draws pictures, seconds each on a busy one."""
    monkeypatch.setattr("ling.train.monitor.gemm_peak", lambda *args, **options: 1e12)
    monkeypatch.setattr("ling.train.monitor.Monitor.draw", lambda self: None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One folder for all claims that train, so that the text is prepared once."""
    return tmp_path_factory.mktemp("claims")


def test_balance_compares_three_runs(folder, one_thread):
    found = measured("balance", folder, **TINY, steps=6)
    assert {len(curve) for curve in found.data["curves"].values()} == {6}
    assert {figure.row for figure in found.figures} == {0, 31}
    sums = values(found)
    assert sums["largest sum of a layer's biases, zero-mean bias"] < 1e-6
    assert [f.outcome for f in found.figures if f.row == 31] == ["agrees"]


def test_fp8_is_held_against_a_control(folder, one_thread):
    found = measured("fp8-loss", folder, **TINY, steps=6, eval_rows=4)
    assert set(found.data["rows"]) == {"bf16", "fp8", "control"}
    assert "control" in found.figures[0].here
    assert 0.9 < values(found)["smallest cosine of a quantised tensor"] <= 1
    dated = [f for f in found.figures if f.how == "committed"]
    assert dated
    assert all("2026-11-29" in f.what for f in dated)


def test_no_committed_curves_give_no_figure(monkeypatch):
    monkeypatch.setattr(fp8_loss, "committed", lambda pattern: None)
    assert fp8_loss.earlier() == []


def test_merges_are_held_against_decays(folder, one_thread, monkeypatch):
    monkeypatch.setattr("ling.eval.wsm.COUNTS", (2, 4))
    found = measured(
        "wsm",
        folder,
        **TINY,
        steps=8,
        interval=2,
        checkpoints=4,
        constant_lr=3e-3,
        held_out_rows=2,
    )
    assert len(found.data["report"]["decays"]) == 2


@pytest.mark.parametrize(
    ("merge", "decay", "outcome"),
    [(2.8, 2.9, "agrees"), (2.9, 2.8, "partly"), (3.1, 2.8, "disagrees")],
)
def test_a_merge_must_be_better_than_the_last_checkpoint(merge, decay, outcome):
    row = {"schedule": "mean", "count": 2, "interval": 5, "window": 5}
    report = {
        "last": {"loss": 3.0},
        "merges": [
            {**row, "loss": merge, "choosing_loss": 1.0},
            {**row, "loss": merge - 0.1, "choosing_loss": 1.1},  # better where it was not chosen
        ],
        "decays": [{"window": 5, "loss": decay, "choosing_loss": 1.0}],
    }
    found = wsm.judged(report)
    assert found.figures[0].outcome == outcome
    assert found.outcome == ("disagrees" if outcome == "disagrees" else "partly")
    windows = {f.row: f.outcome for f in found.figures if f.row}
    assert windows == {35: "disagrees"}  # one window cannot matter more than what is in it
    assert wsm.spreads(report["merges"])["number in the same window"] == pytest.approx(0.1)


def test_throughput_is_measured_in_turn_and_planned(tmp_path, one_thread):
    dense = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "head_dim": 32}
    dense |= {"num_attention_heads": 2, "num_key_value_heads": 1}
    dense |= {"max_window_layers": 2, "first_k_dense_replace": 2}
    found = measured("throughput", tmp_path, dense=dense, rows=1, seq_length=16, pairs=2)
    known = values(found)
    assert known["log of 8 GPUs, tokens/s"] == pytest.approx(97_542, rel=1e-3)
    assert len([f for f in found.figures if f.how == "planned"]) == 12
    assert known["with MTP, times without (8 GPUs)"] < 1.2


@needs_kernels
def test_decoding_is_scaled_to_all_layers(tmp_path, monkeypatch):
    from ling.presets import preset

    small = preset("ling-tiny")
    dense = small.replace(
        num_experts=0,
        num_shared_experts=0,
        num_experts_per_tok=0,
        first_k_dense_replace=3,
        num_nextn_predict_layers=0,
    )
    shapes = {"ling-mini-2.0": small, "dense-8b": dense}
    monkeypatch.setattr(decode, "preset", shapes.get)
    found = measured("decode", tmp_path, layers=2, contexts=[0, 64], steps=3)
    assert [row["context"] for row in found.data["rows"]] == [0, 64]
    assert "scaled to all of them" in found.verdict
    assert {13, 14} <= {figure.row for figure in found.figures}


@pytest.mark.parametrize(
    ("ratios", "outcome", "parts"),
    [
        ((3.0, 3.0, 8.0), "partly", ["agrees", "agrees", "disagrees"]),
        ((3.0, 3.0, 6.9), "partly", ["agrees", "partly", "disagrees"]),
        ((5.0, 3.0, 4.0), "partly", ["agrees", "disagrees", "disagrees"]),
        ((3.0, 1.9, 8.0), "partly", ["disagrees", "agrees", "disagrees"]),
        ((1.5, 1.4, 1.2), "disagrees", ["disagrees"] * 3),
    ],
)
def test_each_part_of_the_claim_on_decoding_is_judged(ratios, outcome, parts):
    rows = [
        {"context": n, "ratio": ratio, "mini": 10.0, "dense": 10 / ratio}
        for n, ratio in zip((0, 2048, 30720), ratios, strict=True)
    ]
    found = decode.judged(rows, 0)
    of_rows = {f.row: f.outcome for f in found.figures if f.row}
    assert [of_rows[row] for row in (13, 14, 16)] == parts
    assert found.outcome == outcome
    assert "scaled" not in found.verdict
    assert found.figures[0].value == min(ratios[:2])  # not the best of all contexts
    assert f"{'above' if parts[0] == 'agrees' else 'not everywhere above'} 2" in found.verdict


@pytest.mark.parametrize(("rates", "outcome"), [((10, 8, 5), "agrees"), ((10, 8, 7), "disagrees")])
def test_the_shape_over_the_context_is_held_against_the_gpus(rates, outcome):
    rows = [
        {"context": n, "ratio": 1.0, "mini": rate, "dense": rate}
        for n, rate in zip((0, 8192, 30720), rates, strict=True)
    ]
    shapes = [f for f in decode.judged(rows, 0).figures if "of its speed at none" in f.what]
    assert [f.outcome for f in shapes] == [outcome] * 2


@pytest.mark.parametrize(
    ("fp8", "control", "outcome"),
    [
        (0.002, -0.001, "agrees"),
        (0.002, 0.05, "open"),  # within by luck: the noise is wider
        (0.01, 0.05, "open"),
        (-0.01, 0.001, "open"),
        (0.01, 0.001, "disagrees"),
        (0.01, 0.005, "disagrees"),
    ],
)
def test_fp8_agrees_only_where_the_noise_is_below_what_is_published(fp8, control, outcome):
    assert fp8_loss.judged(fp8, control)[0] == outcome


@pytest.mark.parametrize(
    ("cosine", "zeros", "outcome"),
    [(0.999, 0.001, "agrees"), (0.9, 0.001, "disagrees"), (0.999, 0.2, "disagrees")],
)
def test_quantising_is_judged_by_its_worst_tensor(cosine, zeros, outcome):
    row = {
        "fp8_cosine": {"weights": 1.0, "activations/attention": cosine},
        "fp8_underflow": {"weights": 0.0, "activations/attention": zeros},
    }
    first = fp8_loss.health([row])[0]
    assert (first.row, first.outcome) == (29, outcome)


@pytest.mark.parametrize(
    ("bias", "none", "outcome"),
    [(1.4, 2.0, "agrees"), (1.9, 2.0, "partly"), (2.1, 2.0, "disagrees")],
)
def test_half_of_the_imbalance_must_go(bias, none, outcome):
    end = {"zero-mean bias": 1.2, "bias": bias, "no bias": none}
    assert balance.balanced(end) == outcome


@pytest.mark.parametrize(
    ("with_mtp", "without", "low", "cost", "outcome"),
    [
        (1.4, 1.6, 1.1, 0.9, "agrees"),
        (1.3, 1.6, 1.1, 0.8, "partly"),  # less than any of the published ones
        (1.4, 1.6, 0.9, 1.1, "disagrees"),
    ],
)
def test_throughput_agrees_from_the_published_ratios_on(with_mtp, without, low, cost, outcome):
    ratios = {
        name: {"median": median, "interval": (low, 2.0)}
        for name, median in (("with MTP", with_mtp), ("without MTP", without))
    }
    assert throughput.judged(ratios, cost) == outcome


@needs_kernels
def test_drafts_change_no_token(folder, one_thread):
    found = measured("mtp", folder, corpus_bytes=600_000, prompts=2, tokens=8)
    same, _, count = found.figures[0].here.split()
    assert same == count
    assert int(count) in (4, 8)  # long enough documents, in four ways
    assert len(found.data["reports"]) == 4
    assert found.verdict.startswith(f"All {count} continuations")


def test_a_draft_that_changes_a_token_is_named():
    class Side:
        seconds = 0.0

        def __init__(self, output):
            self.output = output

        def run(self, prompt, params):
            return self.output

    sides = {"off": Side([1, 2]), "on": Side([1, 3])}
    with pytest.raises(RunError, match="prompt 0: with drafts"):
        draft_gain._ratios(sides, [[1]], draft_gain.Drafts())


def test_a_stopped_run_continues(folder, tmp_path, one_thread, monkeypatch):
    scale = Scale(budget_s=1, settings={**TINY, "steps": 6})
    shared = folder / "shared"
    shared.mkdir(exist_ok=True)
    context = Context(scale=scale, work=tmp_path, shared=shared, log=lambda line: None)
    made = recipe(context)
    monkeypatch.setattr("ling.reproduce.small_runs.run", lambda *args: 130)
    with pytest.raises(KeyboardInterrupt):
        train(context, "one", made)
    monkeypatch.undo()
    rows = train(context, "one", made)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert train(context, "one", made) == rows


def test_needles_are_measured_beyond_the_length_of_training(tmp_path, one_thread, monkeypatch):
    stages = (Stage(24, 2, 2, 3), Stage(32, 2, 2))
    options = NeedleOptions(lengths=(32, 64), depths=(0.5,), rows=2, yarn=(1.0, 4.0))
    monkeypatch.setattr("ling.eval.needle_train.QUICK", Course(stages, options))
    found = measured("needle", tmp_path)
    assert found.outcome == "open"  # two steps teach nothing
    assert found.data["needle"]["trained_length"] == 32
    assert values(found)["right at 64 tokens, YaRN 4"] == 0


@pytest.mark.parametrize(
    ("plain", "four", "eight", "outcome"),
    [
        (256, 1024, 512, "agrees"),
        (256, 512, 512, "partly"),
        (256, 256, 1024, "partly"),  # the claim is about factor 4
        (512, 256, 512, "disagrees"),
        (None, 1024, 1024, "open"),
        (None, None, None, "open"),
    ],
)
def test_yarn_of_factor_four_must_reach_four_times_as_far(plain, four, eight, outcome):
    scalings = [
        {"yarn": yarn, "name": f"YaRN {yarn}", "works_to": to, "by_length": [1.0]}
        for yarn, to in ((1, plain), (4, four), (8, eight))
    ]
    result = {"trained_length": 256, "works": 0.9, "lengths": [256], "rows_of_a_length": 200}
    found = needle.judged({**result, "scalings": scalings})
    assert found.outcome == outcome
    assert found.figures[0].value == four
    assert ("did not learn" in found.verdict) == (plain is None)


def test_a_stopped_training_of_needles_stops_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr("ling.eval.needle_train.train_needle", lambda *args, **options: 130)
    with pytest.raises(KeyboardInterrupt):
        measured("needle", tmp_path)


def test_a_stopped_decay_stops_the_command(tmp_path, monkeypatch):
    from ling.eval import wsm as measuring

    run = tmp_path / "run"
    (run / "step-4").mkdir(parents=True)
    monkeypatch.setattr(measuring, "checkpoints", lambda run: [run / "step-4"])
    monkeypatch.setattr(measuring, "_copy", lambda *args: None)
    monkeypatch.setattr(measuring, "train", lambda *args: 130)
    recipe = PretrainConfig(model="ling-tiny", data=DataConfig(prefix=["data"]))
    said: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        measuring.decay(run, run / "step-2", tmp_path / "out", recipe, "linear", 0.0, said.append)
    assert "the same command continues" in said[0]
