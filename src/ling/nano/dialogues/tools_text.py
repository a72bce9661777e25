"""Tools whose arguments are texts of the user's: reminders, messages, lists, notes, searches."""

from __future__ import annotations

from . import words
from .draw import OPEN_END, Draw
from .tools import Argument, Tool, ToolKind, done, returned
from .turns import Turn


def _reminder(d: Draw, tool: Tool) -> Turn:
    x = d.typed(words.task(d.rng))
    asked = d.words(
        ("remind me to {x}", "set a reminder to {x}", "reminder: {x}", "add a reminder to {x}",
         "do not let me forget to {x}", "make a reminder: {x}", "I must not forget to {x}",
         "create a reminder to {x}", "please remind me to {x}", 'add the reminder "{x}"',
         "tell me later to {x}", "I have to {x}, remind me", "remember that I must {x}"),
        ("make sure that I {x}", "help me remember to {x}"), x=x)  # fmt: skip
    is_whole = asked.startswith(("I ", "reminder", "please", "do not"))
    text = d.text(asked + ".") if is_whole else d.request(asked, OPEN_END)
    return d.turn(text, f"I will remind you to {x}.", call=tool.call(done(d, text=x), text=x))


def _message(d: Draw, tool: Tool) -> Turn:
    who = d.typed(words.name(d.rng))
    x = d.one(words.MESSAGES) if d.chance(0.5) else f"do not forget to {words.task(d.rng)}"
    x = d.typed(x)
    asked = d.words(
        ("send {n} the message: {x}", "tell {n}: {x}", 'send "{x}" to {n}', "write to {n}: {x}",
         "text {n}: {x}", "send a message to {n}: {x}", 'text {n} "{x}"', "message {n}: {x}",
         "let {n} know: {x}", "write {n} a message: {x}", 'message {n} that "{x}"'),
        ('drop {n} a line: "{x}"', "inform {n}: {x}"), n=who, x=x)  # fmt: skip
    opening = d.one(("", "", "", "Please ", "Can you ", "Now ", "Hey, ", "I want you to "))
    text = d.text(opening + asked)
    call = tool.call(done(d, sent=True), to=who, text=x)
    return d.turn(text, f"I sent the message to {who}.", call=call)


def _shopping(d: Draw, tool: Tool) -> Turn:
    thing = words.made_up(d.rng) if d.chance(0.2) else d.one(words.GOODS)
    x = words.plural(thing) if d.chance(0.5) else thing
    if d.chance(0.25):
        x = f"{d.rng.randint(2, 20)} {words.plural(thing)}"
    asked = d.words(
        ("add {x} to the list", "put {x} on the list", "add {x} to my shopping list",
         "put {x} on the shopping list", "I need {x} on the list", "write {x} on the list",
         "we need {x}, add it to the list", "add {x}", "list: {x}", "shopping list: {x}"),
        ("note {x} for shopping", "the list needs {x}"), x=x)  # fmt: skip
    is_whole = asked.startswith(("I ", "we ", "list", "shopping", "the "))
    text = d.text(asked + ".") if is_whole else d.request(asked)
    return d.turn(text, f"I added {x} to the list.", call=tool.call(done(d, added=x), item=x))


def _note(d: Draw, tool: Tool) -> Turn:
    x = d.typed(d.one((words.task, _code_word))(d.rng))
    asked = d.words(
        ("take a note: {x}", "note: {x}", "write down: {x}", "make a note: {x}",
         "save this note: {x}",
         'note down "{x}"', 'save the note "{x}"', "write this down: {x}", "remember this: {x}"),
        ("jot down: {x}",), x=x)  # fmt: skip
    text = d.text(d.one(("", "", "Please ", "Can you ", "Ling, ")) + asked)
    return d.turn(text, f"I noted: {x}.", call=tool.call(done(d, note=x), text=x))


def _code_word(rng: object) -> str:
    import random

    assert isinstance(rng, random.Random)
    what = rng.choice(("code", "password", "room", "locker", "train", "number", "seat", "bus"))
    return f"the {what} is {rng.choice((str(rng.randint(10, 99999)), words.made_up(rng)))}"


_LANGUAGES = ("French", "German", "Spanish", "Italian", "Chinese", "Japanese", "Russian", "Arabic")


def _translate(d: Draw, tool: Tool) -> Turn:
    x, to = (
        d.typed(d.one((words.noun(d.rng), d.one(words.MESSAGES)))),
        d.one(tool.values["language"]),
    )
    asked = d.words(
        ("translate {x} to {l}", "translate {x} into {l}", 'translate "{x}" to {l}',
         "say {x} in {l}",
         'what is "{x}" in {l}', 'how do you say "{x}" in {l}', 'put "{x}" into {l}'),
        ('give me "{x}" in {l}',), x=x, l=to)  # fmt: skip
    foreign = words.made_up(d.rng, 3)
    result = returned(d, {"translation": foreign}, {"text": foreign}, foreign)
    text = d.asked(asked)
    return d.turn(text, f"In {to}: {foreign}.", call=tool.call(result, text=x, language=to))


