"""A run folder: one writer, whole checkpoints in their order, and which of them count."""

from __future__ import annotations

import json

import pytest

from ling.checkpoint import run_folder
from ling.errors import CheckpointError, UsageError


@pytest.fixture
def run(tmp_path):
    """Checkpoints 2, 9 and 10 of a run, one half written, one not finished, and other files."""
    for step in (10, 2, 9):
        folder = run_folder.step_folder(tmp_path, step)
        folder.mkdir(parents=True)
        (folder / "data").write_text(f"{step}")
        run_folder.write_manifest(folder)
    for name in ("step-11", "step-12.tmp", "step-x", "mine"):
        (tmp_path / "checkpoints" / name).mkdir()
    return tmp_path


def names(run):
    return [p.name for p in run_folder.checkpoints(run)]


def test_finished_checkpoints_are_in_the_order_of_their_steps(run, tmp_path):
    assert names(run) == ["step-2", "step-9", "step-10"]
    assert run_folder.find_checkpoint(run).name == "step-10"
    assert run_folder.checkpoints(tmp_path / "nowhere") == []
    assert run_folder.find_checkpoint(tmp_path / "nowhere") is None


def test_a_checkpoint_is_found_as_itself(run):
    folder = run_folder.step_folder(run, 2)
    (folder / ".metadata").write_text("")
    assert run_folder.find_checkpoint(folder) == folder


@pytest.mark.parametrize("damage", ["changed", "gone", "more", "manifest"])
def test_a_checkpoint_is_intact_while_its_files_are_those_recorded(run, damage):
    folder = run_folder.step_folder(run, 10)
    assert run_folder.intact(folder)
    {
        "changed": lambda: (folder / "data").write_text("11"),
        "gone": lambda: (folder / "data").unlink(),
        "more": lambda: (folder / "extra").write_text(""),
        "manifest": lambda: (folder / "manifest.json").write_text("{"),
    }[damage]()
    assert not run_folder.intact(folder)


def test_old_and_half_written_ones_are_removed_and_others_stay(run):
    run_folder.prune(run, 0)
    assert names(run) == ["step-2", "step-9", "step-10"]
    assert not (run / "checkpoints/step-12.tmp").exists()
    run_folder.prune(run, 2)
    assert names(run) == ["step-9", "step-10"]
    left = sorted(p.name for p in (run / "checkpoints").iterdir())
    assert left == ["mine", "step-10", "step-11", "step-9", "step-x"]


def test_those_of_every_so_many_steps_stay(run):
    run_folder.prune(run, 1, 3)
    assert names(run) == ["step-9", "step-10"]


def test_the_one_that_is_kept_stays_until_another_is(run):
    assert run_folder.kept(run) is None
    run_folder.keep(run, 2)
    run_folder.prune(run, 1)
    assert names(run) == ["step-2", "step-10"]
    assert run_folder.kept(run).name == "step-2"
    run_folder.keep(run, 10)
    run_folder.prune(run, 1)
    assert names(run) == ["step-10"]
    run_folder.keep(run, 77)  # gone meanwhile
    assert run_folder.kept(run) is None
    run_folder.keep(run, None)
    assert not (run / "kept.json").exists()


def test_only_one_run_writes_and_an_unused_folder_leaves_no_trace(tmp_path):
    out = tmp_path / "run"
    with (
        run_folder.locked(out),
        pytest.raises(UsageError, match="another run is writing here"),
        run_folder.locked(out),
    ):
        pass
    assert not out.exists()
    with run_folder.locked(out):
        (out / "config.yaml").write_text("")
    assert out.is_dir()
    with run_folder.locked(out):
        pass
    assert (out / "config.yaml").is_file()


def test_what_is_no_model_yet_is_refused_with_the_command(run, tmp_path):
    folder = run_folder.step_folder(run, 2)
    (folder / ".metadata").write_text("")
    (folder / "config.json").write_text("{}")
    megatron = tmp_path / "mega tron"
    megatron.mkdir()
    (megatron / "latest_checkpointed_iteration.txt").write_text("1")
    for path, what in ((run, "a run"), (folder, "a training"), (megatron, "a training")):
        with pytest.raises(CheckpointError, match=f"{what}.*`ling convert .* OUT`"):
            run_folder.refuse_checkpoint(path)
    with pytest.raises(CheckpointError, match=r"convert '.*mega tron' OUT"):
        run_folder.refuse_checkpoint(megatron)
    run_folder.refuse_checkpoint(tmp_path / "checkpoints" / "mine")


def test_what_others_have_hashed_is_in_the_manifest_as_they_say(tmp_path):
    for name in ("b.distcp", "c.json"):
        (tmp_path / name).write_text(name)
    run_folder.write_manifest(tmp_path, {"b.distcp": "theirs"})
    recorded = json.loads((tmp_path / "manifest.json").read_text())
    assert list(recorded) == ["b.distcp", "c.json"]
    assert recorded["b.distcp"] == "theirs"
    assert not run_folder.intact(tmp_path)
    (tmp_path / "manifest.json").unlink()
    run_folder.write_manifest(tmp_path, {k: v for k, v in recorded.items() if k == "c.json"})
    assert run_folder.intact(tmp_path)


def test_a_run_is_locked_while_somebody_writes(tmp_path):
    assert not run_folder.is_locked(tmp_path / "run")
    with run_folder.locked(tmp_path / "run"):
        (tmp_path / "run" / "x").touch()
        assert run_folder.is_locked(tmp_path / "run")
    assert not run_folder.is_locked(tmp_path / "run")
