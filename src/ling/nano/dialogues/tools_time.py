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
         "what's the time", "say what time it is", "look at the clock", "give me the time",
         "do you know the time", "can you tell me the time", "what time is it now",
         "which time is it", "what time do we have", "do you have the time", "check the time",
         "what time is it right now", "tell me what time it is", "look up the time",
         "show me the time", "what hour is it", "what is the time now", "say the time",
         "what is the time right now", "the time please.", "time?", "the time now please.",
         "I need the time.", "I want to know the time.", "current time please.",
         "could you tell me the time?", "do you know what time it is"),
        ("what does the clock say", "read me the time"))  # fmt: skip
    key = f"clock {asked}"
    result = returned(d, {"time": time}, {"time": time}, time)
    return d.turn(
        d.asked(asked), f"It is {time}.", key=key if d.is_new else "", call=tool.call(result)
    )


def _date(d: Draw, tool: Tool) -> Turn:
    day, month, number = d.one(DAYS), d.one(MONTHS), d.rng.randint(1, 28)
    if d.chance(0.5):
        asked = d.words(("what day is it", "what day is today", "which day is it today",
                         "what weekday is it", "tell me what day it is", "which weekday is it",
                         "do you know what day it is", "which day do we have",
                         "what day of the week is it", "tell me the day", "say what day it is",
                         "what day is it today", "give me the weekday", "tell me the weekday",
                         "what weekday is today", "I forgot what day it is.",
                         "I want to know what day it is."),
                        ("name the day of today",))  # fmt: skip
        answer = f"Today is {day}."
    else:
        asked = d.words(("what is the date", "what date is it", "what is today's date",
                         "tell me the date", "what is the date today", "give me the date",
                         "do you know the date", "which date is it", "what is the date of today",
                         "tell me today's date", "give me today's date", "what's the date",
                         "what is the current date", "check the date", "show me the date",
                         "what date do we have today", "say the date", "the date please.",
                         "today's date please.", "I need the date of today."),
                        ("read me the date",))  # fmt: skip
        answer = f"It is {day}, {month} {number}."
    call = tool.call({"weekday": day, "date": f"{month} {number}"})
    return d.turn(d.asked(asked), answer, call=call)


def _timer(d: Draw, tool: Tool) -> Turn:
    n = d.rng.randint(1, 240) if d.chance(0.3) else d.rng.randint(1, 60)
    unit = "minute" if n == 1 else "minutes"
    asked = d.words(
        ("set a timer for {n} {u}", "start a timer of {n} {u}", "wake me in {n} {u}",
         "set a {n} minute timer", "start a {n} minute timer", "count down {n} {u}",
         "remind me in {n} {u}", "let me know in {n} {u}", "set the timer to {n} {u}",
         "give me {n} {u} on the timer", "put {n} {u} on the clock", "ring in {n} {u}",
         "set {n} {u} on the timer", "begin a timer of {n} {u}", "start the timer with {n} {u}",
         "start counting {n} {u}", "beep in {n} {u}", "beep after {n} {u}", "time {n} {u}",
         "make a timer for {n} {u}", "create a timer for {n} {u}", "run a timer for {n} {u}",
         "tell me when {n} {u} are over", "say when {n} {u} are over", "wake me up in {n} {u}",
         "let it ring in {n} {u}", "stop me after {n} {u}", "give me a timer for {n} {u}",
         "timer {n} {u}.", "timer for {n} {u}.", "I need a timer for {n} {u}.",
         "I want a timer of {n} {u}.", "I would like a timer for {n} {u}.", "timer, {n} {u}.",
         "{n} {u} on the timer.", "a {n} minute timer please."),
        ("make a noise in {n} {u}", "call me in {n} {u}"), n=n, u=unit)  # fmt: skip
    call = tool.call(done(d, minutes=n), minutes=n)
    return d.turn(d.request(asked), f"The timer is set for {n} {unit}.", call=call)


def _alarm(d: Draw, tool: Tool) -> Turn:
    time = f"{d.rng.randint(0, 23)}:{d.rng.choice((0, 0, 15, 30, 45, d.rng.randint(0, 59))):02}"
    asked = d.words(
        ("set an alarm for {t}", "wake me at {t}", "wake me up at {t}", "set the alarm to {t}",
         "put the alarm at {t}", "set my alarm to {t}", "ring at {t}", "set an alarm at {t}",
         "set the alarm clock to {t}", "let me sleep until {t}", "make an alarm for {t}",
         "create an alarm for {t}", "add an alarm at {t}", "let the alarm ring at {t}",
         "wake us at {t}", "wake me tomorrow at {t}", "turn on an alarm for {t}",
         "put an alarm on {t}", "wake me when it is {t}", "alarm at {t}.", "alarm for {t}.",
         "I want to get up at {t}.", "I need an alarm at {t}.", "I want an alarm at {t}.",
         "an alarm for {t}.", "alarm clock at {t}.", "I have to get up at {t}.",
         "I must be awake at {t}.", "I want to wake up at {t}.", "an alarm at {t} please.",
         "I would like to be woken at {t}."),
        ("make me get up at {t}",), t=time)  # fmt: skip
    call = tool.call(done(d, time=time), time=time)
    return d.turn(d.request(asked), f"The alarm is set for {time}.", call=call)


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
