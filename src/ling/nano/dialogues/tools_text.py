"""Tools whose arguments are texts of the user's: reminders, messages, lists, notes, searches."""

from __future__ import annotations

from collections.abc import Sequence

from . import words
from .draw import OPEN_END, Draw
from .tools import Argument, Tool, ToolKind, done, returned
from .turns import Turn


def _reminder(d: Draw, tool: Tool) -> Turn:
    x = d.typed(words.task(d.rng))
    asked = d.words(
        ("remind me to {x}", "set a reminder to {x}", "add a reminder to {x}", "remind me: {x}",
         "make a reminder: {x}", "create a reminder to {x}", 'add the reminder "{x}"',
         "tell me later to {x}", "remember that I must {x}", "remind me that I have to {x}",
         "remind me later to {x}", "set up a reminder: {x}", "put a reminder to {x}",
         "ping me to {x}", "keep in mind that I must {x}", "give me a reminder to {x}",
         'set the reminder "{x}"', "be sure to remind me to {x}", "save a reminder to {x}",
         "reminder: {x}.", "do not let me forget to {x}.", "I must not forget to {x}.",
         "please remind me to {x}.", "I have to {x}, remind me.", "I want a reminder to {x}.",
         "I need a reminder to {x}.", "I should {x}, please remind me.", "a reminder to {x}.",
         "I need to {x} later, remind me of it.", "later I have to {x}, remind me.",
         "I would forget to {x}, so remind me.", "will you remind me to {x}?"),
        ("make sure that I {x}", "help me remember to {x}"), x=x)  # fmt: skip
    text = d.request(asked, OPEN_END)
    return d.turn(text, f"I will remind you to {x}.", call=tool.call(done(d, text=x), text=x))


def _message(d: Draw, tool: Tool) -> Turn:
    who = d.typed(words.name(d.rng))
    x = d.one(words.MESSAGES) if d.chance(0.5) else f"do not forget to {words.task(d.rng)}"
    x = d.typed(x)
    asked = d.words(
        ("send {n} the message: {x}", "tell {n}: {x}", 'send "{x}" to {n}', "write to {n}: {x}",
         "text {n}: {x}", "send a message to {n}: {x}", 'text {n} "{x}"', "message {n}: {x}",
         "let {n} know: {x}", "write {n} a message: {x}", 'message {n} that "{x}"',
         "send {n} this: {x}", "send this to {n}: {x}", "say to {n}: {x}", 'send {n} "{x}"',
         "a message for {n}: {x}", "message to {n}: {x}", 'tell {n} that "{x}"',
         "text this to {n}: {x}", 'write "{x}" to {n}', "give {n} the message: {x}",
         "pass this on to {n}: {x}", "new message to {n}: {x}", "send {n} a text: {x}",
         "type a message to {n}: {x}", "tell my friend {n}: {x}", "say this to {n}: {x}",
         "forward to {n}: {x}", "let {n} have this message: {x}"),
        ('drop {n} a line: "{x}"', "inform {n}: {x}"), n=who, x=x)  # fmt: skip
    openings = ("", "", "", "Please ", "Can you ", "Now ", "Hey, ", "I want you to ")
    text = d.text(_opened(d, openings, asked))
    call = tool.call(done(d, sent=True), to=who, text=x)
    return d.turn(text, f"I sent the message to {who}.", call=call)


def _shopping(d: Draw, tool: Tool) -> Turn:
    thing = words.made_up(d.rng) if d.chance(0.2) else d.one(words.GOODS)
    x = words.plural(thing) if d.chance(0.5) else thing
    if d.chance(0.25):
        x = f"{d.rng.randint(2, 20)} {words.plural(thing)}"
    asked = d.words(
        ("add {x} to the list", "put {x} on the list", "add {x} to my shopping list",
         "put {x} on the shopping list", "write {x} on the list", "add {x}", "put {x} on my list",
         "put {x} down on the list", "include {x} in the list", "have {x} on the list",
         "get {x} on the list", "add {x} to what I have to buy", "add {x} to our shopping list",
         "put {x} onto the shopping list", "remember {x} for the shopping list",
         "list {x} for the store", "add {x} to what we buy", "I need {x} on the list.",
         "we need {x}, add it to the list.", "list: {x}.", "shopping list: {x}.",
         "we have no {x} any more, add it to the list.", "{x} should be on the list.",
         "I have to buy {x}, add it to the list.", "on the list: {x}.",
         "we also need {x} on the list.", "new item on the list: {x}.",
         "I want {x} on the shopping list.", "another thing for the list: {x}."),
        ("note {x} for shopping", "the list needs {x}."), x=x)  # fmt: skip
    return d.turn(
        d.request(asked), f"I added {x} to the list.", call=tool.call(done(d, added=x), item=x)
    )


