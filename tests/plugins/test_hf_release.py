"""What is said about releases of transformers; none needs to be installed."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from ling.errors import CheckpointError, UsageError
from ling.plugins import hf_release


@pytest.mark.parametrize(
    ("version", "too_old", "untested"),
    [
        ("4.56.2", True, False),
        ("4.57.0", False, False),
        ("5.0.0rc1", False, False),
        ("5.9.1", False, False),
        ("5.24.3", False, False),
        ("5.24.0.dev0", False, False),
        ("5.25.0", False, True),
        ("5.25rc1", False, True),
        ("6.0.0", False, True),
    ],
)
def test_the_tested_range_is_one_of_minor_releases(version, too_old, untested):
    assert hf_release.is_too_old(version) == too_old
    assert hf_release.is_untested(version) == untested


@pytest.fixture
def release(monkeypatch):
    """`release("5.99.0")` makes that the installed one."""

    def install(version):
        module = ModuleType("transformers")
        module.__version__ = version
        monkeypatch.setitem(sys.modules, "transformers", module)

    return install


@hf_release.names_release
def call(err):
    raise err


@pytest.mark.parametrize("err", [TypeError("no `cache`"), KeyError("k"), ValueError("v")])
def test_a_failure_of_an_untested_release_names_it(release, err):
    release("5.99.0")
    with pytest.raises(
        UsageError, match=r"transformers 5\.99\.0 .*tested: 4\.57 to 5\.24.*pip"
    ) as e:
        call(err)
    assert type(err).__name__ in str(e.value)
    assert "\n" not in str(e.value)
    assert e.value.__cause__ is err


@pytest.mark.parametrize(
    "err", [RuntimeError("out of memory"), FileNotFoundError("no file"), CheckpointError("ours")]
)
def test_what_is_no_matter_of_the_release_stays_as_it_is(release, err):
    release("5.99.0")
    with pytest.raises(type(err)) as caught:
        call(err)
    assert caught.value is err


def test_a_failure_of_a_tested_release_stays_as_it_is(release):
    release("5.24.0")
    with pytest.raises(TypeError, match=r"^plain$"):
        call(TypeError("plain"))


def test_a_long_failure_is_said_in_one_line():
    line = hf_release.failure("5.99.0", TypeError("first\n  second"))
    assert "first second" in line
    assert "\n" not in line
