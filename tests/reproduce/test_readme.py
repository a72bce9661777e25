"""The README's block has what is committed, and nothing else."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from stand_in_records import record

from ling.errors import UsageError
from ling.reproduce.claim import Figure
from ling.reproduce.readme import BEGIN, END, updated, write_block

ROOT = Path(__file__).parents[2]


@pytest.fixture
def clone(tmp_path):
    """A repository with a README that has the marks, and a folder for claims."""
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "claims").mkdir()
    (tmp_path / "README.md").write_text(f"# ling\n{BEGIN}\nold\n{END}\nrest\n")
    return tmp_path


def add(clone, *names):
    subprocess.run(["git", "-C", str(clone), "add", *names], check=True)


def test_committed_records_are_quoted_beside_the_published_figures(clone):
    record("sizes").save(clone / "claims")
    record("wsm", quick=True).save(clone / "claims")
    record("leverage", how="formula").save(clone / "claims")
    add(clone, "claims")
    record("kv-bytes").save(clone / "claims")  # on the disk only
    (clone / "claims" / "decode.png").write_bytes(b"")
    assert "1 claims" in write_block(clone / "README.md", clone / "claims")
    text = (clone / "README.md").read_text()
    assert (
        "(claims/sizes.md) | 41 | answer: 42 (counted; agrees) | `ling reproduce sizes` |" in text
    )
    assert "wsm.md" not in text
    assert "leverage.md" not in text
    assert "kv-bytes" not in text
    assert "![" not in text
    assert text.startswith("# ling\n")
    assert text.endswith(f"{END}\nrest\n")
    assert "old" not in text
    write_block(clone / "README.md", clone / "claims")
    assert (clone / "README.md").read_text() == text


def test_a_claim_in_parts_is_quoted_with_the_outcome_of_its_first_figure(clone):
    figures = [Figure("ratio", "2", "1", "measured", 1, 13, "disagrees")]
    record("decode", figures=figures, outcome="partly").save(clone / "claims")
    add(clone, "claims")
    write_block(clone / "README.md", clone / "claims")
    text = (clone / "README.md").read_text()
    assert "ratio: 1 (measured; disagrees at this scale)" in text


def test_a_picture_is_shown_where_its_claim_is_quoted(clone):
    record("decode").save(clone / "claims")
    (clone / "claims" / "decode.png").write_bytes(b"")
    add(clone, "claims")
    write_block(clone / "README.md", clone / "claims")
    assert "](claims/decode.png)" in (clone / "README.md").read_text()


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no clone of the repository")
def test_the_readme_of_this_repository_has_what_its_records_have():
    readme = ROOT / "README.md"
    text, _ = updated(readme, ROOT / "docs" / "evidence" / "claims")
    assert text == readme.read_text()


def test_what_is_missing_is_named(clone, tmp_path_factory):
    (clone / "plain.md").write_text("# ling\n")
    with pytest.raises(UsageError, match=r"plain\.md: no line"):
        write_block(clone / "plain.md", clone / "claims")
    with pytest.raises(UsageError, match="cannot be read"):
        write_block(clone / "none.md", clone / "claims")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    with pytest.raises(UsageError, match="not in a clone"):
        write_block(clone / "README.md", elsewhere)
