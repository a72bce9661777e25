"""lm-eval's tasks on local data, with an index as lm-eval has it (it need not be installed)."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from ling.errors import DataError, UsageError
from ling.eval.tasks.harness_data import leaves, write_tasks

Kind = enum.Enum("Kind", "TASK PY_TASK GROUP TAG")


@dataclass
class Entry:
    name: str
    kind: Kind
    yaml_path: Path | None = None
    cfg: dict | None = None
    tags: set = field(default_factory=set)


def index(*entries):
    return {e.name: e for e in entries}


def task(name, **cfg):
    return Entry(name, Kind.TASK, Path(f"/builtin/{name}.yaml"), {"dataset_path": "o/n", **cfg})


GROUP = Entry(
    "all",
    Kind.GROUP,
    Path("/builtin/all.yaml"),
    {"group": "all", "task": ["a", {"group": "inner", "task": ["b", {"task": "c"}]}]},
)
TAG = Entry("some", Kind.TAG, tags={"b", "a"})
INDEX = index(
    task("a", test_split="test", validation_split="dev", fewshot_split="train", num_fewshot=5),
    task("b", dataset_name="main", test_split="test"),
    task("c", dataset_name="card"),
    GROUP,
    TAG,
    task("code", unsafe_code=True),
    Entry("py", Kind.PY_TASK, Path("/builtin/py.yaml"), {"class": "x"}),
    task("own", dataset_path="json"),
)
CARD = "---\nconfigs:\n- config_name: card\n  data_files: x\n---\n# Card\n"


def test_groups_and_tags_are_their_tasks():
    assert [leaf.name for leaf in leaves("all", INDEX)] == ["a", "b", "c"]
    assert [leaf.name for leaf in leaves("some", INDEX)] == ["a", "b"]
    assert leaves("a", INDEX)[0].splits == ("test", "train")


def test_files_lead_to_local_data(tmp_path):
    data, out = tmp_path / "data", tmp_path / "out"
    (data / "o/n/main").mkdir(parents=True)
    (data / "o/n/README.md").write_text(CARD)
    out.mkdir()
    folders = write_tasks("all", INDEX, data, out)
    assert folders == [data / "o/n", data / "o/n/main"]
    written = [yaml.safe_load(p.read_text()) for p in sorted(out.iterdir())]
    assert written[0] == {
        "include": "/builtin/a.yaml",
        "task": "a",
        "dataset_path": str(data / "o/n"),
        "dataset_name": None,
    }
    assert (written[1]["dataset_path"], written[1]["dataset_name"]) == (f"{data}/o/n/main", None)
    assert (written[2]["dataset_path"], written[2]["dataset_name"]) == (f"{data}/o/n", "card")
    assert written[3] == {"include": "/builtin/all.yaml", "group": "all", "task": GROUP.cfg["task"]}


def test_missing_data_are_named_with_the_way_to_get_them(tmp_path):
    with pytest.raises(DataError) as caught:
        write_tasks("a", INDEX, tmp_path, tmp_path)
    text = str(caught.value)
    assert text.startswith(f"{tmp_path}/o/n: no such folder; `a` needs test.jsonl and train.jsonl")
    assert f"hf download --repo-type dataset o/n --local-dir {tmp_path}/o/n" in text


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("code", "runs what the model writes"),
        ("py", "no data set of the hub"),
        ("own", "no data set of the hub"),
        ("somme", "no task `somme` .did you mean `some`"),
    ],
)
def test_what_cannot_run_on_local_data_is_refused(tmp_path, name, message):
    with pytest.raises(UsageError, match=message):
        write_tasks(name, INDEX, tmp_path, tmp_path)
