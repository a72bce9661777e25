"""Days, months and hours, and how units of time and measure divide."""

from __future__ import annotations

from .draw import Draw
from .turns import Turn
from .words import listed, plural

DAYS = listed("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = listed("""
January February March April May June July August September October November December
""")
LENGTHS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_ORDINALS = listed("""
first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth
""")
# (unit, how many, of the smaller unit)
PARTS = (
    ("minute", 60, "seconds"), ("hour", 60, "minutes"), ("day", 24, "hours"), ("week", 7, "days"),
    ("year", 12, "months"), ("kilometre", 1000, "metres"), ("metre", 100, "centimetres"),
    ("kilogram", 1000, "grams"), ("litre", 1000, "millilitres"), ("centimetre", 10, "millimetres"),
    ("dozen", 12, "pieces"), ("foot", 12, "inches"), ("yard", 3, "feet"), ("dollar", 100, "cents"),
    ("euro", 100, "cents"), ("century", 100, "years"), ("decade", 10, "years"),
    ("pound", 16, "ounces"), ("gallon", 4, "quarts"), ("ton", 1000, "kilograms"),
)  # fmt: skip


def dates(d: Draw) -> Turn:
    """One question about the calendar or the clock."""
    return d.one((_next, _next, _later, _month_length, _which, _hours, _order))(d)


def units(d: Draw) -> Turn:
    """How many of the smaller unit are in one or a few of the larger."""
    unit, each, small = d.one(PARTS)
    n = d.rng.randint(2, 9) if d.chance(0.6) else 1
    many = f"{n} {plural(unit)}" if n > 1 else f"{'an' if unit == 'hour' else 'a'} {unit}"
    if d.chance(0.25):
        asked = d.words(("convert {x} to {s}", "what is {x} in {s}"),
                        ("express {x} in {s}",), x=many, s=small)  # fmt: skip
    else:
        asked = d.words(("how many {s} are in {x}", "how many {s} are there in {x}",
                         "how many {s} does {x} have", "how many {s} make {x}"),
                        ("of how many {s} is {x} made",), x=many, s=small)  # fmt: skip
        asked = asked.replace("does", "do").replace(" is ", " are ") if n > 1 else asked
    start = f"{n} {plural(unit)} are" if n > 1 else f"1 {unit} is"
    return d.turn(d.asked(asked), f"{start} {n * each} {small}.")


def _next(d: Draw) -> Turn:
    names, what = d.one(((DAYS, "day"), (MONTHS, "month")))
    at, is_after = d.rng.randrange(len(names)), d.chance(0.6)
    to = names[(at + (1 if is_after else -1)) % len(names)]
    side = "after" if is_after else "before"
    asked = d.words(
        ("what {k} comes {w} {x}", "which {k} is {w} {x}", "what {k} is {w} {x}",
         "what is the {k} {w} {x}", "what comes {w} {x}", "which {k} comes {w} {x}"),
        ("name the {k} {w} {x}",), k=what, w=side, x=names[at])  # fmt: skip
    return d.turn(d.asked(asked), f"{to} comes {side} {names[at]}.")


def _later(d: Draw) -> Turn:
    at, n, is_ahead = d.rng.randrange(7), d.rng.randint(2, 6), d.chance(0.7)
    to, today = DAYS[(at + (n if is_ahead else -n)) % 7], DAYS[at]
    if d.chance(0.4):
        n, is_ahead = 1, d.chance(0.6)
        to = DAYS[(at + (1 if is_ahead else -1)) % 7]
        asked = d.words(("today is {x}. What day {v} {w}", "if today is {x}, what day {v} {w}"),
                        ("suppose it is {x}. What day {v} {w}",), x=today,
                        v="is" if is_ahead else "was",
                        w="tomorrow" if is_ahead else "yesterday")  # fmt: skip
        end = "is tomorrow" if is_ahead else "was yesterday"
        return d.turn(d.asked(asked), f"{to} {end}.")
    side = "after" if is_ahead else "before"
    asked = d.words(("what day is {n} days {w} {x}", "which day is {n} days {w} {x}",
                     "what day comes {n} days {w} {x}"),
                    ("name the day {n} days {w} {x}",), n=n, w=side, x=today)  # fmt: skip
    return d.turn(d.asked(asked), f"{n} days {side} {today} is {to}.")


def _month_length(d: Draw) -> Turn:
    at = d.rng.randrange(12)
    asked = d.words(("how many days does {x} have", "how many days has {x}",
                     "how long is {x}", "how many days are in {x}"),
                    ("of how many days is {x} made",), x=MONTHS[at])  # fmt: skip
    more = ", in leap years 29" if at == 1 else ""
    return d.turn(d.asked(asked), f"{MONTHS[at]} has {LENGTHS[at]} days{more}.")


def _which(d: Draw) -> Turn:
    names, what, whole = d.one(((DAYS, "day", "week"), (MONTHS, "month", "year")))
    at = d.rng.randrange(len(names))
    nth = "last" if at == len(names) - 1 and d.chance(0.5) else _ORDINALS[at]
    asked = d.words(("what is the {n} {k} of the {y}", "which is the {n} {k} of the {y}",
                     "which {k} of the {y} is the {n}"), ("name the {n} {k} of the {y}",),
                    n=nth, k=what, y=whole)  # fmt: skip
    return d.turn(d.asked(asked), f"The {nth} {what} of the {whole} is {names[at]}.")


def _hours(d: Draw) -> Turn:
    at, n, is_later = d.rng.randint(1, 12), d.rng.randint(1, 6), d.chance(0.7)
    to = (at + (n if is_later else -n) - 1) % 12 + 1
    span = f"{n} hour{'s' if n > 1 else ''}"
    side = "after" if is_later else "before"
    asked = d.words(("what time is {n} {w} {x} o'clock", "what is {n} {w} {x} o'clock"),
                    ("tell me the time {n} {w} {x} o'clock",), n=span, w=side, x=at)  # fmt: skip
    return d.turn(d.asked(asked), f"{span} {side} {at} o'clock is {to} o'clock.")


def _order(d: Draw) -> Turn:
    listed = d.one((
        ("name the days of the week", "what are the days of the week", "list the weekdays"),
        ("name the months", "what are the months of the year", "list all months"),
        ("name the seasons", "what are the four seasons", "list the seasons of the year"),
    ))  # fmt: skip
    names = DAYS if "da" in listed[0] else MONTHS if "mon" in listed[0] else (
        "Spring", "summer", "autumn", "winter")  # fmt: skip
    wording = d.one(listed)
    return d.turn(d.asked(wording), ", ".join(names) + ".")
