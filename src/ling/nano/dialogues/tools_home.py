"""Tools of a home, whose arguments are from lists: lights, heating, music, doors."""

from __future__ import annotations

from . import words
from .draw import Draw
from .tools import Argument, Tool, ToolKind, done
from .turns import Turn

_ROOM = Argument(("room", "room", "place", "where"), values=words.ROOMS)
_STATE = Argument(("state", "state", "value", "power"), values=("on", "off"), most=2)


def _light(d: Draw, tool: Tool) -> Turn:
    room, state = d.one(tool.values["room"]), d.one(("on", "off"))
    asked = d.words(
        ("turn {s} the light in the {r}", "turn the {r} light {s}", "switch {s} the {r} light",
         "switch the light in the {r} {s}", "put the {r} light {s}",
         "turn {s} the lights in the {r}",
         "set the light in the {r} to {s}", "turn the light in the {r} {s}",
         "turn the {r} lights {s}", "make the light in the {r} go {s}",
         "switch {s} the lamp in the {r}", "have the light in the {r} {s}",
         "turn {s} the {r} lamp", "set the {r} lights to {s}", "switch the lamp in the {r} {s}",
         "turn {s} all lights in the {r}", "make it so that the {r} light is {s}",
         "leave the {r} light {s}", "keep the light in the {r} {s}", "power {s} the {r} light",
         "see that the {r} light is {s}", "change the {r} light to {s}", "turn the {r} lamp {s}",
         "{r} light {s}.", "lights {s} in the {r}.", "light {s} in the {r}.",
         "lamp in the {r}: {s}.", "I want the light in the {r} {s}.",
         "I need the light in the {r} {s}.", "I would like the {r} light {s}.",
         "the {r} light should be {s}.", "the light in the {r} should go {s}."),
        ("get the {r} light {s}", "flip {s} the light in the {r}"), r=room, s=state)  # fmt: skip
    call = tool.call(done(d, room=room, light=state), room=room, state=state)
    return d.turn(d.request(asked), f"The light in the {room} is {state} now.", call=call)


def _heating(d: Draw, tool: Tool) -> Turn:
    room, degrees = d.one(tool.values["room"]), d.rng.randint(5, 30)
    asked = d.words(
        ("set the {r} to {n} degrees", "heat the {r} to {n} degrees",
         "set the heating in the {r} to {n}",
         "make the {r} {n} degrees warm", "set the temperature in the {r} to {n} degrees",
         "change the {r} temperature to {n}", "put the {r} at {n} degrees",
         "warm the {r} to {n} degrees", "turn the heating in the {r} to {n}",
         "adjust the {r} to {n} degrees", "keep the {r} at {n} degrees",
         "hold the {r} at {n} degrees", "set {n} degrees in the {r}", "cool the {r} to {n} degrees",
         "make it {n} degrees in the {r}", "set the thermostat in the {r} to {n}",
         "let the {r} have {n} degrees", "turn the {r} to {n} degrees", "{r} {n} degrees.",
         "I want {n} degrees in the {r}.", "{n} degrees in the {r}.", "heating in the {r}: {n}.",
         "the {r} should have {n} degrees.", "I would like {n} degrees in the {r}."),
        ("bring the {r} to {n} degrees",), r=room, n=degrees)  # fmt: skip
    call = tool.call(done(d, room=room, degrees=degrees), room=room, degrees=degrees)
    return d.turn(d.request(asked), f"The {room} is set to {degrees} degrees.", call=call)


_GENRES = ("jazz", "rock", "pop", "classical", "folk", "blues", "soul", "techno", "reggae", "opera")


def _music(d: Draw, tool: Tool) -> Turn:
    genre = d.one(tool.values["genre"])
    asked = d.words(
        ("play {g} music", "play some {g}", "put on some {g}",
         "start {g} music", "put {g} on", "play me some {g}", "play a bit of {g}", "play us {g}",
         "let us listen to {g}", "turn the music to {g}", "switch the music to {g}",
         "change the music to {g}", "start some {g}", "begin with {g} music", "stream some {g}",
         "let the speakers play {g}", "play {g} songs", "play a {g} song", "let {g} music play",
         "let me hear some {g}", "play {g}", "turn on {g} music", "give me some {g} music",
         "I want to hear {g}.", "I want to listen to {g}.", "I would like some {g}.",
         "some {g} please.", "{g} music please.", "we want {g} music.", "time for some {g}.",
         "I feel like hearing {g}.", "music: {g}.", "I need some {g} now."),
        ("I am in the mood for {g}.", "how about some {g}."), g=genre)  # fmt: skip
    call = tool.call(done(d, playing=genre), genre=genre)
    return d.turn(d.request(asked), f"Now playing {genre}.", call=call)


_DOORS = ("front door", "back door", "garage door", "cellar door", "garden gate", "gate", "window")


