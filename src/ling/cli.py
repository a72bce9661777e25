"""The command line: parse, call one function, turn errors into one line and an exit code."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, cast

from .config import nearest
from .errors import LingError, UsageError

COMMANDS = {
    "quickstart": "train, convert and run a small Ling on this machine, in minutes",
    "pretrain": "train from a recipe (YAML plus dotted overrides); rerun to resume",
    "data": "`data prepare`: text or source code to tokenizer and token files",
    "merge": "average the last checkpoints of a run (WSM)",
    "download": "a model's files from Hugging Face or ModelScope, verified",
    "convert": "checkpoint to Hugging Face folder, and back",
    "verify": "check a model folder, or compare two",
    "inspect": "parameters and bytes of a preset or a model folder",
    "generate": "continue a prompt",
    "chat": "talk to a model in the terminal",
    "serve": "OpenAI-compatible HTTP server",
    "deploy": "`deploy vllm|sglang MODEL`: the command line that serves it on GPUs",
    "eval": "`--tasks ppl`: perplexity on held-out text",
    "synth": "random weights of a whole shape, straight in a format, for measuring",
    "bench": "`bench train|decode|prefill|batch|start`: measured speed, also against llama.cpp",
    "doctor": "what this installation can do, and why not more",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code: 0 done, 2 bad input, 130/143 stopped, 1 otherwise."""
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    args = [a for a in args if a != "--debug"]
    return guarded(lambda: _dispatch(args), debug=debug)


def guarded(run: Callable[[], int], *, debug: bool = False) -> int:
    """The exit code of `run`; what it raises becomes one line on stderr."""
    try:
        return run()
    except LingError as err:
        if debug:
            raise
        print(f"error: {_one_line(str(err))}", file=sys.stderr)
        return err.exit_code
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1
    except Exception as err:
        if debug:
            raise
        print(
            f"error: {type(err).__name__}: {_one_line(str(err))} (--debug shows more)",
            file=sys.stderr,
        )
        return 1


def _one_line(text: str) -> str:
    """No line breaks and no control bytes of hostile input on the terminal."""
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else "?" for c in line)[:2000]