def _search(d: Draw, tool: Tool) -> Turn:
    kind = d.rng.randrange(3)
    x = (f"{words.noun(d.rng)} {words.noun(d.rng)}", d.typed(words.city(d.rng)),
         f"{d.one(words.COLOURS)} {words.plural(words.noun(d.rng))}")[kind]  # fmt: skip
    asked = d.words(
        ("search for {x}", "find {x} on the web", "look for {x}", "search the web for {x}",
         "google {x}",
         'search "{x}"', "look up {x} on the internet", "do a search for {x}",
         "find pages about {x}"),
        ("hunt the web for {x}",), x=x)  # fmt: skip
    n = d.rng.randint(2, 99)
    result = returned(d, {"results": n}, {"found": n}, {"pages": n})
    call = tool.call(result, query=x)
    return d.turn(d.request(asked, OPEN_END), f"I found {n} pages about {x}.", call=call)


def _phone(d: Draw, tool: Tool) -> Turn:
    who = d.typed(words.name(d.rng))
    asked = d.words(("call {n}", "phone {n}", "ring {n}", "make a call to {n}", "give {n} a call",
                     "dial {n}", "I want to talk to {n}", "start a call with {n}"),
                    ("get {n} on the phone",), n=who)  # fmt: skip
    text = d.text(asked + ".") if asked.startswith("I ") else d.request(asked)
    return d.turn(text, f"I am calling {who}.", call=tool.call(done(d, calling=who), name=who))


TEXTS = (
    ToolKind(
        "tool-reminder", "reminders", ("add_reminder", "remind", "set_reminder", "create_reminder"),
        ("new_reminder",), ("Adds a reminder", "Reminds of something", "Create a reminder"),
        {"text": Argument(("text", "text", "task", "what"))}, _reminder,
        vague=("set a reminder", "remind me", "add a reminder", "i need a reminder"),
        missing="What shall I remind you of?", given=("{x}", "to {x}", "{x}"),
        again=("and to {x}", "and {x}", "also {x}"),
    ),
    ToolKind(
        "tool-message", "messages", ("send_message", "message", "send_text", "text_person"),
        ("write_message",), ("Sends a message", "Send a text to a person", "Messages somebody"),
        {"to": Argument(("to", "to", "person", "name")),
         "text": Argument(("text", "text", "message", "body"))},
        _message, ("unknown person", "no network", "not available"),
    ),
    ToolKind(
        "tool-list", "lists", ("add_to_list", "add_item", "shopping_list",
        "list_add"), ("put_on_list",),
        ("Adds to the shopping list", "Puts an item on the list", "Shopping list"),
        {"item": Argument(("item", "item", "what", "name"))}, _shopping,
        vague=("add something to the list", "put something on the list", "i need to add something"),
        missing="What shall I add?", given=("{x}", "{x}", "{x} please"),
        again=("and {x}", "also {x}", "{x}, too", "now {x}"),
    ),
    ToolKind(
        "tool-note", "notes", ("take_note", "save_note", "add_note", "note"), ("write_note",),
        ("Saves a note", "Writes a note down", "Notes"),
        {"text": Argument(("text", "note", "content"))}, _note,
        vague=("take a note", "make a note", "write something down", "i have a note for you"),
        missing="What shall I note?", given=("{x}",),
    ),
    ToolKind(
        "tool-translate", "translations", ("translate", "translate_text", "translator"),
        ("translation",), ("Translates a text", "Translate into a language"),
        {"text": Argument(("text", "text", "words")),
         "language": Argument(("language", "to", "target"), values=_LANGUAGES)},
        _translate,
    ),
    ToolKind(
        "tool-search", "web searches", ("search", "web_search", "search_web", "google"),
        ("find_pages",), ("Searches the web", "Web search", "Finds pages"),
        {"query": Argument(("query", "query", "q", "text"))}, _search,
        vague=("search the web", "do a search", "look something up", "find something on the web"),
        missing="What shall I search for?", given=("{x}", "for {x}", "{x} please"),
        again=("and for {x}", "now {x}", "and {x}"),
    ),
    ToolKind(
        "tool-call", "phone calls", ("call", "phone", "make_call", "call_person"), ("dial",),
        ("Calls a person", "Makes a phone call", "Phone somebody"),
        {"name": Argument(("name", "person", "who", "contact"))}, _phone,
        ("no answer", "line is busy", "unknown person"),
        vague=("make a call", "call somebody", "i want to make a call", "start a call"),
        missing="Whom shall I call?", given=("{x}", "{x} please", "call {x}"),
        again=("and now {x}", "now {x}", "and {x}"),
    ),
)  # fmt: skip
