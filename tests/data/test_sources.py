from __future__ import annotations

import json

from ling.data.corpus import documents, fraction


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
