"""Tools that return what is then told: weather, a calculator, units, and things looked up."""

from __future__ import annotations

from . import words
from .arithmetic import SPOKEN, ask, sum_key
from .dates import MONTHS
from .draw import Draw, capital
from .tools import Argument, Tool, ToolKind, returned
from .turns import Turn

_SKIES = ("sunny", "cloudy", "rainy", "windy", "foggy", "snowy", "clear", "stormy", "hot", "cold")


def _weather(d: Draw, tool: Tool) -> Turn:
    city, sky, degrees = words.city(d.rng), d.one(_SKIES), d.rng.randint(-9, 39)
    asked = d.words(
        ("what is the weather in {c}", "how is the weather in {c}", "weather in {c}?",
         "what's the weather like in {c}", "tell me the weather in {c}", "is it warm in {c}",
         "how warm is it in {c}", "give me the weather for {c}", "what is the weather like in {c}",
         "check the weather in {c}", "do I need a coat in {c}", "what about the weather in {c}",
         "look up the weather in {c}", "is it raining in {c}", "what is the temperature in {c}",
         "is it cold in {c}", "is it hot in {c}", "will it rain in {c}", "does it rain in {c}",
         "how cold is it in {c}", "how hot is it in {c}", "what weather do they have in {c}",
         "is it sunny in {c}", "is the sun shining in {c}", "do I need an umbrella in {c}",
         "tell me how the weather is in {c}", "show me the weather in {c}", "is it windy in {c}",
         "what is the weather today in {c}", "how is the weather in {c} today",
         "how many degrees are there in {c}", "what's the temperature in {c}",
         "get the weather in {c}", "is it snowing in {c}", "what's the weather in {c}",
         "say how the weather in {c} is", "will I need a coat in {c}", "the weather in {c} please.",
         "I want to know the weather in {c}.", "weather for {c}?", "weather of {c}?",
         "I am going to {c}, how is the weather?", "should I wear a coat in {c}?"),
        ("do they have good weather in {c}", "find out the weather of {c}"), c=city)  # fmt: skip
    text = d.asked(asked)
    typed = d.typed(city)
    result = returned(
        d,
        {"weather": sky, "temperature": degrees},
        {"sky": sky, "degrees": degrees},
        {"city": typed, "weather": sky, "temperature": degrees},
        {"temperature": degrees, "condition": sky},
        f"{sky}, {degrees} degrees",
    )
    call = tool.call(result, city=typed)
    return d.turn(text, f"It is {sky} in {typed}, {degrees} degrees.", call=call)


def _calculator(d: Draw, tool: Tool) -> Turn:
    expression, text, value, key = _one_operation(d) if d.chance(0.6) else _two_operations(d)
    result = returned(d, {"result": value}, {"result": value}, {"value": value}, str(value))
    call = tool.call(result, expression=expression)
    return d.turn(text, f"{expression} = {value}.", key=key, call=call)


def _one_operation(d: Draw) -> tuple[str, str, int, str]:
    """The expression, how it is asked, its value, and the key by which it is held out."""
    operator = d.one("++--**/")
    most = d.one((20, 99, 999, 9999)) if operator in "+-" else d.one((12, 99))
    a, b = d.rng.randint(1, most), d.rng.randint(1, most)
    value = _applied(operator, a, b)
    if operator == "/":
        a, value = a * b, a
    text = ask(d, operator, a, b)
    if not (str(a) in text and str(b) in text):
        text = d.question(f"how much is {a} {SPOKEN[operator]} {b}")
    return f"{a}{operator}{b}", text, value, sum_key(a, operator, b)


def _two_operations(d: Draw) -> tuple[str, str, int, str]:
    a, b, c = (d.rng.randint(1, d.one((20, 99, 200))) for _ in range(3))
    first, second = d.one("+-*"), d.one("+-*")
    if d.chance(0.25):
        expression, asked = f"({a}{first}{b}){second}{c}", f"({a} {first} {b}) {second} {c}"
    else:
        one, two = d.one(((first, second), (SPOKEN[first], SPOKEN[second])))
        expression, asked = f"{a}{first}{b}{second}{c}", f"{a} {one} {b} {two} {c}"
    if second == "*" and first != "*" and "(" not in expression:
        value = _applied(first, a, b * c)
    else:
        value = _applied(second, _applied(first, a, b), c)
    wording = d.words(
        ("what is {x}", "calculate {x}", "how much is {x}", "compute {x}", "work out {x}",
         "what's {x}", "solve {x}", "what does {x} make", "what do you get for {x}",
         "what is the result of {x}", "what is the value of {x}", "figure out {x}",
         "give me the result of {x}", "what is the answer to {x}", "evaluate {x}"),
        ("what would {x} be",), x=asked)  # fmt: skip
    return expression, d.asked(wording), value, ""


