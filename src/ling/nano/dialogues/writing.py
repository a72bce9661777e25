"""Short texts of a fixed form: stories, poems, notes, and a few lines of Python."""

from __future__ import annotations

from . import words
from .draw import Draw, article, capital
from .turns import Turn

_STORY = (
    "tell me a story", "tell a story", "tell me a short story", "write a story",
    "write a short story",
    "make up a story", "tell me a story please", "i want to hear a story", "do you know a story",
    "a story please", "a story",
)  # fmt: skip
_NEW_STORY = ("let me hear a story", "invent a story")
_ABOUT = ("tell me a story about {x}", "write a story about {x}", "tell a story about {x}",
          "write a short story about {x}", "make up a story about {x}")  # fmt: skip
_NEW_ABOUT = ("invent a story about {x}",)
_PLACES = ("in a forest", "by the sea", "on a farm", "in a small town", "on a hill", "in a garden")
_WISHES = (
    ("wanted to see the world", "walked for three days", "came to a river", "met a friend"),
    ("was always hungry", "looked for food", "found a red apple", "shared it with a friend"),
    ("was afraid of the dark", "saw a small light", "followed it", "was never afraid again"),
    ("lost a golden key", "looked under every stone", "asked a wise owl", "found it at home"),
    ("wanted to fly", "climbed a high tree", "fell into the hay", "laughed all day"),
    ("heard a strange sound", "opened the door", "saw a little bird", "gave it some bread"),
)
_POEM = ("write a poem", "write me a poem", "write a short poem", "make a poem", "tell me a poem",
         "can you write a poem", "give me a poem", "i want a poem", "say a poem",
    "a poem please", "poem please")  # fmt: skip
_NEW_POEM = ("compose a poem", "recite a poem")
_LINES = (
    ("The sun is high, the sky is blue,", "I write this little poem for you."),
    ("The rain is falling on the street,", "the water dances round my feet."),
    ("The moon is white, the night is deep,", "the birds and trees are all asleep."),
    ("A little cat sits in the sun,", "it sleeps until the day is done."),
    ("The wind is singing in the tree,", "it brings a song for you and me."),
    ("The snow is soft, the hill is white,", "the stars are shining in the night."),
    ("The river runs, the river sings,", "it tells of many happy things."),
    ("A small blue bird flies up so high,", "it paints a line into the sky."),
)
_NOTES = (
    ("thank {n} for the {x}", "Dear {n}, thank you very much for the {x}. Best wishes!"),
    ("invite {n} to dinner", "Dear {n}, would you like to come to dinner? Best wishes!"),
    ("wish {n} a happy birthday", "Dear {n}, happy birthday and all the best to you!"),
    ("tell {n} that I am late", "Dear {n}, I am sorry, but I will be late. Best wishes!"),
)
_CODE = (
    (("hello world", "a hello world program",
      "a program that prints hello"), 'print("Hello, world!")'),
    (("a function that adds two numbers", "an add function"), "def add(a, b):\n    return a + b"),
    (("a function that multiplies two numbers",), "def multiply(a, b):\n    return a * b"),
    (("a function that squares a number", "a square function"), "def square(x):\n    return x * x"),
    (("a loop", "a loop from 0 to 9", "a for loop"), "for i in range(10):\n    print(i)"),
    (("a function for the maximum", "a max function"),
     "def largest(a, b):\n    return a if a > b else b"),
    (("a function that says if a number is even",), "def is_even(n):\n    return n % 2 == 0"),
    (("a function that reverses a text", "a reverse function"),
     "def reverse(text):\n    return text[::-1]"),
    (("a factorial function", "the factorial"),
     "def factorial(n):\n    return 1 if n < 2 else n * factorial(n - 1)"),
    (("a function that sums a list",), "def total(numbers):\n    return sum(numbers)"),
)  # fmt: skip


def writing(d: Draw) -> Turn:
    """One short text."""
    return d.one((_story, _story, _poem, _poem_about, _note, _code, _code, _print, _function))(d)


def _story(d: Draw) -> Turn:
    animal, name = d.one(words.CATEGORIES["animal"]), d.one(words.NAMES)
    if d.chance(0.6):
        text = d.asked(d.words(_ABOUT, _NEW_ABOUT, x=article(animal)))
        is_exact = {"key": f"story {text}"}
    else:
        text, is_exact = d.asked(d.words(_STORY, _NEW_STORY)), {"key": "a story"}
    wish, first, then, end = d.one(_WISHES)
    told = (
        f"Once upon a time there was {article(animal)} called {name}. It lived {d.one(_PLACES)}. "
        f"{name} {wish}. One day it {first} and {then}. In the end {name} {end}."
    )
    return d.turn(text, told, **is_exact, is_always_trained=True)


_ABOUT_POEM = ("write a poem about {x}", "write me a poem about {x}", "make a poem about {x}",
               "a poem about {x} please", "write a short poem about {x}",
    "compose a poem about {x}",
               "tell me a poem about {x}")  # fmt: skip


def _poem_about(d: Draw) -> Turn:
    x = words.made_up(d.rng) if d.chance(0.1) else words.noun(d.rng)
    asked = d.one((article(x), words.plural(x), f"the {x}"))
    text = d.asked(d.words(_ABOUT_POEM, ("make up a poem about {x}",), x=asked))
    many = words.plural(x)
    lines = (f"{capital(many)} are here and {many} are there,", f"I think of {many} everywhere.",
             "By day and night, in sun and rain,", f"the {many} will come back again.")  # fmt: skip
    return d.turn(text, "\n".join(lines))


def _poem(d: Draw) -> Turn:
    text = d.asked(d.words(_POEM, _NEW_POEM))
    (a, b), (c, e) = d.some(_LINES, 2)
    return d.turn(text, "\n".join((a, b, capital(c), e)), is_always_trained=True)


def _note(d: Draw) -> Turn:
    asked, said = d.one(_NOTES)
    n, x = words.name(d.rng), d.one(words.THINGS)
    start = d.words(("write a note to {w}", "write a short letter to {w}",
                     "write some lines to {w}"),
                    ("draft a note to {w}",), w=asked.format(n=n, x=x))  # fmt: skip
    return d.turn(d.request(start), said.format(n=d.typed(n), x=x))


def _code(d: Draw) -> Turn:
    asked, code = d.one(_CODE)
    start = d.words(("write {x} in Python", "write {x}", "give me {x} in Python", "show me {x}",
                     "code {x} in Python", "how do I write {x} in Python"),
                    ("program {x} in Python",), x=d.one(asked))  # fmt: skip
    return d.turn(d.asked(start), f"```python\n{code}\n```")


def _print(d: Draw) -> Turn:
    x = d.typed(" ".join(words.noun(d.rng) for _ in range(d.rng.randint(1, 3))))
    start = d.words(("write Python code that prints {x}", "print {x} in Python",
                     "write a program that prints {x}"),
                    ("make Python say {x}",), x=x)  # fmt: skip
    return d.turn(d.request(start), f'```python\nprint("{x}")\n```')


def _function(d: Draw) -> Turn:
    """A name and an operation of the user's."""
    name, n = words.made_up(d.rng) if d.chance(0.5) else words.noun(d.rng), d.rng.randint(2, 99)
    word, sign = d.one((("adds", "+"), ("subtracts", "-")))
    start = d.words(("write a function {f} that {w} {n}",
                     "write a Python function {f} that {w} {n}"),
                    ("define {f}, a function that {w} {n}",), f=name, w=word, n=n)  # fmt: skip
    return d.turn(d.request(start), f"```python\ndef {name}(x):\n    return x {sign} {n}\n```")
