"""API keys: where they come from, and how a request shows one."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Sequence
from pathlib import Path

from starlette.datastructures import Headers

from ..config.engine import ServeConfig
from ..errors import UsageError
from ..files.guarded import read_regular
from ..text import shown_path

API_KEY_VARIABLE = "LING_API_KEY"
MAX_FILE_BYTES = 64 << 10


class Keys:
    """The keys that a server takes; none of them is ever printed."""

    def __init__(self, keys: Sequence[str] = ()) -> None:
        self._keys = tuple(dict.fromkeys(key.encode() for key in keys))

    def __bool__(self) -> bool:
        return bool(self._keys)

    def tag(self, given: bytes) -> str | None:
        """Whose key this is, None where it is nobody's; the time does not depend on how close.

        Clients with the same tag share cached prefixes, also after a restart: it is empty where
        there is one key only, else a hash, which ends up in files of `cache_dir`.
        """
        found = [key for key in self._keys if hmac.compare_digest(given, key)]
        if not found:
            return None
        if len(self._keys) == 1:
            return ""
        return hashlib.blake2b(found[0], digest_size=16, person=b"ling-cache-salt").hexdigest()


def key_of(headers: Headers) -> bytes:
    """The key that a request shows, as the bytes that were sent: `Authorization: Bearer KEY`, or
    `X-API-Key: KEY` as Anthropic's clients send it. Empty where there is none."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        key = headers.get("x-api-key", "")
    # Starlette decodes headers as Latin-1, so this gives back the bytes that were sent.
    return key.strip().encode("latin-1")


def read_keys(config: ServeConfig) -> Keys:
    """The keys of the call and of its file, or else of the environment.

    Raises `UsageError` for a key that no client could send, and for a file without one.
    """
    keys = [] if config.api_key is None else [config.api_key]
    if config.api_key_file is not None:
        keys += keys_of_file(Path(config.api_key_file))
    if not keys and (variable := os.environ.get(API_KEY_VARIABLE)):
        keys = [variable]
    for key in keys:
        if not key.strip() or key != key.strip() or not key.isprintable():
            raise UsageError("the API key is empty or has spaces at its ends or control characters")
    return Keys(keys)


def keys_of_file(path: Path, option: str = "`api_key_file`") -> list[str]:
    """A key a line; empty lines and those that begin with `#` are none, nor is the mark
    that some editors begin a file with."""
    name = f"{option} {shown_path(path)}"
    try:
        text = read_regular(path, MAX_FILE_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{name} is not UTF-8") from None
    lines = [line.strip() for line in text.splitlines()]
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise UsageError(f"{name} has no key: write one a line")
    return keys
