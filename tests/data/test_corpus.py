from __future__ import annotations

import json

import pytest

from ling.data.corpus import MAX_SOURCE_FILE, documents, fraction
from ling.errors import DataError


@pytest.fixture
def folder(tmp_path):
    files = {
        "b.py": "b = 1\n",
        "a.md": "# a\n",
        "sub/c.rs": "fn c() {}\n",
        "sub/d.jsonl": '{"text": "one"}\n{"text": " "}\n{"text": "three"}\n',
        "Makefile": "all:\n",
        "photo.png": "not text",
        "empty.py": "\n",
        ".hidden.py": "secret",
        ".git/x.py": "secret",
        "node_modules/x.js": "theirs",
        "large.py": "x" * (MAX_SOURCE_FILE + 1),
        "table.json": '{"a": 1}',
    }
    for name, text in files.items():
        path = tmp_path / "it" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "it" / "latin.py").write_bytes(b"\xe9")
    (tmp_path / "it" / "link.py").symlink_to(tmp_path / "it" / "b.py")
    return tmp_path / "it"


def test_folder_gives_its_texts_in_a_stable_order(folder):
    found = list(documents([folder]))
    names = ["Makefile", "a.md", "b.py", "sub/c.rs", "sub/d.jsonl#1", "sub/d.jsonl#3", "table.json"]
    assert [d.name for d in found] == names
    assert [d.text for d in found[-3:]] == ["one", "three", '{"a": 1}']


def test_named_files_are_records_or_texts_by_their_ending(folder, tmp_path):
    records = tmp_path / "x.json"
    records.write_text('{"text": "r"}\n')
    found = list(documents([folder / "b.py", records]))
    assert found == [("b.py", "b = 1\n"), ("x.json#1", "r")]


def test_named_file_must_be_readable(folder):
    with pytest.raises(DataError, match=r"latin\.py:1.*not UTF-8"):
        list(documents([folder / "latin.py"]))
    with pytest.raises(DataError, match=r"no\.py.*no such file"):
        list(documents([folder / "no.py"]))
    (folder / "sub" / "d.jsonl").write_text('{"text": "a"}\n{"word": "b"}\n')
    with pytest.raises(DataError, match=r"d\.jsonl:2.*under the key `text`"):
        list(documents([folder]))


def test_a_share_of_the_bytes_is_a_subset_that_only_names_decide(tmp_path):
    for k in range(50):
        (tmp_path / f"{k}.txt").write_text(f"{k:04}" * 25)
    rows = [json.dumps({"text": f"{k:04}"}) for k in range(300)]
    (tmp_path / "z.jsonl").write_text("\n".join(rows) + "\n")
    total = 50 * 100 + (tmp_path / "z.jsonl").stat().st_size
    every = list(documents([tmp_path]))
    some = list(documents([tmp_path], max_bytes=total // 4))
    less = list(documents([tmp_path], max_bytes=total // 8))
    assert set(less) < set(some) < set(every)
    assert 9 <= sum(d.name.endswith(".txt") for d in some) <= 13
    assert 50 <= sum("#" in d.name for d in some) <= 100
    assert list(documents([tmp_path], max_bytes=10 * total)) == every


def test_fraction_is_the_same_everywhere():
    assert fraction("a") == int("ca978112ca1bbd", 16) / 2**56
    assert 0 <= fraction("\ud800") < 1


def test_standard_library_has_modules_and_topics_but_no_tests():
    names = [d.name for d in documents("stdlib", max_bytes=2_000_000)]
    assert len(names) == len(set(names)) > 50
    assert all(n.endswith(".py") or n.startswith("pydoc_data/topics.py#") for n in names)
    assert not [
        n for n in names if n.startswith(("test/", "ctypes/test/")) or n.startswith("encodings/")
    ]
