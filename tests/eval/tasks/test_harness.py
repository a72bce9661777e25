"""What lm-eval returns, as ours. Its runs are in tests/interop/test_lm_eval.py."""

from __future__ import annotations

import importlib.util

import pytest

from ling.errors import DataError, UsageError
from ling.eval.tasks.harness import HarnessTask, _as_data_errors, outcome
from ling.eval.tasks.task import TaskOptions


def test_metrics_of_a_task_have_its_filters_in_their_names():
    found = outcome(
        "gsm8k",
        {
            "results": {
                "gsm8k": {
                    "alias": "gsm8k",
                    "sample_len": 6,
                    "exact_match,strict-match": 0.25,
                    "exact_match_stderr,strict-match": "N/A",
                    "exact_match,flexible-extract": 0.5,
                    "acc,none": 1,
                }
            },
            "higher_is_better": {"gsm8k": {"exact_match": True}},
            "n-samples": {"gsm8k": {"original": 9, "effective": 4}},
            "versions": {"gsm8k": 3.0},
        },
    )
    assert found.metrics == {
        "exact_match,strict-match": 0.25,
        "exact_match,flexible-extract": 0.5,
        "acc": 1.0,
    }
    assert (found.headline, found.count, found.higher_is_better) == (
        "exact_match,strict-match",
        4,
        True,
    )


def test_members_of_a_tag_keep_their_names_and_losses_are_better_lower():
    found = outcome(
        "tag",
        {
            "results": {"a": {"word_perplexity,none": 9.5}, "b": {"acc,none": 0.5}},
            "higher_is_better": {"a": {"word_perplexity": False}},
        },
    )
    assert found.metrics == {"a/word_perplexity": 9.5, "b/acc": 0.5}
    assert (found.headline, found.higher_is_better) == ("a/word_perplexity", False)
    with pytest.raises(DataError, match="measured nothing"):
        outcome("x", {"results": {}})


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is not None, reason="it is installed")
def test_without_lm_eval_the_extra_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"pip install 'ling\[eval\]'"):
        HarnessTask("gsm8k", TaskOptions(data=(str(tmp_path),))).settings()


def test_what_data_sets_raise_is_one_line_about_the_data(tmp_path):
    class DatasetGenerationError(Exception):
        pass

    message = r"lm-eval stopped \(ValueError: bad row 3\)"
    with pytest.raises(DataError, match=message), _as_data_errors(tmp_path):
        raise DatasetGenerationError("an error occurred") from ValueError("bad row 3\nmore")
    with pytest.raises(UsageError, match="as it was"), _as_data_errors(tmp_path):
        raise UsageError("as it was")
