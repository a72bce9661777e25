"""Options that several commands share, and the parser that turns usage errors into one line."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from ..errors import UsageError
from ..ops.formats import format_names
from ..text import nearest, one_line
from .commands import COMMANDS


def make_parser(command: str, **options: Any) -> Any:
    from jsonargparse import ArgumentParser

    class Parser(ArgumentParser):
        """Usage errors become `UsageError`: one line, exit code 2."""

        def error(self, message: str, ex: Exception | None = None) -> NoReturn:
            text = one_line(message)
            known = [a.option_strings[-1].lstrip("-") for a in self._actions if a.option_strings]
            for word in text.replace("'", " ").replace('"', " ").replace("=", " ").split():
                bare = word.lstrip("-").rstrip(".,:")
                if word.startswith("--") or "." in bare:
                    hint = "" if bare in known else nearest(bare, known)
                    if hint:
                        text += hint
                        break
            raise UsageError(f"{command.removesuffix(' RECIPE.yaml')}: {text}")

    return Parser(
        prog=f"ling {command}", description=COMMANDS[command.split()[0]].summary, **options
    )


def say(value: Any, as_json: bool, text: str) -> None:
    print(json.dumps(value, ensure_ascii=False) if as_json else text)


def model_options(parser: Any) -> None:
    parser.add_argument("model", type=str, help="model folder or hub name")
    parser.add_argument("--dtype", type=str, default="auto", help="auto, bfloat16 or float32")
    parser.add_argument("--format", type=str, help=f"pack weights at load: {format_names()}")
    parser.add_argument("--speculative", type=str, default="off", help="mtp or off")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads")
    parser.add_argument(
        "--max-memory", type=str, default=None, help="run a larger int4/int8 model in, say, 6GB"
    )
    kv_cache_option(parser)
    parser.add_argument(
        "--max-model-len", type=int, default=None, help="longest context, in tokens"
    )


def kv_cache_option(parser: Any) -> None:
    parser.add_argument(
        "--kv-cache-dtype", type=str, default="bf16", help="bf16, or int8: half the memory"
    )


def sampling_options(parser: Any, temperature: float) -> None:
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=temperature, help="0 is greedy")
    parser.add_argument("--top-k", type=int, default=0, help="0 is off")
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--repetition-penalty", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--stop", type=str, nargs="*", default=None, help="stop strings")


def sampling_params(ns: Any) -> Any:
    from ..infer.request import SamplingParams

    return SamplingParams(
        temperature=ns.temperature,
        top_k=ns.top_k,
        top_p=ns.top_p,
        seed=ns.seed,
        stop=ns.stop,
        repetition_penalty=ns.repetition_penalty,
        max_tokens=ns.max_new_tokens,
    )


def open_llm(ns: Any) -> Any:
    from ..llm import LLM

    use_threads(ns.threads)
    return LLM(
        ns.model,
        dtype=ns.dtype,
        format=ns.format,
        max_memory=ns.max_memory,
        kv_cache_dtype=ns.kv_cache_dtype,
        speculative=ns.speculative,
        max_model_len=ns.max_model_len,
    )


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
