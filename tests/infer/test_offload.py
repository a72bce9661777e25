"""Which experts stay in memory: within the bound, by their use, and without changing a token."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch

from ling.checkpoint.packed.folder import PackedFolder
from ling.config.engine import EngineConfig
from ling.convert.synth import synth
from ling.errors import UsageError
from ling.infer import offload
from ling.infer.engine import Engine
from ling.infer.offload import OVERHEAD_BYTES, Budget, ExpertOffload, plan
from ling.infer.open import open_runner
from ling.infer.request import SamplingParams
from ling.ops import native
from ling.presets import preset

TINY = preset("ling-tiny")
needs_library = pytest.mark.skipif(native.library() is None, reason="no kernel library")


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed") / "int8"
    synth(TINY, folder, to="int8", log=str)
    return PackedFolder(folder)


# ---- the bound ---------------------------------------------------------------------------------


def test_slots_are_what_the_rest_leaves():
    for total, slots in ((0, 0), (1000, 0), (1099, 0), (1100, 1), (1399, 3), (10**6, 8)):
        assert Budget(total, fixed=1000, per_expert=100, experts=8).slots == slots


def test_a_plan_counts_every_byte_once(packed):
    sizes = {name: packed.source.nbytes(name) for name in packed.source.weight_map}
    budget = plan(packed, 1 << 40, kv_bytes=12345)
    experts = sum(n for name, n in sizes.items() if ".mlp.experts." in name)
    assert budget.experts == 3 * TINY.num_experts  # two layers and the MTP layer
    assert budget.experts * budget.per_expert == experts
    assert budget.fixed == sum(sizes.values()) - experts + 12345 + OVERHEAD_BYTES


def test_a_bound_that_no_step_fits_in_is_refused_with_the_least(packed):
    budget = plan(packed, 1 << 40, 0)
    least = budget.fixed + TINY.num_experts_per_tok * budget.per_expert
    assert plan(packed, least, 0).slots == TINY.num_experts_per_tok
    with pytest.raises(UsageError, match=rf"take {least / 1e9:.1f} GB: give that"):
        plan(packed, least - 1, 0)


# ---- the choice --------------------------------------------------------------------------------


class FakeRunner:
    """Keeps what the core is told."""

    model = None

    def __init__(self):
        self.counts = torch.zeros(4, TINY.num_experts, dtype=torch.int64)
        self.given, self.evicted = [], []
        self.lib = SimpleNamespace(
            ling_model_offload=lambda *args: self.given.append(args) or 0,
            ling_model_evict=lambda model, layer: self.evicted.append(layer) or 0,
        )

    def expert_counts(self):
        counts, self.counts = self.counts, torch.zeros_like(self.counts)
        return counts


@pytest.fixture
def made(packed):
    """An offload of 6 of the 24 experts, and its runner."""
    runner = FakeRunner()
    budget = Budget(600, fixed=0, per_expert=100, experts=24)
    held = ExpertOffload(runner, packed, budget)
    yield held, runner
    held.close()


def test_the_core_is_told_where_each_layers_experts_are(made, packed):
    held, runner = made
    assert [layer for _, layer, *_ in runner.given] == [1, 2, 3]
    for _, layer, fd, offsets, _ in runner.given:
        name = f"model.layers.{layer}.mlp.experts.down_proj.scales"
        want = packed.source.tensor(name).contiguous().view(torch.uint8).numpy().tobytes()
        assert os.pread(fd, len(want), offsets[3]) == want
    held.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_before_anything_is_known_all_layers_get_alike(made):
    held, runner = made
    assert held.hot.sum(1).tolist() == [2, 2, 2]
    assert held.hot[:, :2].all()
    assert runner.evicted == [1, 2, 3]
    assert held.share_cold() == 1 - 6 / 24


def test_the_experts_that_are_used_most_stay(made, monkeypatch):
    held, runner = made
    monkeypatch.setattr(offload, "REVIEW_STEPS", 3)
    runner.counts[2] = torch.arange(8) * 10
    runner.counts[3, 4] = 1000
    for _ in range(2):
        held.step_done()
    assert runner.evicted == [1, 2, 3]  # not yet reviewed
    held.step_done()
    assert runner.evicted == [1, 2, 3] * 2
    assert held.hot[0].tolist() == [0] * 8
    assert held.hot[1].tolist() == [0, 0, 0, 1, 1, 1, 1, 1]
    assert held.hot[2].tolist() == [0, 0, 0, 0, 1, 0, 0, 0]
    assert held.share_cold() == pytest.approx((10 + 20) / (280 + 1000))


def test_older_counts_decay(made, monkeypatch):
    held, runner = made
    monkeypatch.setattr(offload, "REVIEW_STEPS", 1)
    runner.counts[1, 7] = 100
    held.step_done()
    for _ in range(2):
        held.step_done()
    assert float(held.heat[0, 7]) == pytest.approx(100 * 0.9**2)
    assert held.hot[0, 7] == 1


def test_the_statement_counts_what_a_token_reads(made, monkeypatch):
    held, _ = made
    monkeypatch.setattr(ExpertOffload, "_disk_rate", lambda self: 3e9)
    held.budget = Budget(6 * 10**8, fixed=0, per_expert=10**8, experts=24)
    # Three quarters cold, two routed layers, two experts a token, 100 MB each.
    assert held.statement(TINY) == (
        "6 of 24 experts stay in 0.6 GB; a token reads about 300 MB from disk at 3.0 GB/s: "
        "expect up to 10.0 tokens/s"
    )


def test_experts_in_two_files_are_refused(packed, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"x")
    source = SimpleNamespace(
        folder="here", raw=lambda name: (tmp_path / ("b" if "down" in name else "a"), 0, 1)
    )
    split = SimpleNamespace(config=TINY, source=source)
    with pytest.raises(UsageError, match="here: layer 1's experts lie in two files"):
        ExpertOffload(FakeRunner(), split, Budget(600, 0, 100, 24))


# ---- in the engine -----------------------------------------------------------------------------


def tokens(runner, n=20, num_pages=4):
    e = Engine(runner, EngineConfig(max_model_len=128, num_pages=num_pages))
    request = e.add([5, 6, 7], SamplingParams(max_tokens=n, temperature=0, ignore_eos=True))
    while e.has_work:
        e.step()
    return request.output


@needs_library
@pytest.mark.parametrize("fmt", ["int3", "int4", "int4_g32", "int8"])
def test_folder_gives_the_same_tokens_in_a_small_memory(fmt, tmp_path):
    synth(preset("ling-nano"), tmp_path / fmt, to=fmt, log=str)
    whole = open_runner(tmp_path / fmt)
    want = tokens(whole, 40)
    budget = plan(PackedFolder(tmp_path / fmt), 1 << 40, 4 * whole.page_bytes())
    small = budget.fixed + budget.per_expert * budget.experts // 2
    runner = open_runner(tmp_path / fmt, EngineConfig(max_memory=f"{small}B"))
    assert want == tokens(runner, 40)
    assert runner.offload is not None
    with pytest.raises(UsageError, match="max_memory"):
        tokens(open_runner(tmp_path / fmt, EngineConfig(max_memory=f"{1 << 20}B")))
