"""Options that several commands share, and the parser that turns usage errors into one line."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import Field
from typing import Any, NoReturn, TypeVar

from ..config.engine import TEMPERATURES, EngineConfig, SamplingFlags, ServeConfig, flags
from ..errors import UsageError
from ..ops.formats import format_names
from ..text import nearest, one_line
from .commands import COMMANDS

T = TypeVar("T")
# How a field's annotation is parsed, and whether the flag takes several values.
TYPES = {
    "str": (str, False),
    "int": (int, False),
    "float": (float, False),
    "list[str]": (str, True),
}


# Asks a command for its parser; no argument of a process can be this.
ASK_FOR_PARSER = "--\0parser"


class ParserAsked(Exception):
    """Leaves a command that got `ASK_FOR_PARSER`, with its parser."""

    def __init__(self, parser: Any) -> None:
        self.parser = parser


def make_parser(command: str, **options: Any) -> Any:
    from jsonargparse import ArgumentParser

    name = command.removesuffix(" RECIPE")

    class Parser(ArgumentParser):
        """Usage errors become `UsageError`: one line, exit code 2."""

        def parse_args(self, args: Any = None, *rest: Any, **options: Any) -> Any:
            if args == [ASK_FOR_PARSER]:
                raise ParserAsked(self)
            return super().parse_args(args, *rest, **options)

        def error(self, message: str, ex: Exception | None = None) -> NoReturn:
            text = _plain(one_line(message), name)
            flags = [a.option_strings[-1] for a in self._actions if a.option_strings]
            known = [flag.lstrip("-").rstrip("+") for flag in flags]
            for word in re.split(r"[\s`'\"=]+", text):
                bare = word.lstrip("-").rstrip(".,:")
                if word.startswith("--") or "." in bare:
                    hint = "" if bare in known else nearest(bare, known)
                    if hint:
                        text += hint
                        break
            raise UsageError(f"{name}: {text}")

    return Parser(
        prog=f"ling {command}",
        description=COMMANDS[command.split()[0]].summary,
        allow_abbrev=False,  # an option added later would change what an abbreviation means
        **options,
    )


# How jsonargparse says that a value is of another kind; of a list it quotes the item.
_WRONG_KIND = re.compile(
    r'Parser key "([\w.]+)": (?:Does not validate .*? - )?'
    r"Expected a <class '(int|float|bool)'>(?:\. Got value: (.*?))?"
    r"(?: - Expected a <class 'NoneType'>.* Given value: (.*))?"
)
_KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false"}


def _plain(text: str, command: str) -> str:
    """The parser's message without its Python types, where a value is of another kind."""
    text = text.removeprefix(f'Parser key "config": {command}: ')  # it is said within already
    found = _WRONG_KIND.fullmatch(text)
    if found is None:
        return text
    key, kind, item, value = found.groups()
    name = key if "." in key else f"--{key.replace('_', '-')}"
    return f"`{name}`: expected {_KINDS[kind]}, not `{value if item is None else item}`"


def say(value: Any, as_json: bool, text: str) -> None:
    print(json.dumps(value) if as_json else text)


def model_options(parser: Any, about: str = "model folder or hub name") -> None:
    parser.add_argument("model", type=str, help=about)
    add_flags(parser, flags(EngineConfig, "compute"))
    parser.add_argument("--threads", type=int, default=None, help="CPU threads")
    add_flags(parser, flags(EngineConfig, "memory"))
    add_flags(parser, flags(EngineConfig, "scheduling"))


def add_flags(parser: Any, fields: Sequence[Field[Any]], **defaults: Any) -> None:
    """A flag for each field of a configuration, with the `defaults` where they differ."""
    for field in fields:
        _add_flag(parser, field, defaults.get(field.name, field.default), field.metadata["help"])


def engine_flag(parser: Any, name: str, help: str | None = None) -> None:
    """The flag of one engine option, for commands that do not have all of them."""
    (field,) = (f for f in flags(EngineConfig) if f.name == name)
    _add_flag(parser, field, field.default, help or field.metadata["help"])


