"""Claims that are counted or computed: exact, and wrong code would show."""

from __future__ import annotations

import dataclasses

import pytest
from scaling_rows import sweep, write_rows
from small_claims import measured, values

from ling.reproduce.claims import (
    fp8_exact,
    fp8_states,
    kv_bytes,
    laws,
    leverage,
    merge_weights,
    pipeline,
    prediction,
    sizes,
)
from ling.scaling.noise import seed_noise

pytest.importorskip("matplotlib")


def test_sizes_of_the_released_models(tmp_path):
    found = measured("sizes", tmp_path)
    assert found.outcome == "agrees"
    exact = values(found)
    assert exact["ling-mini-2.0, parameters"] == 16_255_638_528
    assert exact["ling-mini-2.0, activated"] == 1_432_968_192
    assert exact["ling-mini-2.0, activated, without embedding and head"] == 789_142_528
    assert sizes.number("4.8B") == 4.8e9


def test_a_published_size_that_is_not_ours_is_seen(tmp_path, monkeypatch):
    monkeypatch.setitem(sizes.PUBLISHED, "ling-1t", {"total": "2T"})
    found = measured("sizes", tmp_path)
    assert found.outcome == "partly"
    assert "ling-1t" in found.verdict
    of_rows = {f.row: f.outcome for f in found.figures if f.row}
    assert of_rows == {1: "agrees", 2: "agrees", 3: "disagrees", 4: "agrees"}


def test_kv_bytes_are_those_of_a_page(tmp_path, monkeypatch):
    found = measured("kv-bytes", tmp_path, pages=2)
    assert found.outcome == "agrees"
    assert values(found)["Ling-mini, bfloat16, bytes a token"] == 40_960
    monkeypatch.setattr(kv_bytes, "allocated_bytes", lambda context: 1.0)
    assert measured("kv-bytes", tmp_path, pages=2).outcome == "disagrees"


def test_laws_give_the_settings_of_the_released_models(tmp_path, monkeypatch):
    found = measured("laws", tmp_path)
    assert found.outcome == "partly"  # nothing is trained, so 0.25% of the loss is not shown
    assert all(f.published != f.here for f in found.figures)  # no constant beside itself
    assert 8 <= laws.best_granularity() <= 12
    monkeypatch.setattr(laws, "RELEASED", (laws.Released("ling-mini-2.0", 3.5e-4, 4400),))
    assert measured("laws", tmp_path).outcome == "disagrees"


def test_leverage_is_the_formula_until_there_are_results(tmp_path, monkeypatch):
    monkeypatch.setattr(leverage, "committed", lambda pattern: None)
    found = measured("leverage", tmp_path)
    assert found.figures[0].how == "formula"
    assert found.figures[0].value == pytest.approx(7.245, abs=0.01)
    assert [f.value > 7 for f in found.figures[1:]] == [False, True]  # Ling-mini at two computes


def test_leverage_of_a_sweep_comes_first(tmp_path, monkeypatch):
    pytest.importorskip("scipy")
    monkeypatch.setattr("ling.scaling.noise.REPLICAS", 20)
    path = tmp_path / "2026-11-30-ling-grid.jsonl"
    write_rows(path, sweep(families=("dense", "1/8", "1/32")))
    monkeypatch.setattr(leverage, "committed", lambda pattern: path)
    found = measured("leverage", tmp_path)
    assert found.figures[0].how == "committed"
    read = found.data["read"]
    assert "1/32" in found.figures[0].what  # the sparsest, nearest to the claim's
    assert path.name in found.verdict
    assert f"{1e22 / max(r['flops'] for r in read):.0e} times as much" in found.verdict
    assert "not all are known" in found.verdict


