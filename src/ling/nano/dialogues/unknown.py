"""What it does not know, and what is no question: it says so."""

from __future__ import annotations

from . import words
from .draw import Draw
from .turns import Turn

_ASKED = (
    "who won {e} in {y}", "who invented {t}", "who discovered {t}", "who wrote {b}", "who is {p}",
    "when was {p} born", "when was {t} invented", "why is {t} so important", "how does {t} work",
    "what happened in {y}", "who was president in {y}", "how far is {c} from {c2}",
    "how many people live in {c}", "what is the history of {c}", "when did {e} begin",
    "who is the king of {k}", "how tall is {p}",
    "what do you think about {t}", "what is the best {n} in {c}", "why did {e} start",
    "tell me about {p}", "tell me about {c}", "explain {t} to me",
    "who is the best player of {e}", "what will happen in {y}", "how do I repair {t}",
    "what is the plot of {b}", "how old is {p}", "where is {p} now", "who founded {c}",
)  # fmt: skip
_NEW = ("can anybody tell who invented {t}", "what year was {t} made", "who lost {e} in {y}")
_EVENTS = (
    "the World Cup", "the Olympics", "the election", "the war", "the Nobel Prize", "the Super Bowl",
    "the Tour de France", "Wimbledon", "the chess championship", "the revolution", "the Oscars",
)  # fmt: skip
_TOPICS = (
    "electricity", "quantum physics", "the steam engine",
    "a jet engine",
    "the stock market", "bitcoin", "photosynthesis", "a black hole",
    "a vaccine", "the brain", "democracy", "inflation", "a laser", "a nuclear reactor", "evolution",
    "machine learning", "a transformer", "the radio", "dynamite", "penicillin", "philosophy",
    "a battery", "a fridge", "a car engine", "a satellite", "politics",
    "blockchain",
)  # fmt: skip
_BOOKS = (
    "Faust", "War and Peace", "Moby Dick", "the Odyssey", "Don Quixote", "Dracula",
    "the Bible", "Harry Potter", "the Hobbit", "Les Miserables", "Emma", "Ulysses",
)  # fmt: skip
_PEOPLE = (
    "Napoleon", "Caesar", "Picasso", "Newton", "Obama",
    "Elon Musk", "Taylor Swift", "Gandhi", "Darwin", "Beethoven", "Cleopatra", "Messi", "Ronaldo",
    "Marie Curie", "Leonardo", "Aristotle", "Confucius", "Bach", "Tesla", "Galileo", "Plato",
)  # fmt: skip
_DO_NOT_KNOW = (
    "I do not know that. I am a very small model.",
    "That is more than I know. I am a very small model.",
)
_TASKS = (
    "write an essay about {t}", "write a long text about {t}", "summarize {b}", "write a book",
    "translate {x} to French", "translate {x} into German", "say {x} in Spanish",
    "write a letter to the bank", "make a website", "write a game in C++", "draw {n}",
    "show me a picture of {n}", "solve this equation: {q}", "prove that {q}", "plan a trip to {c}",
    "write a business plan", "do my homework", "write my cv", "give me legal advice about {t}",
)  # fmt: skip
_NEW_TASKS = ("compose a speech about {t}", "paint {n} for me")
_NONSENSE = "I did not understand that. Can you say it in another way?"


def unknown(d: Draw) -> Turn:
    """A question about the world, a task that is too hard, or letters without a meaning."""
    kind = d.rng.random()
    if kind < 0.1:
        return _nonsense(d)
    if kind < 0.35:
        text = d.request(d.words(_TASKS, _NEW_TASKS, **_values(d)))
        return d.turn(text, "That is too hard for me. I am a very small model.")
    text = d.asked(d.words(_ASKED, _NEW, **_values(d)))
    answers = [*_DO_NOT_KNOW]
    d.rng.shuffle(answers)
    return d.turn(text, *answers)


def _values(d: Draw) -> dict[str, str]:
    a, b = d.rng.sample(range(2, 20), 2)
    city, other = words.city(d.rng), words.city(d.rng)
    person = d.one(_PEOPLE) if d.chance(0.6) else f"{words.name(d.rng)} {words.name(d.rng)}"
    return {
        "e": d.one(_EVENTS), "y": str(d.rng.randint(1500, 2040)), "t": d.one(_TOPICS),
        "b": d.one(_BOOKS), "p": person, "c": city, "c2": other, "n": words.noun(d.rng),
        "k": d.one(words.CATEGORIES["country"]), "x": words.noun(d.rng), "q": f"{a}x = {a * b}",
    }  # fmt: skip


def _nonsense(d: Draw) -> Turn:
    letters = "asdfjklqwertyuiopzxcvbnm"
    many = (
        "".join(d.rng.choices(letters, k=d.rng.randint(3, 9))) for _ in range(d.rng.randint(1, 2))
    )
    text = (
        " ".join(many) if d.chance(0.7) else d.one(("...", "???", "!!", ":)", "?", ".", "-", "#"))
    )
    return d.turn(text, _NONSENSE)
