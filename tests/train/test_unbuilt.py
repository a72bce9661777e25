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
        ({"optim": {"name": "adamw8bit"}}, "`optim.name: adamw8bit`: 8-bit"),
    ],
)
def test_8_bit_training_is_refused_before_anything_is_written(tmp_path, change, said):
    said = re.escape(said) + ".*`--optim.name adamw`"
    with pytest.raises(UsageError, match=said):
        loop.run(recipes(tmp_path)(**change), tmp_path / "run", quiet)
    assert not (tmp_path / "run").exists()