def test_intervals_of_leverage_are_those_of_the_run_s_seed(tmp_path):
    pytest.importorskip("scipy")
    path = tmp_path / "rows.jsonl"
    write_rows(path, sweep(families=("dense", "1/8"), sigma=0.01, seed=1, seeds_at=1e14))
    first, again, other = (leverage.measured(path, seed) for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize(
    ("points", "outcome"),
    [
        ([(1e13, 0.9, 0.1), (1e14, 1.2, 0.1)], "agrees"),
        ([(1e13, 1.9, 0.1), (1e14, 2.0, 0.1)], "open"),  # within the noise
        ([(1e13, 1.2, None), (1e14, 2.4, None)], "open"),  # of unknown noise
        ([(1e13, 0.9, 0.0), (1e14, 1.1, 0.2)], "open"),  # above 1 perhaps
        ([(1e13, 1.2, 0.0), (1e14, 1.1, 0.0)], "open"),
        ([(1e13, 0.7, 0.0), (1e14, 0.75, 0.04)], "disagrees"),
        ([(1e13, 0.7, 0.0), (1e14, 0.75, 0.1)], "open"),
        ([(1e13, 0.7, 0.0), (1e14, 0.75, None)], "open"),
        ([(1e13, 0.8, 0.0), (1e14, 0.9, 0.0)], "open"),  # below 1, and what the law says
        ([(1e13, 1.2, 0.0), (5e13, 1.5, 0.01), (1e14, 1.4, 0.01)], "open"),  # falls at its end
        ([(1e13, 1.2, 0.0), (5e13, 1.5, 0.1), (1e14, 1.4, 0.1)], "agrees"),  # or not
        ([(1e13, 1.2, 0.0)], "open"),
        ([], "open"),
    ],
)
def test_leverage_agrees_where_it_ends_above_one_and_grows(points, outcome):
    read = [
        {
            "family": "1/8",
            "flops": c,
            "leverage": el,
            "law": 0.8,
            "leverage_interval": None if noise is None else (el - noise, el + noise),
        }
        for c, el, noise in points
    ]
    assert leverage._outcome(read) == outcome


def test_nothing_is_predicted_without_results(tmp_path, monkeypatch):
    monkeypatch.setattr(prediction, "committed", lambda pattern: None)
    found = measured("prediction", tmp_path)
    assert (found.outcome, found.figures[0].value) == ("open", 0)


def test_held_out_losses_are_held_against_their_predictions(tmp_path, monkeypatch):
    pytest.importorskip("scipy")
    monkeypatch.setattr("ling.scaling.noise.REPLICAS", 20)
    rows = [
        dataclasses.replace(row, held_out=True, loss=row.final_loss + 0.05)
        if row.size == "l1e+14"
        else row
        for row in sweep(families=("dense", "1/8"), seeds_at=1e14)
    ]
    path = tmp_path / "2026-11-30-ling-grid.jsonl"
    write_rows(path, rows)
    monkeypatch.setattr(prediction, "committed", lambda pattern: path)
    found = measured("prediction", tmp_path)
    assert found.data["fitted"] == len(rows) - 2
    errors = values(found)
    assert errors.pop("largest error of 2 predicted losses, nats") == max(map(abs, errors.values()))
    assert [name.split(":")[0] for name in errors] == ["dense-l-1e+14-0-x1", "1/8-l-1e+14-0-x1"]
    assert all(error == pytest.approx(0.05, abs=0.01) for error in errors.values())
    assert found.outcome == "disagrees"  # seeds of the made-up sweep give the same loss
    assert "0 of 2 losses are inside" in found.verdict


def test_the_noise_of_a_prediction_is_that_of_seeds(tmp_path):
    pytest.importorskip("scipy")
    rows = sweep(families=("dense", "1/8"), sigma=0.01, seed=1, seeds_at=1e14)
    write_rows(tmp_path / "rows.jsonl", rows)
    noise = prediction.predicted(tmp_path / "rows.jsonl", 0)["noise"]
    assert noise == pytest.approx(4.3027 * seed_noise(rows).sigma, rel=1e-4)  # of two differences


@pytest.mark.parametrize(
    ("errors", "noise", "result"),
    [
        ([0.01, -0.009], 0.0, "agrees"),
        ([0.002], None, "agrees"),
        ([0.002, -0.03], 0.015, "disagrees"),
        ([0.002, -0.03], 0.025, "open"),  # another seed could have moved it as far
        ([0.03], None, "open"),
        ([], 0.01, "open"),
    ],
)
def test_an_error_is_too_large_where_no_seed_explains_it(errors, noise, result):
    assert prediction.outcome([{"error": error} for error in errors], noise) == result


def test_states_have_the_published_bytes(tmp_path, monkeypatch):
    found = measured("fp8-states", tmp_path, parameters=1 << 13)
    assert found.outcome == "agrees"
    assert found.figures[0].value == 2 + 8 / 256
    monkeypatch.setattr(fp8_states, "allocated", lambda name, parameters: 8.0)
    assert measured("fp8-states", tmp_path, parameters=1 << 13).outcome == "disagrees"


def test_savings_of_fp8_change_no_bit_that_they_must_not(tmp_path):
    found = measured("fp8-exact", tmp_path, shape=[128, 256, 40])
    assert found.outcome == "agrees"
    assert values(found)["transposed on demand: bytes of FP8 weights"] == 0.5


@pytest.mark.parametrize("found", [(True, 0.002), (False, 0.0)])
def test_a_gradient_or_output_that_differs_is_seen(tmp_path, monkeypatch, found):
    monkeypatch.setattr(fp8_exact, "padded", lambda context: found)
    result = measured("fp8-exact", tmp_path, shape=[128, 256, 40])
    assert result.outcome == "partly"
    assert {f.row: f.outcome for f in result.figures if f.row} == {27: "agrees", 28: "disagrees"}


def test_round_trips_keep_the_bits(tmp_path):
    found = measured("conversion", tmp_path)
    assert found.outcome == "agrees"
    assert len(found.figures) == 6
    assert not any((tmp_path / "work" / "conversion").iterdir())


def test_a_merge_acts_like_its_decay(tmp_path):
    assert measured("merge-weights", tmp_path).outcome == "agrees"
    assert merge_weights.decay_of([0.25, 0.25, 0.5]) == [0.75, 0.5]
    assert merge_weights.trajectory_gap([0.75, 0.5], 0) < 1e-12


def test_the_cut_by_cost_is_never_slower(tmp_path):
    found = measured("pipeline", tmp_path, ranks=[2, 4], per_rank=[1], micro=8)
    assert all(row["gain"] >= 0 for row in found.data["rows"])
    assert found.figures[0].how == "planned"
    assert pipeline.even_cut([1.0] * 5, 2) == [[1.0] * 3, [1.0] * 2]
