"""scripts/check_figures: figures of the docs are what they are said to be, and errors are seen."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def checker():
    spec = importlib.util.spec_from_file_location(
        "check_figures", ROOT / "benchmarks" / "check_figures.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_figures_of_readme_and_docs_are_what_gives_them(checker):
    entries = yaml.safe_load(checker.TABLE.read_text())["figures"]
    entries = [entry for entry in entries if "command" not in entry]  # tests/cli/test_plan.py
    assert [str(finding) for entry in entries for finding in checker.check(entry)] == []


def test_sections_with_measurements_name_their_commands(checker):
    limits = yaml.safe_load(checker.TABLE.read_text())["limits"]
    assert list(map(str, checker.unsourced(limits))) == []


def test_limits_are_neither_too_few_nor_too_many(checker, tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("# A\n\n## Limits\n\nnot above 10 s\n\n## Quick\n\n3 ms\n")
    found = list(map(str, checker.unsourced({"README.md": ["Limits", "Gone"]}, tmp_path)))
    assert found == [
        "README.md: section `Quick` states a measurement without a command",
        "README.md: section `Gone` needs no place among the limits",
    ]


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("It has 16.3 B and 40,960 bytes", None),
        ("It has 16.26 B and\n40,960 bytes", None),
        ("It has 16.2 B and 40,960 bytes", "has 16.2, ling-mini-2.0 parameters.total gives 16.25"),
        ("It has 16.3 B and 40,961 bytes", "has 40,961"),
        ("It has none", "0 passages"),
        ("It has 16.3 B and 1 bytes. It has 16.3 B and 1 bytes", "2 passages"),
    ],
)
def test_a_figure_must_be_a_rounding_of_its_value(checker, tmp_path, text, finding):
    (tmp_path / "page.md").write_text(text)
    entry = {
        "file": "page.md",
        "text": "It has {} B and {} bytes",
        "figures": [
            {"preset": "ling-mini-2.0", "key": "parameters.total", "unit": "B"},
            {"claim": "kv-bytes", "figure": "Ling-mini, bfloat16, bytes a token"},
        ],
    }
    checker.measured.cache_clear()
    found = [str(one) for one in checker.check(entry, tmp_path)]
    assert (finding is None) == (not found)
    assert all(finding in one for one in found)


def test_what_takes_long_is_not_run(checker):
    with pytest.raises(ValueError, match="quote its committed record"):
        checker.measured("wsm")


def test_a_figure_that_a_claim_does_not_have_is_named(checker):
    with pytest.raises(ValueError, match="`none` of `sizes` has no number"):
        checker.value_of({"claim": "sizes", "figure": "none"})


@pytest.mark.parametrize("figure", ["12 tokens/s", "0.4 s", "80%", "3 million tokens a second"])
def test_a_section_without_a_command_is_named(checker, figure):
    text = f"# A\n\n## Fast\n\n{figure}\n\n## Slow\n\n`ling bench decode`: 3 tokens/s\n"
    assert checker.without_command(text) == ["Fast"]
    assert checker.without_command(text.replace("# A\n", "# A\n\nWritten by `ling x`\n", 1)) == []
