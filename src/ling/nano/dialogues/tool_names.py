"""Names for tools and arguments that nobody knows by heart, so that they have to be read.

With a few names a tool, a model of this size learns those names: it calls `set_timer` where
`new_alarm` is offered. A name that is put together anew each time can only be copied.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Sequence

from .words import listed, made_up

_VERBS = listed("""
set get make do run use start my the call handle open request create check show give tell update
change send apply perform go find read add save new begin try query load home user quick
""")
_ENDINGS = listed("""
tool service api app function control manager helper now info data action task handler client bot
for_user 1 2 v2 x here today please center log
""")
_PREFIXES = listed("the my input new user target some this a")
_SUFFIXES = listed("name value id text input 1 arg param given")
# Words of usual names that say nothing of what a tool is about.
_EMPTY = frozenset(listed("""
set get make start current change control to in now create check save take send find look up read
add do the it item person
"""))  # fmt: skip


def words_in(names: Iterable[str]) -> tuple[str, ...]:
    """What usual names say of a tool, such as ("alarm", "wake")."""
    parts = dict.fromkeys(part for name in names for part in name.split("_"))
    return tuple(part for part in parts if part not in _EMPTY) or tuple(parts)


def tool_name(rng: random.Random, about: Sequence[str], taken: Collection[str]) -> tuple[str, bool]:
    """A name that is not `taken`, and whether it says what the tool is about."""
    while True:
        word, kind = rng.choice(about), rng.random()
        if kind < 0.4:
            parts = [rng.choice(_VERBS), word]
        elif kind < 0.6:
            parts = [word, rng.choice(_ENDINGS)]
        elif kind < 0.75:
            parts = rng.sample([word, made_up(rng, rng.randint(1, 2))], 2)
        else:
            parts = [made_up(rng, rng.randint(1, 3))]
            if rng.random() < 0.4:
                parts.append(rng.choice((made_up(rng, 1), str(rng.randint(1, 99)), *_ENDINGS)))
        name = _joined(rng, parts)
        if name not in taken:
            return name, kind < 0.75


def argument_name(rng: random.Random, usual: Sequence[str], taken: Collection[str]) -> str:
    """A usual name, one put together with it, or one that says nothing."""
    while True:
        name, kind = rng.choice(usual), rng.random()
        if kind < 0.2:
            name = _joined(rng, [rng.choice(_PREFIXES), name])
        elif kind < 0.4:
            name = _joined(rng, [name, rng.choice(_SUFFIXES)])
        elif kind < 0.55:
            name = made_up(rng, rng.randint(1, 2))
        if name not in taken:
            return name


def _joined(rng: random.Random, parts: Sequence[str]) -> str:
    style = rng.random()
    if style < 0.75:
        return "_".join(parts)
    if style < 0.9:
        return parts[0] + "".join(part.title().replace("_", "") for part in parts[1:])
    return ("-" if style < 0.95 else "").join(parts)