def _note(d: Draw, tool: Tool) -> Turn:
    x = d.typed(d.one((words.task, _code_word))(d.rng))
    asked = d.words(
        ("take a note: {x}", "note: {x}", "write down: {x}", "make a note: {x}",
         "save this note: {x}",
         'note down "{x}"', 'save the note "{x}"', "write this down: {x}", "remember this: {x}",
         "keep this note: {x}", "new note: {x}", "add a note: {x}", 'add the note "{x}"',
         "write a note: {x}", "note this: {x}", "put this in my notes: {x}",
         "save this: {x}", "store this: {x}", "keep this in mind: {x}", "for my notes: {x}",
         "write that down: {x}", "take this down: {x}",
         'take the note "{x}"', "put down: {x}", "add to my notes: {x}"),
        ("jot down: {x}",), x=x)  # fmt: skip
    text = d.text(_opened(d, ("", "", "Please ", "Can you ", "Ling, "), asked))
    return d.turn(text, f"I noted: {x}.", call=tool.call(done(d, note=x), text=x))


def _opened(d: Draw, openings: Sequence[str], asked: str) -> str:
    """Behind an opening, except what names the thing and asks for nothing."""
    is_named = asked.startswith(("a message", "message to", "new ", "for my "))
    return asked if is_named else d.one(openings) + asked


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
         'what is "{x}" in {l}', 'how do you say "{x}" in {l}', 'put "{x}" into {l}',
         'what does "{x}" mean in {l}', 'how would you say "{x}" in {l}', "turn {x} into {l}",
         'how do people say "{x}" in {l}', 'what is the {l} for "{x}"', "write {x} in {l}",
         'what is the translation of "{x}" to {l}', "tell me how to say {x} in {l}",
         "make a translation of {x} to {l}", 'translate this to {l}: "{x}"', "change {x} to {l}",
         'translate into {l}: "{x}"', "let me know what {x} is in {l}", "speak {x} in {l}",
         '"{x}" in {l}.', 'I want "{x}" in {l}.', 'I need "{x}" in {l}.', 'to {l}: "{x}".',
         'how is "{x}" said in {l}'),
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
         "find pages about {x}", "find {x} on the internet", "find something about {x}",
         "search {x}", "search the internet for {x}", "look on the web for {x}",
         "look up {x} on the web", "look {x} up online", "google for {x}", "search online for {x}",
         "see what the web says about {x}", "do a web search for {x}", "make a search for {x}",
         "start a search for {x}", "run a search for {x}", "get me pages about {x}",
         "find websites about {x}", "show me pages on {x}", "check the web for {x}",
         "what does the web say about {x}?", "I want to search for {x}.", "web search: {x}.",
         "I am looking for {x} on the web.", "search: {x}.", "is there something on {x} online?"),
        ("hunt the web for {x}",), x=x)  # fmt: skip
    n = d.rng.randint(2, 99)
    result = returned(d, {"results": n}, {"found": n}, {"pages": n})
    call = tool.call(result, query=x)
    return d.turn(d.request(asked, OPEN_END), f"I found {n} pages about {x}.", call=call)


def _phone(d: Draw, tool: Tool) -> Turn:
    who = d.typed(words.name(d.rng))
    asked = d.words(("call {n}", "phone {n}", "ring {n}", "make a call to {n}", "give {n} a call",
                     "dial {n}", "start a call with {n}", "call {n} up", "ring up {n}",
                     "call my friend {n}", "put me through to {n}", "connect me with {n}",
                     "connect me to {n}", "start a phone call with {n}", "telephone {n}",
                     "make a phone call to {n}", "place a call to {n}", "phone up {n}",
                     "dial the number of {n}", "give {n} a ring", "let me talk to {n}",
                     "let me speak with {n}", "try to reach {n}", "I want to talk to {n}.",
                     "I have to call {n}.", "I need to speak to {n}.", "I want to call {n}.",
                     "I would like to talk to {n}.", "a call to {n} please.", "call: {n}."),
                    ("get {n} on the phone",), n=who)  # fmt: skip
    return d.turn(
        d.request(asked), f"I am calling {who}.", call=tool.call(done(d, calling=who), name=who)
    )


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