def _applied(operator: str, a: int, b: int) -> int:
    return a * b if operator == "*" else a - b if operator == "-" else a + b


# unit -> (other unit, factor, kind)
_UNITS = {
    ("km", "m"): 1000, ("m", "cm"): 100, ("kg", "g"): 1000, ("h", "min"): 60, ("min", "s"): 60,
    ("l", "ml"): 1000, ("cm", "mm"): 10, ("miles", "km"): 1.609, ("pounds", "kg"): 0.4536,
    ("inches", "cm"): 2.54, ("feet", "m"): 0.3048, ("gallons", "l"): 3.785, ("ounces", "g"): 28.35,
}  # fmt: skip
_UNIT_NAMES = tuple(dict.fromkeys(name for pair in _UNITS for name in pair))


def _convert(d: Draw, tool: Tool) -> Turn:
    (unit, other), factor = d.one([*_UNITS.items()])
    if d.chance(0.5):
        unit, other, factor = other, unit, 1 / factor
    n = d.rng.randint(1, d.one((10, 100, 1000)))
    value = round(n * factor, 3)
    value = int(value) if value == int(value) else value
    asked = d.words(
        ("convert {n} {u} to {o}", "how many {o} are {n} {u}", "what is {n} {u} in {o}",
         "how much is {n} {u} in {o}", "change {n} {u} into {o}", "turn {n} {u} into {o}",
         "how many {o} make {n} {u}", "how much are {n} {u} in {o}", "give me {n} {u} in {o}",
         "tell me {n} {u} in {o}", "what are {n} {u} in {o}", "convert {n} {u} into {o}",
         "calculate {n} {u} in {o}", "how many {o} do I get for {n} {u}",
         "what do {n} {u} make in {o}", "show {n} {u} as {o}", "write {n} {u} in {o}",
         "do you know how many {o} {n} {u} are", "{n} {u} in {o}", "{n} {u} to {o}",
         "{n} {u} into {o}", "I need {n} {u} in {o}.", "I want {n} {u} in {o}.",
         "I have {n} {u}, how many {o} is that?"),
        ("express {n} {u} in {o}",), n=n, u=unit, o=other)  # fmt: skip
    result = returned(d, {"result": value}, {"value": value}, {"value": value, "unit": other})
    text = d.text(asked + d.one(("", "?"))) if asked[0].isdigit() else d.asked(asked)
    call = tool.call(result, value=n, unit=unit, to=other)
    return d.turn(text, f"{n} {unit} are {value} {other}.", call=call)


# What is looked up, of what, how the value looks.
_LOOKED_UP = {
    "price": "item", "population": "country", "phone_number": "person", "address": "person",
    "email": "person", "size": "item", "weight": "item", "age": "person", "birthday": "person",
    "status": "order", "score": "team", "capital": "country", "owner": "item", "color": "item",
    "area": "country", "currency": "country", "stock": "item", "salary": "person", "job": "person",
    "language": "country", "mayor": "city", "distance": "city", "rating": "item", "author": "item",
}  # fmt: skip


def _value_of(d: Draw, what: str) -> str | int:
    if what in ("owner", "mayor", "author"):
        return d.one(words.NAMES)
    if what == "color":
        return d.one(words.COLOURS)
    if what == "job":
        return d.one(words.CATEGORIES["job"])
    if what in ("capital", "address"):
        return d.one(words.CITIES)
    if what == "language":
        return d.one(words.CATEGORIES["language"])
    if what == "email":
        return f"{words.made_up(d.rng)}@mail.org"
    if what == "birthday":
        return f"{d.one(MONTHS)} {d.rng.randint(1, 28)}"
    if what == "status":
        return d.one(("sent", "lost", "paid", "open", "ready", "late", "delivered"))
    return d.rng.randint(1, 9999)


