from __future__ import annotations

import pytest

from ling.errors import UsageError
from ling.hub.names import ALIASES, HubName, hub_name, is_hub_name


def test_aliases_mean_the_released_repositories(monkeypatch):
    monkeypatch.delenv("LING_HUB", raising=False)
    assert hub_name("ling-mini-2.0") == ("hf", "inclusionAI/Ling-mini-2.0")
    assert hub_name("Ling-Mini-base-2.0-20t") == ("hf", "inclusionAI/Ling-mini-base-2.0-20T")
    assert hub_name("modelscope:ling-1t") == ("modelscope", "inclusionAI/Ling-1T")
    assert hub_name("x/y", "modelscope") == ("modelscope", "x/y")
    assert {f"ling-mini-base-2.0-{t}" for t in ("5t", "10t", "15t", "20t")} < set(ALIASES)
    monkeypatch.setenv("LING_HUB", "modelscope")
    assert hub_name("x/y").hub == "modelscope"
    assert hub_name("hf:x/y").hub == "hf"
    monkeypatch.setenv("LING_HUB", "elsewhere")
    with pytest.raises(UsageError, match="LING_HUB"):
        hub_name("x/y")


@pytest.mark.parametrize("text", ["x", "a/b/c", "../x", "a/..", "a b/c", "a/b\n", "a/b--c", "-a/b"])
def test_what_is_no_name_is_refused(text):
    with pytest.raises(UsageError, match="no model name"):
        hub_name(text)


def test_two_hubs_at_once_and_unknown_ones_are_refused():
    with pytest.raises(UsageError, match="`hf:a/b` names another hub than `--hub modelscope`"):
        hub_name("hf:a/b", "modelscope")
    assert hub_name("hf:a/b", "hf") == HubName("hf", "a/b")
    assert str(HubName("hf", "a/b")) == "hf:a/b"
    with pytest.raises(UsageError, match="`--hub` is `ftp`, expected hf or modelscope"):
        hub_name("a/b", "ftp")


def test_mistyped_paths_are_not_names():
    for name in ("ling-mini-2.0", "LING-1T", "inclusionAI/Ling-new", "hf:a/b", "modelscope:a/b"):
        assert is_hub_name(name)
    for path in ("runs/tiny", "out", "ling-mini", "ftp:a/b", "inclusionai-x/y"):
        assert not is_hub_name(path)


def test_near_miss_of_an_alias_is_offered():
    with pytest.raises(UsageError, match=r"did you mean `ling-mini-2\.0`"):
        hub_name("ling-mini-2")
