"""How ranks that a launcher has started find each other: a clean part of its store, a way there.

The launcher's store outlives a restart and still has the addresses of processes that were killed.
Its count of restarts does not tell two starts apart: agents on several hosts count differently.
"""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import os
import signal
import socket
import struct
import sys
import time
import uuid
from typing import Any

import torch.distributed as dist

from ...errors import RunError

_POLL_S = 0.02
# Linux: ask for a signal when the parent ends; ask an interface for its address.
_PR_SET_PDEATHSIG, _SIOCGIFADDR = 1, 0x8915


def clean_store(store: Any, rank: int, ranks: int, timeout: datetime.timedelta) -> Any:
    """A part of `store` that only these ranks of this start know.

    Rank 0 answers the word that each rank has just made up, so that nobody takes an answer from
    before. Raises `RunError` if they do not meet within `timeout`.
    """
    end = time.monotonic() + timeout.total_seconds()
    others = range(1, ranks)
    name, asked = uuid.uuid4().hex, [f"ling/asked/{r}" for r in others]
    if rank:
        store.set(asked[rank - 1], name)
    else:
        store.wait(asked, timeout)
    while time.monotonic() < end:
        if rank:
            word, _, found = _read(store, f"ling/answer/{rank}").partition(" ")
            if word == name:
                store.set(f"{found}/{rank}", "met")
                return dist.PrefixStore(found, store)
        else:
            words = store.multi_get(asked)
            answers = [f"{word.decode()} {name}" for word in words]
            store.multi_set([f"ling/answer/{r}" for r in others], answers)
            if store.check([f"{name}/{r}" for r in others]):
                return dist.PrefixStore(name, store)
        time.sleep(_POLL_S)
    raise RunError(f"rank {rank}: the other ranks did not come within {timeout}")


def _read(store: Any, key: str) -> str:
    """A value of the store, or nothing: `get` would wait."""
    return store.get(key).decode() if store.check([key]) else ""


def interface_to(host: str) -> str | None:
    """The network interface from which `host` is reached by IPv4; None if that cannot be told.

    gloo would take the one that the machine's own name resolves to, on many machines loopback.
    """
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 9))  # sends nothing
        address = probe.getsockname()[0]
        names = [name for _, name in socket.if_nameindex()]
        return next((name for name in names if _address(probe, name) == address), None)
    return None


def _address(probe: socket.socket, interface: str) -> str | None:
    import fcntl

    request = struct.pack("256s", interface.encode()[:15])
    with contextlib.suppress(OSError):
        return socket.inet_ntoa(fcntl.ioctl(probe, _SIOCGIFADDR, request)[20:24])
    return None


def end_with_launcher() -> None:
    """Get SIGTERM when torchrun dies: its workers would train on, with nobody to end them."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent()


def end_with_parent() -> None:
    """Get SIGTERM when the process that started this one dies, where the kernel can tell."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
