"""Sums in the head: one and two digits, small products; larger ones need a tool."""

from __future__ import annotations

from .draw import Draw
from .turns import Turn
from .words import THINGS, listed, plural

_ONES = listed("""
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
sixteen seventeen eighteen nineteen
""")
_TENS = listed("twenty thirty forty fifty sixty seventy eighty ninety")

SPOKEN = {"+": "plus", "-": "minus", "*": "times", "/": "divided by"}
_ASKED = (
    "what is {x}", "what's {x}", "how much is {x}", "{x}", "what does {x} make", "calculate {x}",
    "{x} =", "what do you get for {x}", "compute {x}", "what is the result of {x}", "solve {x}",
    "add up {x}", "work out {x}", "do you know what {x} is", "what is the value of {x}",
    "what is the answer to {x}", "figure out {x}", "give me the result of {x}", "evaluate {x}",
    "what comes out of {x}", "say what {x} is", "how much does {x} make",
)  # fmt: skip
_NEW = ("what would {x} be", "how many is {x}", "tell me how much {x} makes")
_NAMED = {
    "+": (
        "what is the sum of {a} and {b}",
        "add {a} and {b}",
        "how much are {a} and {b}",
        "what do {a} and {b} make",
        "what do you get if you add {a} and {b}",
        "add {a} to {b}",
    ),
    "-": (
        "subtract {b} from {a}",
        "take {b} away from {a}",
        "what is left of {a} without {b}",
        "how much is left if you take {b} from {a}",
        "how much more is {a} than {b}",
        "what is the difference of {a} and {b}",
    ),
    "*": (
        "multiply {a} by {b}",
        "what is the product of {a} and {b}",
        "what do you get if you multiply {a} by {b}",
        "what is {a} multiplied by {b}",
    ),
    "/": ("divide {a} by {b}", "what is half of {a}", "how many times is {b} in {a}"),
}
_STORIES = {
    "+": (
        "I have {a} {x} and get {b} more. How many do I have?",
        "There are {a} {x} on the table and {b} in the box. How many are there in all?",
    ),
    "-": (
        "I have {a} {x} and give {b} away. How many are left?",
        "There are {a} {x}. {b} of them are gone. How many are left?",
    ),
}


def in_words(number: int) -> str:
    """A number from 0 to 99 in English."""
    if number < 20:
        return _ONES[number]
    ten, one = divmod(number, 10)
    return _TENS[ten - 2] + (f"-{_ONES[one]}" if one else "")


def arithmetic(d: Draw) -> Turn:
    """A sum, a difference, a product or a quotient without a remainder."""
    operator = d.one("+++---**/")
    if d.chance(0.08):
        return _too_large(d, operator)
    a, b = _numbers(d, operator)
    result = {"+": a + b, "-": a - b, "*": a * b, "/": a // (b or 1)}[operator]
    key = sum_key(a, operator, b)
    if operator in _STORIES and min(a, b) > 1 and d.chance(0.12):
        x = plural(d.one(THINGS))
        story = d.one(_STORIES[operator]).format(a=a, b=b, x=x)
        return d.turn(d.text(story), f"{a} {operator} {b} = {result}.", key=key)
    text = ask(d, operator, a, b)
    return d.turn(text, f"{a} {operator} {b} = {result}.", key=key)


def sum_key(a: int, operator: str, b: int) -> str:
    """By what a sum or difference is held out, in any wording; "" for one that all may know."""
    return f"{a}{operator}{b}" if operator in "+-" and max(a, b) > 20 else ""


def ask(d: Draw, operator: str, a: int, b: int) -> str:
    """The question for one operation."""
    if d.chance(0.15):
        wording = d.one(_NAMED[operator])
        if "half" not in wording or b == 2:
            return d.asked(wording.format(a=a, b=b))
    left, right = str(a), str(b)
    sign = d.one((f" {operator} ", operator, f" {SPOKEN[operator]} "))
    if operator == "*":
        sign = d.one((sign, " x ", "x", " times "))
    if "s" in sign and max(a, b) < 100 and d.chance(0.4):
        left, right = in_words(a), in_words(b)
    words = d.words(_ASKED, _NEW, x=left + sign + right)
    if words.startswith(left) or words.endswith("="):
        return d.text(words + d.one(("", "?", " = ?" if "=" not in words else "")))
    return d.asked(words)


def _numbers(d: Draw, operator: str) -> tuple[int, int]:
    rng = d.rng
    if operator == "*":
        return rng.randint(0, 10), rng.randint(0, 10)
    if operator == "/":
        b = rng.randint(1, 10)
        return b * rng.randint(0, 10), b
    most = d.one((10, 20, 99, 99))
    a, b = rng.randint(0, most), rng.randint(0, most)
    return (max(a, b), min(a, b)) if operator == "-" else (a, b)


def _too_large(d: Draw, operator: str) -> Turn:
    """What it does not do in its head."""
    low, high = (11, 99) if operator == "*" else (100, 9999)
    a, b = sorted((d.rng.randint(low, high) for _ in range(2)), reverse=True)
    return d.turn(ask(d, operator, a, b), "That is too large for me without a calculator.")
