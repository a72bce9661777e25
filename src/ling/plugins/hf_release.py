"""Which releases of transformers our class is tested with, and what is said about the others.

Imports nothing of transformers: the hook asks before any of our classes is imported.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from ..errors import LingError, UsageError

# Rows of `scripts/interop` are both ends and releases between; when they last ran is in
# docs/guides/transformers.md.
OLDEST, NEWEST = (4, 57), (5, 24)
# Released checkpoints say the first, which is also Ling 1.x's; third parties say the second.
MODEL_TYPES = ("bailing_moe", "bailing_moe_v2")
TESTED = "{}.{} to {}.{}".format(*OLDEST, *NEWEST)
_MEND = f"install a tested one: pip install 'transformers<{NEWEST[0]}.{NEWEST[1] + 1}'"
# What a renamed argument, a moved module or a changed result raises. Out of memory, a missing file
# or a failed CUDA call is no matter of the release.
_CHANGED_INTERFACE = (TypeError, AttributeError, ImportError, LookupError, ValueError)

Method = TypeVar("Method", bound=Callable[..., Any])


def installed() -> str:
    """The version of the transformers that is being imported or in use."""
    return str(getattr(sys.modules.get("transformers"), "__version__", "0.0"))


def numbers(version: str) -> tuple[int, ...]:
    """(5, 24) of `5.24.0`, `5.24.0.dev0` and `5.24rc1`."""
    return tuple(int(n) for n in re.findall(r"\d+", version)[:2])


def is_too_old(version: str) -> bool:
    """Older than anything our class works with."""
    return numbers(version) < OLDEST


def is_untested(version: str) -> bool:
    """Newer than the last tested release; patch releases count as their minor release."""
    return numbers(version) > NEWEST


def too_old(version: str) -> str:
    """The one warning that a release gets which our class was not made for."""
    return (
        f"transformers {version} is older than {TESTED.split()[0]}: "
        "the Ling 2.0 classes are not registered"
    )


def untested(version: str) -> str:
    """The one warning that an untested release gets."""
    return f"transformers {version} is untested with the Ling 2.0 classes (tested: {TESTED})"


def failure(version: str, err: Exception) -> str:
    """What a release that fails is reported with."""
    said = " ".join(str(err).split())
    return (
        f"transformers {version} does not work with the Ling 2.0 classes (tested: {TESTED}): "
        f"{type(err).__name__}: {said}; {_MEND}"
    )


def names_release(method: Method) -> Method:
    """Make a method that transformers calls name an untested release when it fails in it."""

    at_import = installed()

    @functools.wraps(method)
    def named(*args: Any, **kwargs: Any) -> Any:
        try:
            return method(*args, **kwargs)
        except LingError:
            raise
        except _CHANGED_INTERFACE as err:
            # transformers may replace itself in `sys.modules` while it loads a model's files.
            version = max(at_import, installed(), key=numbers)
            if not is_untested(version):
                raise
            raise UsageError(failure(version, err)) from err

    return named  # type: ignore[return-value]
