"""Which checkpoint a run goes on from, and who reads which of its files to tell."""

from __future__ import annotations

import pytest

from ling.checkpoint import run_folder
from ling.errors import CheckpointError
from ling.train import newest as module
from ling.train.newest import newest
from ling.train.parallel.group import ALONE, World


@pytest.fixture
def run(tmp_path):
    """Checkpoints 2, 9 and 10 with four files each."""
    for step in (10, 2, 9):
        folder = run_folder.step_folder(tmp_path, step)
        folder.mkdir(parents=True)
        for name in "abcd":
            (folder / name).write_text(f"{name} {step}")
        run_folder.write_manifest(folder)
    return tmp_path


def test_damaged_ones_are_named_and_passed_over(run):
    said = []
    assert newest(ALONE, run, said.append).name == "step-10"
    assert newest(ALONE, run, said.append, lambda p: p.name != "step-10").name == "step-9"
    assert newest(ALONE, run, said.append, lambda p: False) is None
    assert said == []
    (run_folder.step_folder(run, 10) / "manifest.json").write_text("{")
    assert newest(ALONE, run, said.append).name == "step-9"
    assert said == ["warning: checkpoint step-10 is damaged, looking for an older one"]
    for step in (2, 9):
        (run_folder.step_folder(run, step) / "c").write_text("?")
    with pytest.raises(CheckpointError, match="no checkpoint is intact"):
        newest(ALONE, run, said.append)


def test_no_checkpoint_is_none(tmp_path):
    assert newest(ALONE, tmp_path, pytest.fail) is None


class Ranks(World):
    """A world in which the other ranks find what this one does."""

    def gather(self, value):
        return [value] * self.size


def test_each_rank_reads_its_share_of_the_files(run, monkeypatch):
    read, match = [], run_folder.match
    monkeypatch.setattr(module, "match", lambda f, share: read.append([*share]) or match(f, share))
    one, other = Ranks(0, 2), Ranks(0, 3)
    assert newest(one, run, pytest.fail).name == newest(other, run, pytest.fail).name == "step-10"
    assert read == [["a", "c"], ["a", "d"]]


class AnotherFindsDamage(Ranks):
    """A world whose last rank has other bytes in its share."""

    def gather(self, value):
        return [*super().gather(value)[:-1], False if value is True else value]


def test_damage_that_one_rank_finds_counts_for_all(run):
    said = []
    with pytest.raises(CheckpointError, match="no checkpoint is intact"):
        newest(AnotherFindsDamage(0, 2), run, said.append)
    assert len(said) == 3