def _subject(d: Draw, of: str) -> str:
    if of == "person":
        return d.typed(words.name(d.rng))
    if of in ("city", "team"):
        return d.typed(words.city(d.rng))
    if of == "country":
        return d.typed(d.one(words.CATEGORIES["country"]))
    if of == "order":
        return str(d.rng.randint(100, 99999))
    return words.made_up(d.rng) if d.chance(0.3) else words.noun(d.rng)


def lookup_kind(what: str) -> ToolKind:
    """A tool `get_price`, `find_owner` or the like."""
    of = _LOOKED_UP[what]
    shown = what.replace("_", " ")

    def ask_for(d: Draw, tool: Tool) -> Turn:
        subject, value = _subject(d, of), _value_of(d, what)
        named = f"the {subject}" if of == "item" else subject
        named = f"order {subject}" if of == "order" else named
        asked = d.words(
            ("what is the {w} of {x}", "tell me the {w} of {x}", "give me the {w} of {x}",
             "look up the {w} of {x}", "find the {w} of {x}", "do you know the {w} of {x}",
             "what's the {w} of {x}", "say the {w} of {x}", "show me the {w} of {x}",
             "read me the {w} of {x}", "which {w} does {x} have", "what {w} does {x} have",
             "do you have the {w} of {x}", "let me know the {w} of {x}", "read the {w} of {x}",
             "let me see the {w} of {x}", "what would be the {w} of {x}", "I need the {w} of {x}.",
             "the {w} of {x} please.", "the {w} of {x}?", "I want to know the {w} of {x}.",
             "I would like to know the {w} of {x}.", "I forgot the {w} of {x}.",
             "I am looking for the {w} of {x}.", "for {x}: what is the {w}?"),
            ("get me the {w} of {x}", "check the {w} of {x}"), w=shown, x=named)  # fmt: skip
        text = d.asked(asked)
        result = returned(d, {what: value}, {what: value}, {"result": value}, str(value))
        answer = f"the {shown} of {named} is {value}."
        return d.turn(text, capital(answer), call=tool.call(result, of=subject))

    verbs = ("get", "find", "look_up", "read")
    return ToolKind(
        "tool-lookup", f"the {shown}", (*(f"{v}_{what}" for v in verbs), what),
        (f"fetch_{what}", f"{what}_of"),
        (f"The {shown} of a {of}", f"Looks up the {shown}", f"Find the {shown} of a {of}"),
        {"of": Argument((of, of, "name" if of != "order" else "number", "query"))}, ask_for,
        (f"unknown {of}", "not found", "no access"), frozenset({"knowledge"}),
        again=("and of {x}?", "what about {x}?", "and {x}?", "now {x}"),
    )  # fmt: skip


LOOKUPS = tuple(lookup_kind(what) for what in _LOOKED_UP)

VALUES = (
    ToolKind(
        "tool-weather", "the weather",
        ("get_weather", "weather", "get_current_weather", "check_weather", "weather_in"),
        ("fetch_weather", "weather_report"),
        ("The weather in a city", "Get the weather", "Weather now", "Current weather of a place"),
        {"city": Argument(("city", "city", "location", "place"))}, _weather,
        ("unknown city", "no connection", "not available"),
        vague=("how is the weather", "what is the weather", "what is the weather like",
               "is it cold", "what is the weather today", "tell me the weather",
               "do I need an umbrella", "will it rain", "is it raining",
               "how is the weather today"),
        missing="In which city?", given=("{x}", "in {x}", "{x} please", "I am in {x}"),
        again=("and in {x}?", "and {x}?", "what about {x}?", "how about {x}?", "in {x}?"),
    ),
    ToolKind(
        "tool-calculator", "calculations",
        ("calculator", "calculate", "calc", "compute"), ("evaluate", "math"),
        ("Calculates", "Evaluates an expression", "A calculator", "Does arithmetic"),
        {"expression": Argument(("expression", "expression", "formula", "input"))}, _calculator,
        ("not a number", "not available"), frozenset({"arithmetic", "numbers"}),
    ),
    ToolKind(
        "tool-units", "units", ("convert", "convert_units", "unit_converter"), ("change_units",),
        ("Converts units", "Convert between units", "Unit converter"),
        {"value": Argument(("value", "amount", "number"), "number"),
         "unit": Argument(("unit", "from", "from_unit")), "to": Argument(("to", "to_unit",
         "target"))},
        _convert, ("unknown unit", "not available"), frozenset({"units"}),
    ),
)  # fmt: skip
