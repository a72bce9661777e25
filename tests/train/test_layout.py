"""`parallel: auto`: chosen for the ranks at hand, printed, and kept by the run."""

from __future__ import annotations

import dataclasses

import pytest
import yaml

from ling.cli.recipe_args import with_recipe
from ling.config.parallel import ParallelConfig
from ling.config.recipe import DataConfig, PretrainConfig, TrainConfig, recipe_yaml
from ling.config.recipe_file import read_recipe
from ling.errors import UsageError
from ling.presets import preset
from ling.train.layout import chosen
from ling.train.parallel.group import ALONE, World


class Alone(World):
    """A rank that decides for several."""

    def gather(self, value):
        return [value] * self.size

    def together(self, work):
        return work()


def recipe(rows=8):
    return PretrainConfig(
        model="ling-tiny",
        data=DataConfig(prefix=["x"], seq_length=128),
        train=TrainConfig(global_batch_size=rows, micro_batch_size=2, device="cpu"),
        parallel=ParallelConfig(auto=True),
    )


def choose(made, out, world=ALONE):
    said = []
    return chosen(made, lambda r: preset(r.model), out, said.append, world), said


def test_one_rank_needs_no_layout(tmp_path):
    found, said = choose(recipe(), tmp_path)
    assert found.parallel == ParallelConfig()
    assert "parallel: auto" in said[0]


def test_ranks_share_the_work_and_the_run_keeps_the_layout(tmp_path):
    world = Alone(0, 4)
    found, _ = choose(recipe(), tmp_path, world)
    assert found.parallel.world == 4
    assert not found.parallel.auto
    kept = dataclasses.replace(found, parallel=ParallelConfig(dp_replicate=4, recompute="full"))
    (tmp_path / "config.yaml").write_text(recipe_yaml(kept))
    again, said = choose(recipe(), tmp_path, world)
    assert again.parallel == kept.parallel
    assert not said
    assert (
        choose(recipe(), tmp_path, Alone(0, 2))[0].parallel.world == 2
    )  # other ranks, asked again


def test_a_batch_that_no_layout_fits_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no layout of 7 ranks"):
        choose(recipe(), tmp_path, Alone(0, 7))


def test_both_spellings(tmp_path):
    path = tmp_path / "auto.yaml"
    path.write_text(yaml.safe_dump({"model": "ling-tiny", "parallel": "auto"}))
    assert read_recipe(path)["parallel"] == {"auto": True}
    for args in (["--parallel", "auto"], ["--parallel=auto"]):
        assert with_recipe(args)[0] == ["--parallel.auto", "true"]
