"""Constants of a plan from a file, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from ling.errors import UsageError
from ling.plan.constants import ASSUMED, Constants, read_calibration, write_calibration


def test_a_written_file_is_read_back(tmp_path):
    path = tmp_path / "gpu.json"
    write_calibration(
        path, "h100-80g", {"gemm_share": 0.7, "expert_share_by_rows": {"64": 0.1, "1024": 0.3}}
    )
    found = read_calibration(path)
    assert found.gpu == "h100-80g"
    assert found.constants.gemm_share == 0.7
    assert found.constants.stream_share == ASSUMED.stream_share
    assert "gemm_share" in found.measured
    assert "stream_share" in found.assumed
    assert found.constants.expert_share(256) == pytest.approx(0.2)


def test_shares_of_experts_are_the_nearest_beyond_what_was_measured():
    constants = Constants(expert_share_by_rows={64: 0.1, 1024: 0.3})
    assert [constants.expert_share(n) for n in (1, 64, 1024, 5000)] == [0.1, 0.1, 0.3, 0.3]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not a JSON file"),
        ("[]", "no object `constants`"),
        ('{"constants": {}}', "no object `constants`"),
        ('{"constants": {"gem_share": 1}}', "did you mean `gemm_share`"),
        ('{"constants": {"gemm_share": "much"}}', "expected a number above 0"),
        ('{"constants": {"gemm_share": NaN}}', "expected a number above 0"),
        ('{"constants": {"gemm_share": true}}', "expected a number above 0"),
        ('{"constants": {"gemm_share": 1' + "0" * 400 + "}}", "expected a number above 0"),
        ('{"constants": {"gemm_share": 70}}', "expected a share of the peak, such as 0.7"),
        ('{"constants": {"expert_share_by_rows": {"64": 14}}}', "expected a share of the peak"),
        ('{"constants": {"expert_share_by_rows": {"64": 0.1, "064": 0.2}}}', "rows twice"),
        ('{"constants": {"expert_share_by_rows": {"-1": 0.5}}}', "a number of rows"),
        ('{"constants": {"expert_share_by_rows": 0.5}}', "expected rows and their shares"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path, text, said):
    path = tmp_path / "gpu.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=said):
        read_calibration(path)


def test_a_file_without_an_end_is_not_read():
    with pytest.raises(UsageError, match="not a JSON file"):
        read_calibration(Path("/dev/zero"))
