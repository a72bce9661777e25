"""Model names: aliases, hub names and which hub they mean."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from ..errors import UsageError
from ..text import nearest

HUBS = ("hf", "modelscope")
ORGANISATION = "inclusionAI"
# Both hubs hold the released models under the same names.
_RELEASED = (
    "Ling-mini-2.0",
    "Ling-mini-base-2.0",
    "Ling-mini-base-2.0-5T",
    "Ling-mini-base-2.0-10T",
    "Ling-mini-base-2.0-15T",
    "Ling-mini-base-2.0-20T",
    "Ling-flash-2.0",
    "Ling-flash-base-2.0",
    "Ling-1T",
)
ALIASES = {name.lower(): f"{ORGANISATION}/{name}" for name in _RELEASED}
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


class HubName(NamedTuple):
    """A repository on a hub."""

    hub: str
    repository: str

    def __str__(self) -> str:
        return f"{self.hub}:{self.repository}"


def default_hub() -> str:
    """The hub of names without one: `LING_HUB`, else Hugging Face."""
    return checked_hub(os.environ.get("LING_HUB") or "hf", "LING_HUB")


def checked_hub(hub: str, where: str = "--hub") -> str:
    """The name of a hub; `UsageError` when there is none such."""
    if hub not in HUBS:
        raise UsageError(f"`{where}` is `{hub}`, expected {' or '.join(HUBS)}")
    return hub


def hub_name(text: str, hub: str | None = None) -> HubName:
    """The repository that `alias`, `org/name`, `hf:org/name` or `modelscope:org/name` means."""
    prefix, colon, rest = text.partition(":")
    if colon and prefix in HUBS:
        if hub not in (None, prefix):
            raise UsageError(f"`{text}` names another hub than `--hub {hub}`")
        hub, text = prefix, rest
    repository = ALIASES.get(text.lower(), text)
    if not _REPOSITORY.fullmatch(repository) or ".." in repository or "--" in repository:
        raise UsageError(
            f"`{text}` is no model name{nearest(text, list(ALIASES))}; "
            "expected `org/name` or an alias such as `ling-mini-2.0`"
        )
    return HubName(checked_hub(hub) if hub else default_hub(), repository)


def is_hub_name(text: str) -> bool:
    """Whether commands that take a model may look this up on a hub.

    An `org/name` of others needs a prefix, so that a mistyped path is not sent to anyone.
    """
    return (
        text.lower() in ALIASES
        or text.startswith(f"{ORGANISATION}/")
        or text.startswith(tuple(f"{hub}:" for hub in HUBS))
    )