def _door(d: Draw, tool: Tool) -> Turn:
    door, act = d.one(tool.values["door"]), d.one(tool.values["action"])
    said = {"lock": "locked", "unlock": "unlocked", "open": "open", "close": "closed"}[act]
    asked = d.words(
        ("{a} the {x}", "{a} the {x}", "{a} the {x}", "go and {a} the {x}", "{a} my {x}",
         "{a} our {x}", "{a} that {x}", "make sure to {a} the {x}", "let us {a} the {x}",
         "be so kind and {a} the {x}", "go to the {x} and {a} it", "please, {a} the {x}.",
         "I want you to {a} the {x}.", "I need you to {a} the {x}.", "the {x}: {a} it.",
         "I would like to {a} the {x}.", "I have to {a} the {x}.", "time to {a} the {x}.",
         "can we {a} the {x}?", "we should {a} the {x}.", "I want to {a} the {x}.",
         "{x}: {a}."),
        ("see to it: {a} the {x}.",), a=act, x=door)  # fmt: skip
    call = tool.call(done(d, door=door, state=said), door=door, action=act)
    return d.turn(d.request(asked), f"The {door} is {said} now.", call=call)


def _volume(d: Draw, tool: Tool) -> Turn:
    level = d.rng.randint(0, 100)
    asked = d.words(
        ("set the volume to {n}", "turn the volume to {n}", "change the volume to {n}",
         "make the volume {n}", "set the sound to {n} percent", "put the volume at {n} percent",
         "set the volume at {n}", "turn the sound to {n}", "put the sound to {n}",
         "adjust the sound to {n}", "make it as loud as {n}", "change the sound level to {n}",
         "set the loudness to {n}", "turn it to {n} percent", "turn the music to volume {n}",
         "let the volume be {n}", "move the volume to {n}", "give me volume {n}",
         "keep the volume at {n}", "make the sound {n} percent loud", "volume {n}.",
         "volume to {n}.", "volume at {n} percent.", "sound at {n}.", "the volume should be {n}.",
         "I want the volume at {n}.", "I would like volume {n}.", "loudness {n}."),
        ("bring the volume to {n}",), n=level)  # fmt: skip
    call = tool.call(done(d, volume=level), level=level)
    return d.turn(d.request(asked), f"The volume is {level} now.", call=call)


HOME = (
    ToolKind(
        "tool-light", "lights", ("set_light", "light", "switch_light", "control_light", "lights"),
        ("toggle_light", "light_switch"),
        ("Turns a light on or off", "Switch a light", "Sets the light of a room", "Control lights"),
        {"room": _ROOM, "state": _STATE}, _light, ("lamp is broken", "no power", "not available"),
        again=("and in the {x}?", "and the {x}?", "what about the {x}?", "the {x}, too",
               "now the {x}"),
    ),
    ToolKind(
        "tool-heating", "the heating",
        ("set_temperature", "set_heating", "heat_room", "thermostat"), ("set_thermostat",),
        ("Sets the temperature of a room", "Heat a room", "Control the heating",
         "Room temperature"),
        {"room": _ROOM, "degrees": Argument(("degrees", "temperature",
        "value"), "integer")}, _heating,
        ("heating is off", "not available", "no connection"),
    ),
    ToolKind(
        "tool-music", "music", ("play_music", "music", "start_music", "play"), ("music_player",),
        ("Plays music", "Play a kind of music", "Starts the music player", "Music of a genre"),
        {"genre": Argument(("genre", "style", "kind"), values=_GENRES)}, _music,
        ("no speaker", "player is off", "not available"),
        vague=("play music", "play some music", "put on music", "start the music", "turn on music",
               "i want to hear music"),
        missing="Which kind of music?", given=("{x}", "some {x}", "{x} please", "I like {x}"),
        again=("now {x}", "and now {x}", "{x} instead", "I would rather hear {x}"),
    ),
    ToolKind(
        "tool-door", "doors", ("set_door", "door", "control_door", "doors"), ("door_control",),
        ("Opens and closes doors", "Control a door", "Lock or open a door"),
        {"door": Argument(("door", "which", "name"), values=_DOORS),
         "action": Argument(("action", "do", "command"), values=("lock", "unlock", "open", "close"),
                            most=4)},
        _door, ("door is blocked", "no key", "not available"),
        again=("and the {x}?", "the {x}, too", "now the {x}", "also the {x}"),
    ),
    ToolKind(
        "tool-volume", "the volume", ("set_volume", "volume", "change_volume"), ("adjust_volume",),
        ("Sets the volume", "Volume from 0 to 100", "Change how loud it is"),
        {"level": Argument(("level", "percent", "volume"), "integer")}, _volume,
        ("no speaker", "sound is off"),
        vague=("change the volume", "set the volume", "adjust the volume"),
        missing="To what level?", given=("{x}", "to {x}", "{x} percent", "make it {x}"),
        again=("now {x}", "make it {x}", "no, {x}", "better {x}"),
    ),
)  # fmt: skip