def _add_flag(parser: Any, field: Field[Any], default: Any, help: str | None) -> None:
    typ, many = TYPES[str(field.type).removesuffix(" | None")]
    values = {"nargs": "*", "action": "extend"} if many else {}  # given twice, both count
    help = help and help.replace("{formats}", format_names())
    names = (_flag_name(field.name), *field.metadata["aliases"])
    parser.add_argument(*names, type=typ, default=default, help=help, **values)


def config_from(ns: Any, config: type[T]) -> T:
    """A configuration with the parsed values of the flags that the command has."""
    return config(**{f.name: getattr(ns, f.name) for f in flags(config) if hasattr(ns, f.name)})


def sampling_options(parser: Any, command: str, group: str | None = None) -> None:
    for field in flags(SamplingFlags, group):
        help = field.metadata["help"]
        help = help and help.replace("{temperature}", f"{TEMPERATURES[command]:g}")
        _add_flag(parser, field, field.default, help)


def given_sampling(ns: Any) -> dict[str, Any]:
    """Fields of `SamplingParams` that flags give; `RequestError` names an impossible one."""
    from ..infer.request import SamplingParams

    given = sampling_of(ns)
    SamplingParams(**given)
    return given


def sampling_of(ns: Any) -> dict[str, Any]:
    """Fields of `SamplingParams` that flags give, unchecked."""
    given = dataclasses.asdict(config_from(ns, SamplingFlags))
    given = {name: value for name, value in given.items() if value is not None}
    if "stop" in given:
        given["stop"] = [_unescaped(text) for text in given["stop"]]
    if hasattr(ns, "max_new_tokens"):
        given["max_tokens"] = given.pop("max_new_tokens")
    else:
        del given["max_new_tokens"]
    return given


def sampling_params(llm: Any, command: str, given: dict[str, Any]) -> Any:
    """Flags over the model's recommendation over the command's default; says what the model's
    is."""
    from ..infer.request import SamplingParams

    say_recommended(llm, given)
    return SamplingParams(
        **{"temperature": TEMPERATURES[command], **llm.sampling_defaults, **given}
    )


def say_recommended(llm: Any, given: dict[str, Any]) -> None:
    """Say what is taken from the model's recommendation, if anything is."""
    from ..infer.sampling_defaults import FILE, in_words

    taken = {name: v for name, v in llm.sampling_defaults.items() if name not in given}
    if taken:
        print(f"[from {FILE}: {in_words(taken)}]", file=sys.stderr)


_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}


def _unescaped(text: str) -> str:
    """A shell has no easy way to type a line end."""
    return re.sub(r"\\([ntr\\])", lambda found: _ESCAPES[found[1]], text)


def open_llm(ns: Any) -> Any:
    from ..llm import LLM

    use_threads(ns.threads)
    with naming_flags("max_memory", "cache_dir_size", "lora"):
        return LLM(ns.model, **dataclasses.asdict(config_from(ns, EngineConfig)))


def only_adapter(ns: Any) -> str | None:
    """The adapter that a command runs, by its name; None without one. Several are for servers."""
    with naming_flags("lora"):
        names = [*config_from(ns, EngineConfig).adapter_folders]
    if len(names) > 1:
        raise UsageError("give one `--lora`; `ling serve` runs several, chosen by each request")
    return names[0] if names else None


@contextmanager
def naming_flags(*plain: str) -> Iterator[None]:
    """Show advice such as `max_model_len=256` in errors as `--max-model-len 256`, and the `plain`
    names as flags also where they stand alone."""

    def flag(found: re.Match[str]) -> str:
        name, value = found.groups()
        if value is None:
            return f"`{_flag_name(name)}`" if name in plain else found[0]
        return f"`{_flag_name(name)} {value}`" if name in names else found[0]

    names = {f.name for config in (EngineConfig, ServeConfig) for f in flags(config)}
    try:
        yield
    except UsageError as err:
        err.args = (re.sub(r'`(\w+)(?:="?([^`"]+)"?)?`', flag, str(err)),)
        raise


def _flag_name(field: str) -> str:
    return f"--{field.replace('_', '-')}"


def use_threads(threads: int | None) -> None:
    if threads is None:
        return
    if not 1 <= threads <= 256:
        raise UsageError(f"`--threads` is {threads}, expected 1 to 256")
    import torch

    torch.set_num_threads(threads)


def at_least_one(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise UsageError(f"`--{name.replace('_', '-')}` is {value}, expected at least 1")
