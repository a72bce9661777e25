"""Losses do not depend on the layout (decision 36): one process against 2 and 4 ranks."""

from __future__ import annotations

import json
from pathlib import Path

import layouts
import pytest
from torchrun import torchrun

from ling.train import loop
from ling.train.log import read_metrics
from ling.train.parallel.group import ALONE

TESTS = Path(__file__).parents[2]
GOLDEN = TESTS / "golden" / "layouts.json"
KEYS = ("loss", "mtp_loss", "z_loss", "grad_norm")
RANKS = {name: n for n, degrees in layouts.LAYOUTS.items() for name in degrees}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Rows of `metrics.jsonl` of each layout."""
    folder = tmp_path_factory.mktemp("layouts")
    layouts.write_data(folder)
    layouts.train_alone(folder)
    for ranks in (2, 4):
        torchrun(ranks, "layouts.py", folder)
    return folder


def rows(run):
    return read_metrics(run / "metrics.jsonl")


def difference(a, b, key):
    """Largest relative difference over the steps."""
    pairs = [(x[key], y[key]) for x, y in zip(a, b, strict=True)]
    return max(abs(x - y) / abs(x) for x, y in pairs)


def names():
    found = [n for n in RANKS if "bf16" not in n and n != layouts.alone(n)]
    return found + [f"one, then {name}" for n in (2, 4) for name in layouts.RESUMED[n]]


def check(trained, name, got):
    """Losses, norms and loads of a run are those of one process."""
    one, turned = rows(trained / layouts.alone(name)), rows(trained / "reversed")
    assert [row["step"] for row in got] == list(range(1, layouts.STEPS + 1))
    for key in KEYS:
        # Not more than what the order of the sums does; 8 units of float32 in any case.
        bound = min(1e-6, max(4 * difference(one, turned, key), 8 * 2**-23))
        assert difference(one, got, key) <= bound, key
    for a, b in zip(one, got, strict=True):
        assert (a["tokens"], a["lr"], a["expert_load"]) == (b["tokens"], b["lr"], b["expert_load"])
    assert got[-1]["valid_loss"] == pytest.approx(one[-1]["valid_loss"], rel=1e-6)
    assert got[-1]["valid_mtp_loss"] == pytest.approx(one[-1]["valid_mtp_loss"], rel=1e-6)


@pytest.mark.parametrize("name", names())
def test_losses_and_norms_are_those_of_one_process(trained, name):
    check(trained, name, rows(trained / name))


# python -m pytest -m slow tests/train/parallel/test_layouts.py (five minutes on two cores)
@pytest.mark.slow
@pytest.mark.parametrize("what", ["none", "moe", "full"])
def test_every_layout_with_every_recomputation(trained, what):
    for ranks, degrees in layouts.EVERY.items():
        torchrun(ranks, "layouts.py", trained, what, timeout=600)
        for name in degrees:
            check(trained, name, rows(trained / layouts.with_recomputation(name, what)))


@pytest.mark.parametrize("name", [n for n, r in RANKS.items() if "bf16" in n and r > 1])
def test_in_bfloat16_they_are_as_near_as_its_rounding(trained, name):
    one, got = rows(trained / layouts.alone(name)), rows(trained / name)
    assert difference(one, got, "loss") <= 1e-4
    assert difference(one, got, "mtp_loss") <= 1e-4
    # Each step has 128 tokens: one that changes experts, for a last bit, moves the norm of later
    # steps. On some processors one does so in the first.
    alike = [a["expert_load"] == b["expert_load"] for a, b in zip(one, got, strict=True)]
    same = max(alike.index(False) if False in alike else len(alike), 1)
    assert difference(one[:same], got[:same], "grad_norm") <= 1e-3
    assert difference(one, got, "grad_norm") <= 3e-3


def test_what_ranks_saved_one_process_goes_on_with(trained):
    for name in layouts.RESUMED_ALONE:
        alone, out = layouts.alone(name), trained / f"{name}, then one"
        layouts.first_half(trained / name, out)
        assert loop.run_in(ALONE, layouts.recipe(trained, alone, {}), out, layouts.quiet) == 0
        for key in KEYS:
            assert difference(rows(trained / alone), rows(out), key) <= 1e-6, (name, key)


def test_moments_in_bytes_go_on_exactly_on_the_same_ranks_and_nearly_on_one(trained):
    name, _ = layouts.PACKED[4]
    whole, again = rows(trained / name), rows(trained / f"{name}, again")
    for key in KEYS:
        assert [row[key] for row in again] == [row[key] for row in whole], key
    said, out = [], trained / f"{name}, then one"
    layouts.first_half(trained / name, out)
    assert loop.run_in(ALONE, layouts.recipe(trained, "8-bit", {}), out, said.append) == 0
    for key in KEYS:
        assert difference(whole, rows(out), key) <= 1e-2, key


@pytest.mark.parametrize("ranks", [1, 2])
def test_recomputation_changes_no_gradient_of_fp8_with_padded_routing(trained, ranks):
    """On 2 ranks that share the experts, and gather the bytes of the rest."""
    found = json.loads((trained / f"gradients-{ranks}.json").read_text())
    assert [len(of_rank) > 20 for of_rank in found["none"]] == [True] * ranks
    assert found["moe"] == found["none"]
    assert found["full"] == found["none"]


@pytest.mark.parametrize("ranks", [2, 4])
def test_shards_divide_weights_gradients_and_moments(trained, ranks):
    one, part = (json.loads((trained / f"bytes-{n}.json").read_text()) for n in (1, ranks))
    assert one["weights"] == one["gradients"] == one["moments"] / 2
    for what, size in part.items():
        assert size == pytest.approx(one[what] / ranks, rel=0.05), what


def test_every_rank_wrote_its_part_and_the_manifest_names_all(trained):
    for name, ranks in RANKS.items():
        folder = trained / name / "checkpoints" / f"step-{layouts.STEPS}"
        writers = {p.name.split("_")[2] for p in folder.glob("__*.distcp")}
        assert writers == {str(r) for r in range(ranks)}, name
        recorded = set(json.loads((folder / "manifest.json").read_text()))
        assert recorded == {p.name for p in folder.iterdir()} - {"manifest.json"}


def test_losses_are_the_golden_ones_of_each_layout(trained, request):
    found = {
        name: {key: [row[key] for row in rows(trained / name)] for key in ("loss", "grad_norm")}
        for name in RANKS
    }
    if request.config.getoption("--update-golden"):
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
    golden = json.loads(GOLDEN.read_text())
    assert list(golden) == list(found)
    for name, columns in golden.items():
        for key, want in columns.items():
            # As tests/test_golden.py.
            bound = (1e-3 if key == "loss" else 3e-2) if "bf16" in name else 1e-4
            assert found[name][key] == pytest.approx(want, rel=bound), (name, key)
