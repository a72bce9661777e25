"""Tools of time: a clock, a date, a timer, an alarm."""

from __future__ import annotations

from .dates import DAYS, MONTHS
from .draw import Draw
from .tools import Argument, Tool, ToolKind, done, returned
from .turns import Turn


def _clock(d: Draw, tool: Tool) -> Turn:
    time = f"{d.rng.randint(0, 23)}:{d.rng.randint(0, 59):02}"
    asked = d.words(
        ("what time is it", "what is the time", "tell me the time", "how late is it",
         "the time please",
         "what's the time", "say what time it is", "look at the clock", "give me the time",
         "do you know the time", "can you tell me the time", "what time is it now", "time?"),
        ("what does the clock say", "read me the time"))  # fmt: skip
    key = f"clock {asked}"
    text = d.text(asked) if asked in ("time?", "the time please") else d.asked(asked)
    result = returned(d, {"time": time}, {"time": time}, time)
    return d.turn(text, f"It is {time}.", key=key if d.is_new else "", call=tool.call(result))


def _date(d: Draw, tool: Tool) -> Turn:
    day, month, number = d.one(DAYS), d.one(MONTHS), d.rng.randint(1, 28)
    if d.chance(0.5):
        asked = d.words(("what day is it", "what day is today", "which day is it today",
                         "what weekday is it", "tell me what day it is"),
                        ("name the day of today",))  # fmt: skip
        answer = f"Today is {day}."
    else:
        asked = d.words(("what is the date", "what date is it", "what is today's date",
                         "tell me the date", "what is the date today", "give me the date"),
                        ("read me the date",))  # fmt: skip
        answer = f"It is {day}, {month} {number}."
    call = tool.call({"weekday": day, "date": f"{month} {number}"})
    return d.turn(d.asked(asked), answer, call=call)


def _timer(d: Draw, tool: Tool) -> Turn:
    n = d.rng.randint(1, 240) if d.chance(0.3) else d.rng.randint(1, 60)
    unit = "minute" if n == 1 else "minutes"
    asked = d.words(
        ("set a timer for {n} {u}", "start a timer of {n} {u}", "wake me in {n} {u}",
         "timer {n} {u}",
         "set a {n} minute timer", "start a {n} minute timer", "count down {n} {u}",
         "remind me in {n} {u}", "let me know in {n} {u}", "set the timer to {n} {u}",
         "give me {n} {u} on the timer", "I need a timer for {n} {u}", "put {n} {u} on the clock"),
        ("make a noise in {n} {u}", "call me in {n} {u}"), n=n, u=unit)  # fmt: skip
    text = d.text(asked + ".") if asked.startswith(("I ", "timer")) else d.request(asked)
    call = tool.call(done(d, minutes=n), minutes=n)
    return d.turn(text, f"The timer is set for {n} {unit}.", call=call)


def _alarm(d: Draw, tool: Tool) -> Turn:
    time = f"{d.rng.randint(0, 23)}:{d.rng.choice((0, 0, 15, 30, 45, d.rng.randint(0, 59))):02}"
    asked = d.words(
        ("set an alarm for {t}", "wake me at {t}", "wake me up at {t}", "alarm at {t}",
         "set the alarm to {t}",
         "I want to get up at {t}", "put the alarm at {t}", "set my alarm to {t}", "ring at {t}"),
        ("make me get up at {t}",), t=time)  # fmt: skip
    text = d.text(asked + ".") if asked.startswith(("I ", "alarm")) else d.request(asked)
    return d.turn(
        text, f"The alarm is set for {time}.", call=tool.call(done(d, time=time), time=time)
    )


TIME = (
    ToolKind(
        "tool-clock", "the time", ("get_time", "clock", "current_time",
        "time_now"), ("read_clock",),
        ("The time", "Tells the time", "Current time", "Reads the clock"), {}, _clock,
        ("clock is off", "not available"),
    ),
    ToolKind(
        "tool-date", "the date", ("get_date", "today", "current_date", "date"), ("calendar_today",),
        ("The date of today", "Tells weekday and date", "Current date"), {}, _date,
        ("no calendar", "not available"),
    ),
    ToolKind(
        "tool-timer", "timers", ("set_timer", "timer", "start_timer", "countdown"), ("new_timer",),
        ("Sets a timer", "Start a timer", "A timer in minutes", "Rings after some minutes"),
        {"minutes": Argument(("minutes", "minutes", "time", "duration"), "integer")}, _timer,
        ("too many timers", "not available"),
        vague=("set a timer", "start a timer", "set the timer", "i need a timer", "a timer please"),
        missing="For how many minutes?",
        given=("{x}", "{x} minutes", "for {x} minutes", "{x} please"),
        again=("and one for {x} minutes", "another one for {x} minutes", "now {x} minutes"),
    ),
    ToolKind(
        "tool-alarm", "alarms", ("set_alarm", "alarm", "wake_up", "add_alarm"), ("new_alarm",),
        ("Sets an alarm", "Wakes somebody", "An alarm at a time", "Alarm clock"),
        {"time": Argument(("time", "at", "when"))}, _alarm, ("too many alarms", "not available"),
        vague=("set an alarm", "wake me up", "wake me", "set the alarm", "i need an alarm"),
        missing="At what time?", given=("{x}", "at {x}", "{x} please", "for {x}"),
        again=("and one at {x}", "another one at {x}", "and at {x}"),
    ),
)  # fmt: skip
