"""Marks tests that run programs in cells."""

from __future__ import annotations

import pytest

from ling.errors import LingError
from ling.eval.code.sandbox import require_sandbox


def _refusal():
    try:
        require_sandbox()
    except LingError as err:
        return str(err)
    return ""


needs_sandbox = pytest.mark.skipif(bool(why := _refusal()), reason=why or "the kernel gives cells")
