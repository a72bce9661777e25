"""Memory that a step has freed stays in the process for the next one.

By default glibc gives each large tensor back to the system when it is freed. Every step then maps
gigabytes again, and the system fills them with zeros page by page: a sixth of a step's time.
"""

from __future__ import annotations

import ctypes
import os

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_SETTINGS = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_")


def keep_freed_memory() -> bool:
    """Make malloc keep what is freed, in this process from now on; whether that was done.

    Not where the C library is another one, nor against what the environment says of malloc.
    """
    chosen = any(name in os.environ for name in _SETTINGS)
    if chosen or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # musl has none, Windows no None
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))
