"""Numbers without sums: counting, order, even and odd, digits and words."""

from __future__ import annotations

from .arithmetic import in_words
from .draw import Draw, capital
from .turns import Turn


def numbers(d: Draw) -> Turn:
    """One question about whole numbers."""
    return d.one((_count, _count, _next, _bigger, _parity, _spelt, _sorted, _double))(d)


def _count(d: Draw) -> Turn:
    first, last = (1, d.rng.randint(2, 20)) if d.chance(0.5) else _span(d)
    numbers = [*range(first, last + 1)]
    if d.chance(0.3):
        wording = d.words(("count down from {b} to {a}", "count backwards from {b} to {a}"),
                          ("go down from {b} to {a}",), a=first, b=last)  # fmt: skip
        numbers.reverse()
    elif first == 1:
        wording = d.words(("count to {b}", "count up to {b}", "list the numbers up to {b}"),
                          ("count until {b}",), b=last)  # fmt: skip
    else:
        wording = d.words(("count from {a} to {b}", "list the numbers from {a} to {b}"),
                          ("write the numbers between {a} and {b}",), a=first, b=last)  # fmt: skip
    return d.turn(d.request(wording), ", ".join(map(str, numbers)) + ".")


def _span(d: Draw) -> tuple[int, int]:
    first = d.rng.randint(2, 90)
    return first, first + d.rng.randint(2, 9)


def _next(d: Draw) -> Turn:
    n, is_after = d.rng.randint(1, 999 if d.chance(0.5) else 99), d.chance(0.6)
    asked = d.words(
        ("what number comes {w} {n}", "which number is {w} {n}", "what comes {w} {n}",
         "what is the number {w} {n}"),
        ("name the number {w} {n}",), w="after" if is_after else "before", n=n)  # fmt: skip
    return d.turn(d.asked(asked), f"{n + 1 if is_after else n - 1}.")


def _bigger(d: Draw) -> Turn:
    most = d.one((20, 99, 999))
    a, b = d.rng.sample(range(most), 2)
    word, pick = d.one((("bigger", max), ("larger", max), ("greater", max), ("smaller", min)))
    asked = d.words(("which is {w}, {a} or {b}", "which number is {w}, {a} or {b}",
                     "what is {w}: {a} or {b}"), ("of {a} and {b}, which is {w}",),
                    w=word, a=a, b=b)  # fmt: skip
    found = pick(a, b)
    return d.turn(d.asked(asked), f"{found} is {word} than {a + b - found}.")


def _parity(d: Draw) -> Turn:
    n, asked = d.rng.randint(0, 999 if d.chance(0.3) else 99), d.one(("even", "odd"))
    kind = "odd" if n % 2 else "even"
    wording = d.words(("is {n} {w}", "is {n} an {w} number", "is the number {n} {w}"),
                      ("would you call {n} {w}",), n=n, w=asked)  # fmt: skip
    return d.turn(d.question(wording), f"{'Yes' if kind == asked else 'No'}, {n} is {kind}.")


def _spelt(d: Draw) -> Turn:
    n = d.rng.randint(0, 99)
    if d.chance(0.5):
        asked = d.words(("write {n} in words", "spell the number {n}", "say {n} in words"),
                        ("put {n} into words",), n=n)  # fmt: skip
        return d.turn(d.request(asked), f"{capital(in_words(n))}.")
    asked = d.words(("write {w} in digits", "write {w} as a number", "what number is {w}"),
                    ("turn {w} into digits",), w=in_words(n))  # fmt: skip
    return d.turn(d.asked(asked), f"{n}.")


def _sorted(d: Draw) -> Turn:
    found = d.rng.sample(range(1, d.one((20, 100))), d.rng.randint(3, 5))
    listed = ", ".join(map(str, found))
    kind = d.one(("sort", "largest", "smallest", "how many"))
    if kind == "sort":
        asked = d.words(("sort these numbers: {x}", "sort {x}", "put in order: {x}"),
                        ("order the numbers {x}",), x=listed)  # fmt: skip
        return d.turn(d.text(asked + "."), ", ".join(map(str, sorted(found))) + ".")
    if kind == "how many":
        return d.turn(d.question(f"how many numbers are these: {listed}"), f"{len(found)} numbers.")
    asked = d.words(("what is the {w} of {x}", "which is the {w} number: {x}"),
                    ("find the {w} of {x}",), w=kind, x=listed)  # fmt: skip
    return d.turn(d.asked(asked), f"{max(found) if kind == 'largest' else min(found)}.")


def _double(d: Draw) -> Turn:
    n = d.rng.randint(1, 50)
    if d.chance(0.5):
        return d.turn(d.question(f"what is {d.one(('double', 'twice'))} {n}"), f"{2 * n}.")
    return d.turn(d.question(f"what is half of {2 * n}"), f"{n}.")
