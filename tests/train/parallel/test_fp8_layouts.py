"""FP8 on every layout against FP8 on one process, with bfloat16 of the same layouts beside it.

python -m pytest -m slow -s tests/train/parallel/test_fp8_layouts.py (three minutes on two cores)
prints the table of docs/evidence/fp8-savings.md. One of the layouts is in test_layouts.py too.
"""

from __future__ import annotations

import layouts
import pytest
from torchrun import torchrun

from ling.train.log import read_metrics
from ling.train.parallel.group import ALONE


def rows(folder, name, kind):
    return read_metrics(folder / layouts.in_fp8(name)[kind] / "metrics.jsonl")


def difference(one, got, key):
    return max(abs(a[key] - b[key]) / abs(a[key]) for a, b in zip(one, got, strict=True))


def same_loads(one, got):
    """Steps until one routes a token otherwise."""
    alike = [a["expert_load"] == b["expert_load"] for a, b in zip(one, got, strict=True)]
    return alike.index(False) if False in alike else len(alike)


@pytest.mark.slow
def test_fp8_on_every_layout_is_fp8_on_one_process(tmp_path):
    layouts.write_data(tmp_path)
    layouts.train_fp8(ALONE, tmp_path)
    for ranks in (2, 4):
        torchrun(ranks, "layouts.py", tmp_path, "fp8", timeout=600)
    print("\n| layout | products | first loss | loss | norm | steps of the same loads |")
    print("|---|---|---|---|---|---|")
    for name in (*layouts.FP8[2], *layouts.FP8[4]):
        for kind in ("fp8", "bf16"):
            one, got = rows(tmp_path, "one", kind), rows(tmp_path, name, kind)
            first = difference(one[:1], got[:1], "loss")
            loss, norm = (difference(one, got, key) for key in ("loss", "grad_norm"))
            same = same_loads(one, got)
            print(f"| {name} | {kind} | {first:.1e} | {loss:.1e} | {norm:.1e} | {same} |")
            assert first <= 1e-6, (name, kind)
            assert loss <= 1e-4, (name, kind)
            # As test_layouts.py: tokens that change experts, for a last bit, move the norm.
            assert difference(one[:same], got[:same], "grad_norm") <= 1e-3, (name, kind)
            assert norm <= 3e-3, (name, kind)
