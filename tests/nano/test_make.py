"""`ling nano` at a tiny size: all stages, again, in pieces, and refused."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from fetched import fetched

from ling.checkpoint.run_folder import checkpoints, step_of
from ling.data.tokenizer import Tokenizer
from ling.errors import UsageError
from ling.llm import LLM
from ling.nano.make import STAGES, nano
from ling.nano.plan import packaged_plan
from ling.tools import BUILTIN
from ling.tools.files import tools_of_model
from ling.train.log import read_metrics

BEFORE_CARD = STAGES[: STAGES.index("card")]


def tiny_plan(packages, **changes):
    """The packaged recipes on `ling-tiny`, a few rows at a time."""
    plan = packaged_plan(10, packages=packages)
    data = dataclasses.replace(plan.base.data, vocab_size=384, seq_length=256)
    train = dataclasses.replace(
        plan.base.train,
        global_batch_size=2,
        micro_batch_size=2,
        threads=1,  # oneDNN splits the sums of matrices this small by the threads
        rampup_batch_size=None,
        eval_rows=2,
        loggers=[],
    )
    chat_train = dataclasses.replace(
        plan.chat.train,
        steps=3,
        global_batch_size=2,
        micro_batch_size=2,
        threads=1,
        eval_rows=2,
        loggers=[],
    )
    return dataclasses.replace(
        plan,
        base=dataclasses.replace(
            plan.base,
            checkpoint=dataclasses.replace(plan.base.checkpoint, keep_last=3),
            model_overrides={"max_position_embeddings": 2048},
            data=data,
            train=train,
        ),
        chat=dataclasses.replace(
            plan.chat,
            data=dataclasses.replace(plan.chat.data, seq_length=2048),
            train=chat_train,
        ),
        shape="ling-tiny",
        copying_steps=2,
        merge_last=3,
        conversations=12,
        held_out=6,
        **changes,
    )


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    return fetched(tmp_path_factory.mktemp("fetched") / "packages")


@pytest.fixture(scope="module")
def made(packages, tmp_path_factory):
    out = tmp_path_factory.mktemp("made")
    torch.set_num_threads(2)  # as in the tests: first weights are made with all threads
    assert nano(out, tiny_plan(packages), BEFORE_CARD) == 0
    return out


def test_a_folder_that_answers_comes_out(made):
    note = json.loads((made / "nano.json").read_text())
    assert list(note["stages"]) == list(BEFORE_CARD)
    assert set(note["stages"]["merge"]["losses"]) >= {"dialogues", "code"}
    assert note["stages"]["pack"]["bytes"] < 22_000_000
    assert Tokenizer.from_folder(made / "model").chat_template
    assert tools_of_model(made / "model") == [tool.definition for tool in BUILTIN.values()]
    with LLM(made / "model", speculative="mtp") as llm:
        assert llm.chat([{"role": "user", "content": "Hi"}])
        assert llm.sampling_defaults == {"temperature": 0.0}


def test_checkpoints_along_the_run_are_kept(made):
    steps = [step_of(folder) for folder in checkpoints(made / "pretrain")]
    assert steps == [2, 4, 6, 8, 9, 10]  # each fifth, and the newest three


def test_again_nothing_is_done(made, packages):
    said = []
    assert nano(made, tiny_plan(packages), BEFORE_CARD, said.append) == 0
    count = len(STAGES)
    assert said == [f"[{n}/{count}] {name}: done before" for n, name in enumerate(BEFORE_CARD, 1)]


def test_another_setting_is_refused_by_name(made, packages):
    plan = tiny_plan(packages)
    other = dataclasses.replace(plan.base.optim, lr=1e-3)
    with pytest.raises(UsageError, match=r"`base\.optim\.lr` was 0\.0015 and"):
        nano(made, dataclasses.replace(plan, base=dataclasses.replace(plan.base, optim=other)))


@pytest.fixture
def first_losses(monkeypatch):
    """`tools/first_losses.py` with these arguments; its exit code."""
    path = Path(__file__).parents[2] / "tools" / "first_losses.py"
    spec = importlib.util.spec_from_file_location("first_losses", path)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)

    def main(*args):
        monkeypatch.setattr("sys.argv", ["first_losses.py", *map(str, args)])
        return tool.main()

    return main


def test_a_run_that_stops_early_has_the_same_first_losses(
    made, packages, tmp_path, first_losses, capsys
):
    assert nano(tmp_path, tiny_plan(packages, stop_after=4), log=[].append) == 0
    whole, short = (read_metrics(out / "pretrain/metrics.jsonl") for out in (made, tmp_path))
    assert [r["loss"] for r in short] == [r["loss"] for r in whole[:4]]
    assert not (tmp_path / "base").exists()
    known = tmp_path / "losses.json"
    first_losses(made / "pretrain", known, "--write", "4")
    assert first_losses(tmp_path / "pretrain", known) == 0
    first_losses(made / "pretrain", known, "--write", "6")
    assert first_losses(tmp_path / "pretrain", known) == 1
    assert "4 of 6 steps, all bits the same" in capsys.readouterr().out
    other = json.loads(known.read_text())
    other["runs"][0]["rows"][2][1] += 1e-7
    other["runs"][0]["machine"]["python"] = "2.7.18"
    known.write_text(json.dumps(other))
    assert first_losses(tmp_path / "pretrain", known) == 1
    assert re.search(r"step 3: .*\npython: 2\.7\.18 there, 3\.", capsys.readouterr().out)
    first_losses(made / "pretrain", known, "--write", "4")  # of another kind of machine: both stay
    assert first_losses(tmp_path / "pretrain", known) == 0
    first_losses(made / "pretrain", known, "--write", "3")
    assert [len(run["rows"]) for run in json.loads(known.read_text())["runs"]] == [6, 3]


def test_what_a_stop_saved_between_checkpoints_is_not_merged(made, packages, tmp_path):
    whole = tiny_plan(packages)
    sparse = dataclasses.replace(whole.base.checkpoint, interval_steps=2, keep_every_steps=4)
    plan = dataclasses.replace(whole, base=dataclasses.replace(whole.base, checkpoint=sparse))
    shutil.copytree(made / "pretrain", tmp_path / "pretrain")
    shutil.copytree(made / "data", tmp_path / "data")
    note = json.loads((made / "nano.json").read_text())
    for name in ("merge", "sft", "pack"):
        del note["stages"][name]
    (tmp_path / "nano.json").write_text(json.dumps(note))
    assert nano(tmp_path, plan, ["merge"], [].append) == 0
    merged = json.loads((tmp_path / "nano.json").read_text())["stages"]["merge"]["from"]
    assert merged == ["step-6", "step-8", "step-10"]


def test_a_damaged_note_is_refused_and_the_card_is_gone_through_again(
    made, packages, tmp_path, monkeypatch
):
    note = json.loads((made / "nano.json").read_text())
    (tmp_path / "nano.json").write_text(json.dumps({"stages": note["stages"]}))
    with pytest.raises(UsageError, match=r"nano\.json: damaged; delete it"):
        nano(tmp_path, tiny_plan(packages))
    note["stages"]["card"] = {}
    (tmp_path / "nano.json").write_text(json.dumps(note))
    asked = []
    monkeypatch.setattr("ling.nano.make.write_card", lambda out, log: asked.append(out) or {})
    assert nano(tmp_path, tiny_plan(packages), ["card"], [].append) == 0
    assert asked == [tmp_path]


def test_a_stage_needs_those_before_it(packages, tmp_path):
    with pytest.raises(UsageError, match="stage `merge` needs `start`"):
        nano(tmp_path, tiny_plan(packages), ["merge"])
    with pytest.raises(UsageError, match="no stage `mrege`"):
        nano(tmp_path, tiny_plan(packages), ["mrege"])
