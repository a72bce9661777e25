"""lm-eval's built-in tasks on local data: the YAML files that lead them there.

A task of lm-eval names a data set of the Hugging Face hub. Here it is read from `DIR/OWNER/NAME`,
as `hf download --repo-type dataset OWNER/NAME --local-dir DIR/OWNER/NAME` leaves it, or with files
`test.jsonl`, `validation.parquet` and so on; a configuration of the data set is a folder in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ...errors import DataError, UsageError
from ...text import nearest, shown

Index = Mapping[str, Any]
"""Entries of lm-eval's task index by name: `kind.name`, `yaml_path`, `cfg`, `tags`."""
# Which splits a task may read, and for what.
_SPLITS = ("test_split", "validation_split", "fewshot_split", "training_split")


@dataclass(frozen=True)
class Leaf:
    """A task with a data set of its own."""

    name: str
    yaml_path: Path
    dataset: str
    configuration: str | None
    splits: tuple[str, ...]

    def folder(self, data: Path) -> tuple[Path, str | None]:
        """The folder of its data and the configuration there; raises `DataError` where it is not,
        saying which files are wanted and how they are got."""
        folder = data / self.dataset
        if self.configuration and (folder / self.configuration).is_dir():
            return folder / self.configuration, None
        if folder.is_dir() and any(folder.iterdir()):
            return folder, self.configuration if _names(folder, self.configuration) else None
        inner = folder / self.configuration if self.configuration else folder
        files = " and ".join(f"{split}.jsonl" for split in self.splits) or "its files"
        raise DataError(
            f"no such folder; `{self.name}` needs {files} (or parquet) in {inner}, or all of "
            f"`hf download --repo-type dataset {self.dataset} --local-dir {folder}`",
            path=folder,
        )


def leaves(name: str, index: Index) -> list[Leaf]:
    """The tasks that a name of lm-eval means, which may be a group or a tag.

    Raises `UsageError` for one that cannot run on local data.
    """
    return [_leaf(entry) for entry in _entries(name, index) if entry.kind.name != "GROUP"]


def write_tasks(name: str, index: Index, data: Path, out: Path) -> list[Path]:
    """Write the task, and all that it consists of, into the folder `out`, to be given to lm-eval's
    `TaskManager` alone. Returns the folders of the data, each once; raises as `Leaf.folder`."""
    folders: dict[Path, None] = {}
    for k, entry in enumerate(_entries(name, index)):
        local: dict[str, Any] = {"include": str(entry.yaml_path)}
        if entry.kind.name == "GROUP":
            local |= {"group": entry.name, "task": entry.cfg["task"]}
        else:
            folder, configuration = _leaf(entry).folder(data)
            folders[folder] = None
            local |= {"task": entry.name, "dataset_path": str(folder.resolve())}
            local["dataset_name"] = configuration
        (out / f"{k}.yaml").write_text(yaml.safe_dump(local), "utf-8")
    return list(folders)


def _entries(name: str, index: Index, seen: set[str] | None = None) -> Iterator[Any]:
    """The entry of a name and, of a group or tag, those of all members, each once."""
    seen = set() if seen is None else seen
    entry = index.get(name)
    if entry is None:
        raise UsageError(f"no task `{name}`{nearest(name, list(index))}")
    if name in seen:
        return
    seen.add(name)
    if entry.kind.name == "TAG":
        for member in sorted(entry.tags):
            yield from _entries(member, index, seen)
        return
    if entry.kind.name == "GROUP":
        for member in _members(entry.cfg["task"]):
            yield from _entries(member, index, seen)
    yield entry


def _members(tasks: Any) -> Iterator[str]:
    """Names in the task list of a group, where groups may be written out."""
    for task in [tasks] if isinstance(tasks, str) else tasks:
        if isinstance(task, str):
            yield task
        elif isinstance(task.get("task"), list):
            yield from _members(task["task"])
        else:
            yield task.get("task") or task["group"]


def _leaf(entry: Any) -> Leaf:
    cfg = entry.cfg or {}
    if cfg.get("unsafe_code"):
        raise UsageError(
            f"`{entry.name}` of lm-eval runs what the model writes, outside of a sandbox. Put "
            f"its problems into the data folder as `{entry.name}.jsonl`, and add `--run-code`"
        )
    dataset = cfg.get("dataset_path")
    if entry.kind.name != "TASK" or not isinstance(dataset, str) or dataset.count("/") != 1:
        raise UsageError(
            f"`{entry.name}` of lm-eval reads no data set of the hub ({shown(str(dataset))}), so "
            "there are no local data for it"
        )
    splits = dict.fromkeys(str(cfg[key]) for key in _SPLITS[:3] if cfg.get(key))
    if cfg.get("test_split"):
        splits.pop(str(cfg.get("validation_split")), None)
    if cfg.get("num_fewshot", 0) and cfg.get("fewshot_split"):
        splits[str(cfg["fewshot_split"])] = None
    return Leaf(entry.name, Path(entry.yaml_path), dataset, cfg.get("dataset_name"), tuple(splits))


def _names(folder: Path, configuration: str | None) -> bool:
    """Whether the card of a data set says what this configuration's files are."""
    card = folder / "README.md"
    if configuration is None or not card.is_file():
        return False
    try:
        _, head, *_ = card.read_text("utf-8", errors="replace").split("---\n", 2)
        listed = (yaml.safe_load(head) or {}).get("configs") or []
        return any(one.get("config_name") == configuration for one in listed)
    except (ValueError, AttributeError, yaml.YAMLError):
        return False
