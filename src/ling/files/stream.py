"""Writing a large file from its start to its end past the system's cache of files.

What is written once and read much later would push out what is read now, and copying it there
costs as much memory traffic as making it.
"""

from __future__ import annotations

import errno
import mmap
import os
from pathlib import Path

_BUFFER_BYTES = 1 << 20


class Stream:
    """A new file that grows by `write`; on the disk after `close`.

    Where the file system cannot write past its cache, it is an ordinary file.
    """

    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self._direct = getattr(os, "O_DIRECT", 0)
        try:
            self._fd = os.open(path, flags | self._direct, 0o644)
        except OSError as err:
            if not self._direct or err.errno != errno.EINVAL:
                raise
            self._direct = 0
            self._fd = os.open(path, flags, 0o644)
        # Memory of its own pages, as writing past the cache needs it.
        self._buffer = memoryview(mmap.mmap(-1, _BUFFER_BYTES))
        self._used = 0

    def write(self, data: memoryview) -> None:
        """Append."""
        while data:
            taken = data[: _BUFFER_BYTES - self._used]
            self._buffer[self._used : self._used + len(taken)] = taken
            self._used += len(taken)
            data = data[len(taken) :]
            if self._used == _BUFFER_BYTES:
                self._flush()

    def _flush(self) -> None:
        left = self._buffer[: self._used]
        while left:
            try:
                left = left[os.write(self._fd, left) :]
            except OSError as err:
                if not self._direct or err.errno != errno.EINVAL:
                    raise
                self._through_cache()
            else:
                if left and self._direct:  # a part was written: the rest is not on a border
                    self._through_cache()
        self._used = 0

    def _through_cache(self) -> None:
        import fcntl

        now = fcntl.fcntl(self._fd, fcntl.F_GETFL)
        fcntl.fcntl(self._fd, fcntl.F_SETFL, now & ~self._direct)
        self._direct = 0

    def finish(self) -> None:
        """Write what is left, and wait until all is on the disk."""
        if self._direct:
            self._through_cache()  # the end is on no border
        self._flush()
        os.fsync(self._fd)

    def close(self) -> None:
        os.close(self._fd)
