"""What a recipe may say that training cannot do yet is refused with the flags that leave it out."""

from __future__ import annotations

import re

import pytest
from runs import quiet
from small_runs import recipes

from ling.errors import UsageError
from ling.train import loop


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train": {"fp8": "blockwise"}}, "`train.fp8: blockwise`: FP8"),
    ],
)
def test_fp8_training_is_refused_before_anything_is_written(tmp_path, change, said):
    said = re.escape(said) + ".*`--train.fp8 off`"
    with pytest.raises(UsageError, match=said):
        loop.run(recipes(tmp_path)(**change), tmp_path / "run", quiet)
    assert not (tmp_path / "run").exists()


def test_their_sub_fields_alone_ask_for_nothing(tmp_path):
    fields = {"fp8_param_gather": True, "fp8_pad_routing": True, "fp8_scales": "float32"}
    assert loop.run(recipes(tmp_path)(steps=1, train=fields), tmp_path / "run", quiet) == 0