def _dispatch(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help"):
        print("usage: ling COMMAND ... (`ling COMMAND --help`: options; --debug: tracebacks)\n")
        print("\n".join(f"  {name:11} {text}" for name, text in COMMANDS.items()))
        return 0
    if args[0] in ("-V", "--version"):
        from importlib.metadata import version

        print(f"ling {version('ling')}")
        return 0
    if args[0] not in COMMANDS:
        raise UsageError(
            f"no command `{args[0]}`{nearest(args[0], list(COMMANDS))}; see `ling --help`"
        )
    run: Callable[[list[str]], int | None] = globals()[f"_{args[0]}"]
    return run(args[1:]) or 0


def _parser(command: str, **options: Any) -> Any:
    from jsonargparse import ArgumentParser

    class Parser(ArgumentParser):
        """Usage errors become `UsageError`: one line, exit code 2."""

        def error(self, message: str, ex: Exception | None = None) -> NoReturn:
            text = _one_line(message)
            known = [a.option_strings[-1].lstrip("-") for a in self._actions if a.option_strings]
            for word in text.replace("'", " ").replace('"', " ").replace("=", " ").split():
                bare = word.lstrip("-").rstrip(".,:")
                if word.startswith("--") or "." in bare:
                    hint = "" if bare in known else nearest(bare, known)
                    if hint:
                        text += hint
                        break
            raise UsageError(f"{command.removesuffix(' RECIPE.yaml')}: {text}")

    return Parser(prog=f"ling {command}", description=COMMANDS.get(command.split()[0]), **options)


def _say(value: Any, as_json: bool, text: str) -> None:
    print(json.dumps(value, ensure_ascii=False) if as_json else text)


# ---- training ----------------------------------------------------------------------------------


def _pretrain(args: list[str]) -> int:
    from pathlib import Path

    from .config import PretrainConfig, check_recipe_file, recipe_yaml

    parser = _parser("pretrain RECIPE.yaml", default_env=False)
    parser.add_argument("--config", action="config", help="the recipe; also as first argument")
    parser.add_argument("--out", type=str, default=None, help="run folder (default runs/<recipe>)")
    parser.add_argument(
        "--allow-data-reset",
        action="store_true",
        help="resume with other data, seed, batch or world size: the data starts anew",
    )
    parser.add_class_arguments(PretrainConfig, nested_key=None, as_group=False)
    if args and not args[0].startswith("-"):
        if not Path(args[0]).is_file():
            raise UsageError(f"{args[0]}: no such recipe")
        check_recipe_file(args[0])
        args = ["--config", *args]
    # The parser's own flag would print this command's flags too, which are no keys of a recipe.
    only_print = "--print-config" in args
    parsed = parser.parse_args([a for a in args if a != "--print-config"])
    recipe_path = parsed.config[0].relative if parsed.config else None
    out = Path(parsed.out or f"runs/{Path(recipe_path).stem if recipe_path else 'pretrain'}")
    recipe = _build_recipe(vars(parser.instantiate(parsed)))
    if only_print:
        print(recipe_yaml(recipe), end="")
        return 0
    from .train.trainer import run

    return run(recipe, out, allow_data_reset=parsed.allow_data_reset)


def _build_recipe(values: dict[str, Any]) -> Any:
    import dataclasses
    import typing

    from . import config

    hints = typing.get_type_hints(config.PretrainConfig)
    values = {key: values[key] for key in hints}  # without the command's own flags
    for key, kind in hints.items():
        if dataclasses.is_dataclass(kind) and isinstance(values.get(key), dict):
            values[key] = cast("type[Any]", kind)(**values[key])
    return config.PretrainConfig(**values)


def _data(args: list[str]) -> None:
    if not args or args[0] != "prepare":
        raise UsageError("data: expected `ling data prepare SOURCE... --out DIR`")
    parser = _parser("data prepare")
    parser.add_argument("sources", nargs="+", help="`stdlib`, or jsonl files, text files, folders")
    parser.add_argument(
        "--out", type=str, required=True, help="folder for tokenizer and token files"
    )
    parser.add_argument("--tokenizer", type=str, default=None, help="use this tokenizer folder")
    parser.add_argument("--vocab-size", type=int, default=4096, help="size of a new tokenizer")
    parser.add_argument("--max-bytes", type=int, default=None, help="take about this much text")
    parser.add_argument(
        "--valid-fraction", type=float, default=0.02, help="share of files held out"
    )
    ns = parser.parse_args(args[1:])
    from .data.prepare import prepare

    sources = "stdlib" if ns.sources == ["stdlib"] else ns.sources
    ready = prepare(
        sources,
        ns.out,
        tokenizer=ns.tokenizer,
        vocab_size=ns.vocab_size,
        max_bytes=ns.max_bytes,
        valid_fraction=ns.valid_fraction,
    )
    print(
        f"prefixes: {ready.train_prefix} {ready.valid_prefix}, tokenizer: {ready.tokenizer_folder}"
    )


def _merge(args: list[str]) -> None:
    parser = _parser("merge")
    parser.add_argument("run", type=str, help="run folder")
    parser.add_argument("out", type=str, help="folder for the merged checkpoint")
    parser.add_argument("--last", type=int, required=True, help="how many checkpoints")
    parser.add_argument(
        "--schedule", type=str, default="mean", help="mean, linear, cosine, one-minus-sqrt"
    )
    ns = parser.parse_args(args)
    from .train.merge import merge

    names = merge(ns.run, ns.out, last=ns.last, schedule=ns.schedule)
    print(f"merged {', '.join(names)} into {ns.out}")


def _download(args: list[str]) -> None:
    parser = _parser("download")
    parser.add_argument("name", type=str, help="org/name, hf:..., modelscope:..., ling-mini-2.0")
    parser.add_argument("--hub", type=str, default=None, help="hf or modelscope (or LING_HUB)")
    parser.add_argument("--revision", type=str, default=None, help="branch, tag or commit")
    parser.add_argument("--local-dir", type=str, default=None, help="put plain files here")
    parser.add_argument("--cache-dir", type=str, default=None, help="another cache")
    parser.add_argument("--offline", action="store_true", help="only look at what is here")
    ns = parser.parse_args(args)
    from .hub import download

    print(download(**{k: v for k, v in vars(ns).items() if k != "config"}))


def _convert(args: list[str]) -> None:
    from .convert import choices

    parser = _parser("convert")
    parser.add_argument("source", type=str, help="model folder, run, DCP, Megatron or GGUF file")
    parser.add_argument("target", type=str, help="folder to write")
    parser.add_argument("--to", type=str, default="bf16", help=", ".join(choices.TO))
    parser.add_argument("--mtp", type=str, default="extra-layer", help=", ".join(choices.MTP))
    parser.add_argument("--tokenizer", type=str, default=None, help="tokenizer folder to copy")
    parser.add_argument(
        "--max-shard-size", type=str, default="5GB", help="largest shard (decimal units)"
    )
    parser.add_argument("--workers", type=int, default=None, help="threads (default: all cores)")
    parser.add_argument("--revision", type=str, default=None, help="of a source on a hub")
    parser.add_argument(
        "--dtype", type=str, default=None, help="of tensors that stay floating point"
    )
    parser.add_argument("--gguf-type", type=str, default="bf16", help="bf16, q8_0, q4_0, ...")
    parser.add_argument(
        "--calibrate", type=str, default=None, help="text whose activations weigh int4/int8 errors"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the target")
    parser.add_argument("--dry-run", action="store_true", help="print the files, write nothing")
    parser.add_argument("--verify", action="store_true", help="read back and compare")
    options = vars(parser.parse_args(args))
    from .convert.convert import convert
    from .hub import resolve_model

    source, target = options.pop("source"), options.pop("target")
    source = resolve_model(source, revision=options.pop("revision"))
    convert(source, target, log=print, **options)
    if not options["dry_run"]:
        print(f"wrote {target}")


def _verify(args: list[str]) -> None:
    parser = _parser("verify")
    parser.add_argument("a", type=str, help="checkpoint: model folder, run, hub name")
    parser.add_argument("b", type=str, nargs="?", default=None, help="another to compare with")
    parser.add_argument("--no-logits", action="store_true", help="compare tensors only")
    parser.add_argument(
        "--write-checksums", action="store_true", help="note every tensor's SHA-256 in the folder"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    ns = parser.parse_args(args)
    from .convert.verify import verify
    from .hub import resolve_model

    a, b = resolve_model(ns.a), ns.b and resolve_model(ns.b)
    report = verify(a, b, with_logits=not ns.no_logits, progress=sys.stderr.isatty())
    if ns.write_checksums:
        from .model.checksums import write_checksums

        report["checksums"] = write_checksums(a)
        report["summary"] += f"; {report['checksums']} checksums written"
    _say(report, ns.json, report["summary"])


def _inspect(args: list[str]) -> None:
    parser = _parser("inspect")
    parser.add_argument("model", type=str, help="preset, model folder or hub name")
    parser.add_argument("--json", action="store_true", help="print JSON")
    ns = parser.parse_args(args)
    from .presets import PRESETS, preset

    if ns.model in PRESETS:
        cfg = preset(ns.model)
    else:
        from .hub import resolve_model
        from .model.weights import read_config

        cfg = read_config(resolve_model(ns.model, only="config.json"))
    from .model.size import describe

    report = describe(cfg)
    counts = report["parameters"]
    lines = [
        f"{ns.model}",
        f"  parameters         {counts['total']:>18,}",
        f"  active per token   {counts['active']:>18,}",
        f"  non-embedding      {counts['active_non_embedding']:>18,}",
        f"  one MTP layer      {counts['mtp']:>18,}  (model has {cfg.num_nextn_predict_layers})",
        f"  KV bytes per token {report['kv_bytes_per_token']:>18,}",
        *(f"  {name:<8} {size / 1e9:>27.2f} GB" for name, size in report["bytes"].items()),
    ]
    _say(report, ns.json, "\n".join(lines))


# ---- inference ---------------------------------------------------------------------------------


def _model_options(parser: Any) -> None:
    parser.add_argument("model", type=str, help="model folder or hub name")
    parser.add_argument("--dtype", type=str, default="auto", help="auto, bfloat16 or float32")
    parser.add_argument(
        "--format", type=str, help="pack weights at load: int4, int4_g32, int8, fp8, bf16"
    )
    parser.add_argument("--speculative", type=str, default="off", help="mtp or off")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads")
    parser.add_argument(
        "--max-memory", type=str, default=None, help="run a larger int4/int8 model in, say, 6GB"
    )
    _kv_cache_option(parser)
    parser.add_argument(
        "--max-model-len", type=int, default=None, help="longest context, in tokens"
    )


def _kv_cache_option(parser: Any) -> None:
    parser.add_argument(
        "--kv-cache-dtype", type=str, default="bf16", help="bf16, or int8: half the memory"
    )


def _sampling_options(parser: Any, temperature: float) -> None:
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=temperature, help="0 is greedy")
    parser.add_argument("--top-k", type=int, default=0, help="0 is off")
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--repetition-penalty", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--stop", type=str, nargs="*", default=None, help="stop strings")


def _sampling(ns: Any) -> Any:
    from .infer.request import SamplingParams

    return SamplingParams(
        temperature=ns.temperature,
        top_k=ns.top_k,
        top_p=ns.top_p,
        seed=ns.seed,
        stop=ns.stop,
        repetition_penalty=ns.repetition_penalty,
        max_tokens=ns.max_new_tokens,
    )


def _llm(ns: Any) -> Any:
    from .llm import LLM

    _use_threads(ns.threads)
    return LLM(
        ns.model,
        dtype=ns.dtype,
        format=ns.format,
        max_memory=ns.max_memory,
        kv_cache_dtype=ns.kv_cache_dtype,
        speculative=ns.speculative,
        max_model_len=ns.max_model_len,
    )


def _use_threads(threads: int | None) -> None:
    if threads is None:
        return
    if not 1 <= threads <= 256:
        raise UsageError(f"`--threads` is {threads}, expected 1 to 256")
    import torch

    torch.set_num_threads(threads)


def _generate(args: list[str]) -> None:
    parser = _parser("generate")
    _model_options(parser)
    parser.add_argument("-p", "--prompt", type=str, required=True, help="text to continue")
    _sampling_options(parser, temperature=0.0)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    ns = parser.parse_args(args)
    params = _sampling(ns)
    llm = _llm(ns)
    if not ns.json:
        print(ns.prompt, end="", flush=True)
        for chunk in llm.stream(ns.prompt, params):
            print(chunk.text, end="", flush=True)
        stats = llm.stats
        print(
            f"\n[{stats.generated} tokens, {stats.tokens_per_s:.1f} tokens/s{_acceptance(stats)}]",
            file=sys.stderr,
        )
        return
    output = llm.generate(ns.prompt, params)[0].outputs[0]
    report = {
        "text": output.text,
        "token_ids": output.token_ids,
        "finish_reason": output.finish_reason,
        "tokens_per_s": llm.stats.tokens_per_s,
        "acceptance": llm.stats.acceptance,
    }
    print(json.dumps(report, ensure_ascii=False))


def _acceptance(stats: Any) -> str:
    return "" if stats.acceptance is None else f", {stats.acceptance:.0%} of drafts accepted"


def _chat(args: list[str]) -> None:
    parser = _parser("chat")
    _model_options(parser)
    _sampling_options(parser, temperature=0.7)
    parser.add_argument("--system", type=str, default=None, help="system message")
    ns = parser.parse_args(args)
    params = _sampling(ns)
    llm = _llm(ns)
    if llm.tokenizer is None:
        raise UsageError(f"{ns.model}: no tokenizer.json in this folder, so it cannot chat")
    head = [{"role": "system", "content": ns.system}] if ns.system else []
    messages: list[dict[str, str]] = list(head)
    print("empty line or Ctrl-D ends, /new starts over")
    while True:
        try:
            line = input("you> ").strip()
        except EOFError:
            return
        if not line:
            return
        if line == "/new":
            messages = list(head)
            continue
        messages.append({"role": "user", "content": line})
        print("ling> ", end="", flush=True)
        answer = ""
        try:
            for chunk in llm.stream_chat(messages, params):
                answer += chunk.text
                print(chunk.text, end="", flush=True)
        except UsageError:
            raise
        except LingError as err:
            print(f"error: {_one_line(str(err))}", file=sys.stderr)
            messages.pop()
            continue
        except KeyboardInterrupt:
            print(" [stopped]", end="")
        print()
        messages.append({"role": "assistant", "content": answer})


def _serve(args: list[str]) -> int:
    parser = _parser("serve")
    _model_options(parser)
    parser.add_argument("--host", type=str, default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--served-model-name", type=str, default=None)
    parser.add_argument("--api-key", type=str, default=None, help="or the variable LING_API_KEY")
    ns = parser.parse_args(args)
    from .serve.app import serve

    _use_threads(ns.threads)
    return serve(
        ns.model,
        host=ns.host,
        port=ns.port,
        served_model_name=ns.served_model_name,
        api_key=ns.api_key,
        max_model_len=ns.max_model_len,
        dtype=ns.dtype,
        format=ns.format,
        max_memory=ns.max_memory,
        kv_cache_dtype=ns.kv_cache_dtype,
        speculative=ns.speculative,
    )


def _deploy(args: list[str]) -> None:
    parser = _parser("deploy")
    parser.add_argument("engine", type=str, help="vllm or sglang")
    parser.add_argument("model", type=str, help="model folder, bf16 or fp8")
    parser.add_argument(
        "--context", type=int, default=None, help="longest context in tokens; YaRN where needed"
    )
    parser.add_argument("--tensor-parallel", type=int, default=1, help="GPUs to split over")
    parser.add_argument("--speculative", type=str, default="mtp", help="mtp or off")
    parser.add_argument("--draft-tokens", type=int, default=1, help="tokens drafted per step")
    parser.add_argument("--json", action="store_true", help="print JSON")
    ns = parser.parse_args(args)
    from .plugins.deploy import deploy

    report = deploy(
        ns.engine,
        ns.model,
        context=ns.context,
        tensor_parallel=ns.tensor_parallel,
        speculative=ns.speculative,
        draft_tokens=ns.draft_tokens,
    )
    text = "\n".join([*(f"# {note}" for note in report["notes"]), report["command"]])
    _say(report, ns.json, text)


# ---- measuring ---------------------------------------------------------------------------------


def _at_least_one(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise UsageError(f"`--{name.replace('_', '-')}` is {value}, expected at least 1")


def _eval(args: list[str]) -> None:
    parser = _parser("eval")
    parser.add_argument("model", type=str, help="model folder")
    parser.add_argument("--tasks", type=str, default="ppl", help="ppl")
    parser.add_argument(
        "--data", type=str, nargs="+", required=True, help=".bin/.idx prefix, jsonl or text files"
    )
    parser.add_argument(
        "--seq-length",
        type=int,
        default=None,
        help="tokens per row (default: the model's, at most 1024)",
    )
    parser.add_argument("--rows", type=int, default=None, help="rows to score (default all)")
    parser.add_argument("--dtype", type=str, default="float32")
    parser.add_argument("--json", action="store_true", help="print JSON")
    ns = parser.parse_args(args)
    for name in ("rows", "seq_length"):
        _at_least_one(name, getattr(ns, name))
    if ns.tasks != "ppl":
        raise UsageError(f"no task `{ns.tasks}`; there is `ppl`")
    from .eval.perplexity import perplexity

    report = perplexity(ns.model, ns.data, seq_length=ns.seq_length, rows=ns.rows, dtype=ns.dtype)
    _say(report, ns.json, ", ".join(f"{k} {v}" for k, v in report.items()))


def _synth(args: list[str]) -> None:
    parser = _parser("synth")
    parser.add_argument("preset", type=str, help="a shape: ling-mini-2.0, dense-8b, ...")
    parser.add_argument("target", type=str, help="folder to write")
    parser.add_argument("--to", type=str, default="int4", help="bf16, fp8, int4, int4_g32 or int8")
    parser.add_argument("--seed", type=int, default=0)
    ns = parser.parse_args(args)
    from pathlib import Path

    from .convert.synth import synth
    from .presets import preset

    synth(preset(ns.preset), Path(ns.target), to=ns.to, seed=ns.seed)
    print(f"wrote {ns.target}")


def _bench(args: list[str]) -> None:
    kinds = ("train", "decode", "prefill", "batch", "start")
    if not args or args[0] not in kinds:
        raise UsageError(f"bench: expected `ling bench {'|'.join(kinds)} MODEL`")
    (_bench_train if args[0] == "train" else _bench_inference)(args[0], args[1:])


def _bench_train(kind: str, args: list[str]) -> None:
    parser = _parser("bench train")
    parser.add_argument("model", type=str, nargs="?", default="ling-nano", help="preset")
    parser.add_argument("--pairs", type=int, default=3, help="measured pairs")
    parser.add_argument("--json", action="store_true", help="print only JSON")
    ns = parser.parse_args(args)
    _at_least_one("pairs", ns.pairs)
    from .eval import bench

    _report(bench.train(ns.model, ns.pairs), ns.json)


def _bench_inference(kind: str, args: list[str]) -> None:
    parser = _parser(f"bench {kind}")
    parser.add_argument(
        "model", type=str, nargs="?", default="ling-nano", help="model folder, or a preset"
    )
    parser.add_argument("--format", type=str, default=None, help="int4, int4_g32, int8, fp8, bf16")
    parser.add_argument("--context", type=int, default=0, help="tokens before the measured ones")
    parser.add_argument(
        "--tokens", type=int, default=None, help="tokens measured (64; prefill 512)"
    )
    parser.add_argument("--batch", type=int, default=None, help="requests at once (`batch`: 16)")
    parser.add_argument(
        "--pairs", type=int, default=5, help="measurements, in turn with the peer's"
    )
    parser.add_argument("--speculative", type=str, default="off", help="mtp or off")
    parser.add_argument(
        "--acceptance", type=float, default=None, help="keep drafts by a seeded coin of this chance"
    )
    parser.add_argument("--against", type=str, default=None, help="llama.cpp")
    parser.add_argument(
        "--peer-types", type=str, nargs="+", default=None, help="q4_0, q4_k_m, q8_0"
    )
    parser.add_argument(
        "--peer-settings", type=str, default="", help='only these, such as "flash=on repack=on"'
    )
    parser.add_argument(
        "--peer-python", type=str, default=None, help="interpreter that has llama-cpp-python"
    )
    _kv_cache_option(parser)
    parser.add_argument("--cache", type=str, default=None, help="folder for random weights")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads")
    parser.add_argument("--profile", action="store_true", help="time per kernel")
    parser.add_argument("--json", action="store_true", help="print only JSON")
    ns = parser.parse_args(args)
    from .eval import bench_infer

    _use_threads(ns.threads)
    options = bench_infer.BenchOptions(
        kind=kind,
        context=ns.context,
        tokens=ns.tokens or (512 if kind == "prefill" else 64),
        batch=ns.batch or (16 if kind == "batch" else 1),
        pairs=ns.pairs,
        speculative=ns.speculative,
        acceptance=ns.acceptance,
        kv_cache_dtype=ns.kv_cache_dtype,
    )
    report = bench_infer.bench(
        ns.model,
        options,
        fmt=ns.format,
        against=ns.against,
        peer_types=ns.peer_types,
        peer_settings=ns.peer_settings,
        peer_python=ns.peer_python,
        cache=ns.cache,
        log=lambda text: print(text, file=sys.stderr),
    )
    _report(report, ns.json)
    if ns.profile and not ns.json:
        from .eval.roofline import stage_lines

        print("\n".join(stage_lines(report)))


def _report(report: dict[str, Any], only_json: bool) -> None:
    print(json.dumps({k: v for k, v in report.items() if k != "line"}))
    if not only_json:
        print(report["line"])


def _doctor(args: list[str]) -> None:
    parser = _parser("doctor")
    parser.add_argument("--json", action="store_true", help="print JSON")
    ns = parser.parse_args(args)
    from .ops.doctor import doctor

    report = doctor()
    _say(report, ns.json, "\n".join(f"{k:<14} {v}" for k, v in report.items()))


def _quickstart(args: list[str]) -> int:
    parser = _parser("quickstart")
    parser.add_argument(
        "--out", type=str, default="quickstart", help="folder for everything it makes"
    )
    parser.add_argument("--minutes", type=float, default=4.0, help="training time to aim for")
    ns = parser.parse_args(args)
    from .quickstart import quickstart

    return quickstart(ns.out, ns.minutes)


if __name__ == "__main__":
    sys.exit(main())
