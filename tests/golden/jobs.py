"""What the golden tests compare: `python jobs.py JOB [FOLDER]` works in FOLDER and prints JSON.

It knows the command line, `ling.__all__` and `ling.errors`, so that modules may move underneath.
Each job is a process of its own, since kernels and `LING_ISA` are chosen once in a process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import inspect
import io
import json
import os
import pickle
import random
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

import ling
from ling import errors
from ling.__main__ import main

TESTS = Path(__file__).parents[1]
FIXTURES = TESTS / "fixtures"
RECIPE = TESTS.parent / "recipes" / "pretrain" / "tiny.yaml"


def command(*args: Any) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a `ling` command."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(a) for a in args])
        except SystemExit as stop:  # argparse after `--help`
            code = int(stop.code or 0)
    return code, out.getvalue(), err.getvalue()


def must(*args: Any) -> str:
    code, out, err = command(*args)
    assert code == 0, f"{args}: {err}"
    return out


# ---- the command line --------------------------------------------------------------------------

SUBCOMMANDS = {
    "data": ["prepare", "fetch"],
    "compat": ["megatron"],
    "scaling": ["predict", "sweep", "fit"],
    "bench": ["train", "decode", "prefill", "batch", "start", "serve"],
    "eval": ["", "needle"],
}


def cli_options() -> list[str]:
    """A line for each option of each command, as `--help` has it."""
    overview = must("--help")
    lines = [f"ling: {' '.join(row.split())}" for row in overview.splitlines() if row.strip()]
    for name in re.findall(r"^  (\w+) ", overview, re.M):
        for sub in SUBCOMMANDS.get(name, [""]):
            words = [name, sub] if sub else [name]
            lines += [f"{' '.join(words)}: {row}" for row in options(must(*words, "--help"))]
    return lines


def options(text: str) -> list[str]:
    """Entries of a help text in their order, each on one line, without the usage above them."""
    rows: list[str] = []
    for line in text[text.index("\n\n") :].splitlines():
        if re.match(r"  \S", line):
            rows.append(line)
        elif line.startswith("   "):
            rows[-1] += "  " + line.strip()
    return [option(row) for row in rows]


def option(row: str) -> str:
    head, _, text = row.strip().partition("  ")
    # Python 3.13 prints `-p, --prompt PROMPT` where older ones print `-p PROMPT, --prompt PROMPT`.
    if head.startswith("-"):
        *short, last = head.split(", -")
        head = ", -".join([*(s.split()[0] for s in short), last])
    return f"{head} | {' '.join(text.split())}"


# ---- public names ------------------------------------------------------------------------------


def public_names(folder: Path) -> list[str]:
    """Signatures and fields of what users import, and of what it returns."""
    lines = [f"ling.__all__ = {sorted(ling.__all__)}"]
    for name in sorted(ling.__all__):
        if not inspect.isclass(getattr(ling, name)):
            lines.append(f"ling.{name}{signature(getattr(ling, name))}")
    llm = ling.LLM(random_model(folder))
    params = ling.SamplingParams(max_tokens=1, logprobs=1)
    request = llm.generate([[1, 2]], params)[0]
    chunk = next(llm.stream([1, 2], params))
    (scores,) = request.outputs[0].logprobs
    results = [request, request.outputs[0], next(iter(scores.values())), chunk, llm.stats]
    for cls in [ling.LLM, ling.ModelConfig, ling.SamplingParams, *map(type, results)]:
        lines += class_lines(cls)
    for name in dir(llm):
        value = getattr(llm, name)
        if not name.startswith("_") and not callable(value):
            lines.append(f"llm.{name}: {type(value).__name__}")
    for name, cls in sorted(vars(errors).items()):
        if inspect.isclass(cls) and issubclass(cls, Exception):
            bases = ", ".join(b.__name__ for b in cls.__bases__)
            own = f" __init__{signature(cls.__init__)}" if "__init__" in vars(cls) else ""
            lines.append(f"errors.{name}({bases}) exit code {cls.exit_code}{own}")
    return lines


def class_lines(cls: type) -> list[str]:
    name = cls.__name__
    lines = [f"{name}.__init__{signature(cls.__init__)}"]
    if dataclasses.is_dataclass(cls):
        lines = [f"@dataclass {name}{' frozen' if cls.__dataclass_params__.frozen else ''}"]
        lines += [
            f"{name}.{f.name}: {annotation(f.type)}{default(f)}" for f in dataclasses.fields(cls)
        ]
    for member in dir(cls):
        value = inspect.getattr_static(cls, member)
        if member.startswith("_"):
            continue
        if isinstance(value, property):
            lines.append(f"{name}.{member} property{signature(value.fget)}")
        elif isinstance(value, (classmethod, staticmethod)):
            lines.append(f"{name}.{member} {type(value).__name__}{signature(value.__func__)}")
        elif inspect.isfunction(value):
            lines.append(f"{name}.{member}{signature(value)}")
    return lines


def default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return f" = {field.default!r}"
    made = field.default_factory
    return "" if made is dataclasses.MISSING else f" = {made.__name__}()"


def signature(function: Any) -> str:
    return annotation(str(inspect.signature(function)))


def annotation(value: Any) -> str:
    """Without the modules of ours that it names."""
    text = value if isinstance(value, str) else inspect.formatannotation(value)
    return re.sub(r"\bling\.[a-z_.]+\.(?=[A-Z])", "", text)


# ---- conversions -------------------------------------------------------------------------------

DCP = FIXTURES / "dcp" / "tiny"
TO = ["bf16", "float32", "fp8", "int3", "int4", "int4_g32", "int8", "dcp", "megatron", "gguf"]


def conversions() -> dict[str, tuple[str | Path, list[str]]]:
    """Source and options by the name of the folder to write; later ones read earlier ones."""
    jobs: dict[str, tuple[str | Path, list[str]]] = {}
    for to in TO:
        jobs[f"megatron to {to}"] = (DCP / "dcp_in", ["--to", to])
    for mtp in ("separate", "drop"):
        jobs[f"megatron to bf16, {mtp}"] = (DCP / "dcp_in", ["--mtp", mtp])
        jobs[f"megatron to fp8, {mtp}"] = (DCP / "dcp_in", ["--to", "fp8", "--mtp", mtp])
    jobs["megatron to int4, drop"] = (DCP / "dcp_in", ["--to", "int4", "--mtp", "drop"])
    jobs["megatron to gguf q8_0"] = (DCP / "dcp_in", ["--to", "gguf", "--gguf-type", "q8_0"])
    jobs["megatron to bf16, shards"] = (DCP / "dcp_in", ["--max-shard-size", "100KB"])
    jobs["megatron to fp8, float32"] = (DCP / "dcp_in", ["--to", "fp8", "--dtype", "float32"])
    jobs["megatron to dcp, float32"] = (DCP / "dcp_in", ["--to", "dcp", "--dtype", "float32"])
    for name in ("tiny_fp32", "tiny_bf16", "tiny_yarn_fp32", "tiny_nomtp_fp32"):
        source = FIXTURES / "model" / name
        for to in TO if name == "tiny_fp32" else ["bf16", "fp8", "int4", "dcp", "megatron"]:
            jobs[f"{name} to {to}"] = (source, ["--to", to])
    for name in ("hf_bf16", "hf_fp8_mtp"):
        for to in ("bf16", "int4_g32", "int8"):
            jobs[f"{name} to {to}"] = (DCP / name, ["--to", to])
    # Widths that the kernels take: int4 and int8 are the same with and without them.
    for to in TO:
        jobs[f"random to {to}"] = ("bf16", ["--to", to])
    for kind in ("q8_0", "q4_0"):
        jobs[f"random to gguf {kind}"] = ("bf16", ["--to", "gguf", "--gguf-type", kind])
    # And back again.
    for to in TO[2:]:
        source = "megatron to gguf/model.gguf" if to == "gguf" else f"megatron to {to}"
        jobs[f"megatron to {to} to float32"] = (source, ["--to", "float32"])
    jobs["megatron to int4 to int8"] = ("megatron to int4", ["--to", "int8"])
    # What is refused.
    jobs["megatron to int2"] = (DCP / "dcp_in", ["--to", "int2"])
    jobs["megatron to dcp, separate"] = (DCP / "dcp_in", ["--to", "dcp", "--mtp", "separate"])
    jobs["nothing to bf16"] = ("nothing", [])
    return jobs


def converted(folder: Path) -> dict[str, Any]:
    """SHA-256 by file, or the error line, of each conversion."""
    os.chdir(folder)
    random_model(folder)
    found: dict[str, Any] = {}
    for name, (source, more) in conversions().items():
        code, _, err = command("convert", source, name, "--workers", 2, *more)
        error = re.findall(r"^error: .*", err, re.M)
        found |= {name: [code, *error]} if code else hashes(Path(name))
    return found


def hashes(folder: Path) -> dict[str, str]:
    return {str(p): digest(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def digest(path: Path) -> str:
    """SHA-256 of the bytes.

    Pickles of torch's and Python's own classes are compared by what they hold: their bytes also
    depend on torch's version, and on which equal objects happen to be the same one.
    """
    if path.name == ".metadata":
        data = repr(pickle.loads(path.read_bytes())).encode()
    elif path.name == "common.pt":
        data = repr(torch.load(path, weights_only=False)).encode()
    else:
        data = path.read_bytes()
    return hashlib.sha256(data).hexdigest()


# ---- tokens ------------------------------------------------------------------------------------


def random_model(folder: Path) -> Path:
    """`ling-tiny` with weights that are the same on every machine, in bf16 without rounding.

    They are larger than at the start of training, for tokens that depend on all of the model.
    """
    out = folder / "bf16"
    if out.exists():
        return out
    must("synth", "ling-tiny", out, "--to", "bf16")
    (shard,) = out.glob("*.safetensors")
    rng, values = random.Random(5), load_file(shard)
    for name, old in sorted(values.items()):
        whole = torch.from_numpy(np.frombuffer(rng.randbytes(old.numel()), np.int8).copy()).float()
        values[name] = scaled(name, whole).view_as(old).to(old.dtype)
    save_file(values, shard, {"format": "pt"})
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({**config, "eos_token_id": 9}))
    return out


def scaled(name: str, whole: torch.Tensor) -> torch.Tensor:
    """Weights from whole numbers of 8 bits."""
    if name.endswith("norm.weight"):
        return 1 + torch.div(whole, 4, rounding_mode="floor") / 128
    if name.endswith("expert_bias"):
        return whole / 4096
    return whole / (64 if "embeddings" in name else 512 if "lm_head" in name else 1024)


def prompts() -> dict[int, list[int]]:
    """By length; 65 and more begin alike, and pages hold 64."""
    rng = random.Random(11)
    stem = [int(rng.random() * 384) for _ in range(64)]
    lengths = (1, 2, 9, 17, 40, 63, 64, 65, 100, 130)
    tails = {n: [int(rng.random() * 384) for _ in range(n)] for n in lengths}
    return {n: (stem + tail)[:n] if n > 64 else tail for n, tail in tails.items()}


EVERY_THIRD = list(range(0, 384, 3))
# Name: length of the prompt and sampling parameters.
REQUESTS: dict[str, tuple[int, dict[str, Any]]] = {
    "greedy": (9, {"temperature": 0}),
    "greedy, one token": (1, {"temperature": 0}),
    "greedy, a page": (64, {"temperature": 0, "max_tokens": 3}),
    "greedy, pages": (130, {"temperature": 0}),
    "repetition": (17, {"temperature": 0, "repetition_penalty": 1.4}),
    "presence": (40, {"temperature": 0, "presence_penalty": 0.7, "frequency_penalty": 0.5}),
    "seed": (9, {"seed": 1}),
    "temperature": (65, {"temperature": 0.7, "seed": 2}),
    "top-k": (63, {"temperature": 1.5, "top_k": 5, "seed": 3}),
    "top-p": (2, {"top_p": 0.8, "seed": 4}),
    "min-p": (100, {"min_p": 0.1, "seed": -5}),
    "everything": (
        17,
        {
            "temperature": 1.2,
            "top_k": 40,
            "top_p": 0.9,
            "min_p": 0.02,
            "repetition_penalty": 1.1,
            "presence_penalty": -0.5,
            "frequency_penalty": 0.3,
            "seed": 6,
        },
    ),
    "three": (40, {"n": 3, "seed": 7}),
    "three, no seed": (9, {"n": 3, "temperature": 0.9}),
    "stop ids": (64, {"stop_token_ids": EVERY_THIRD, "seed": 8}),
    "min tokens": (64, {"stop_token_ids": EVERY_THIRD, "min_tokens": 9, "seed": 8}),
    "end of text": (17, {"max_tokens": 60, "seed": 9, "min_p": 0.05}),
    "ignore eos": (17, {"max_tokens": 60, "seed": 9, "min_p": 0.05, "ignore_eos": True}),
    "logprobs": (65, {"temperature": 0, "logprobs": 2}),
    "logprobs, sampled": (2, {"logprobs": 2, "seed": 10, "repetition_penalty": 1.2}),
    "prompt logprobs": (17, {"prompt_logprobs": 1, "seed": 11}),
}


# Folder and options of `ling.LLM`; what follows a comma changes no token. Weights packed at load
# are a row of their own: unlike the folder's, their embedding stays in bf16.
ENGINES: dict[str, tuple[str, dict[str, Any]]] = {
    "float32": ("bf16", {"dtype": "float32"}),
    "float32, mtp": ("bf16", {"dtype": "float32", "speculative": "mtp"}),
    "float32 int8kv": ("bf16", {"dtype": "float32", "kv_cache_dtype": "int8"}),
    "bf16": ("bf16", {}),
    "bf16, mtp": ("bf16", {"speculative": "mtp", "num_drafts": 2}),
    "int8": ("int8", {}),
    "int4": ("int4", {}),
    "int4 at load": ("bf16", {"format": "int4"}),
    "int4, mtp": ("int4", {"speculative": "mtp"}),
    "int4 int8kv": ("int4", {"kv_cache_dtype": "int8"}),
    "int4 int8kv, mtp": ("int4", {"kv_cache_dtype": "int8", "speculative": "mtp"}),
}


def tokens(folder: Path, kind: str) -> dict[str, Any]:
    """What each engine answers to all requests at once; `kernels` alone where it cannot be had.

    `kind` is reference (float32) or native. No answer depends on `LING_ISA` so far.
    """
    torch.set_num_threads(1)  # no token depends on it, and a busy machine is quicker
    found: dict[str, Any] = {"kernels": json.loads(must("doctor", "--json"))["kernels"]}
    if kind == "native" and not found["kernels"].startswith(
        f"native/{os.environ.get('LING_ISA', '')}"
    ):
        return found
    random_model(folder)
    for fmt in ("int4", "int8"):
        if not (folder / fmt).exists():
            must("convert", folder / "bf16", folder / fmt, "--to", fmt)
    listed = prompts()
    asked = [listed[n] for n, _ in REQUESTS.values()]
    params = [ling.SamplingParams(**{"max_tokens": 12, **p}) for _, p in REQUESTS.values()]
    for name, (place, settings) in ENGINES.items():
        if ("dtype" in settings) == (kind == "reference"):
            done = ling.LLM(folder / place, seed=3, **settings).generate(asked, params)
            found[name] = {k: answer(d) for k, d in zip(REQUESTS, done, strict=True)}
    return found


def answer(done: Any) -> dict[str, Any]:
    outputs = [[o.token_ids, o.finish_reason, o.stop_reason] for o in done.outputs]
    scores = [o.logprobs for o in done.outputs if o.logprobs is not None]
    if done.prompt_logprobs is not None:
        assert done.prompt_logprobs[0] is None
        scores.append(done.prompt_logprobs[1:])
    rows = [[[i, x.rank, round(x.logprob, 6)] for i, x in m.items()] for s in scores for m in s]
    return {"outputs": outputs} | ({"logprobs": rows} if rows else {})


# ---- training ----------------------------------------------------------------------------------


def losses(folder: Path) -> dict[str, Any]:
    """What 20 steps log, and hashes of the tokens that they see."""
    corpus(folder / "words.jsonl")
    settings = ["--data.corpus", folder / "words.jsonl", "--train.steps", 20]
    found: dict[str, Any] = {}
    for dtype in ("float32", "bfloat16"):
        out = folder / dtype
        must("pretrain", RECIPE, "--out", out, *settings, "--train.dtype", dtype)
        rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        found[dtype] = {
            key: [row[key] for row in rows if key in row]
            for key in ("loss", "mtp_loss", "grad_norm", "lr", "tokens", "valid_loss")
        }
    data = sorted((folder / "float32" / "data").glob("*.bin"))
    found["data"] = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in data}
    return found


def corpus(path: Path) -> None:
    """300 texts of made-up words; only `random()` is promised to give the same in every Python."""
    rng = random.Random(3)
    parts = ["ka", "lo", "mi", "ter", "an", "su", "re", "po", "dit", "e", "gu", "shi"]
    words = ["".join(parts[int(rng.random() * 12)] for _ in range(1 + i % 4)) for i in range(400)]
    with path.open("w") as file:
        for _ in range(300):
            text = " ".join(words[int(400 * rng.random() ** 3)] for _ in range(250))
            file.write(json.dumps({"text": text}) + "\n")


if __name__ == "__main__":
    job, *rest = sys.argv[1:]
    arguments = [Path(rest[0]), *rest[1:]] if rest else []
    print(json.dumps(globals()[job](*arguments)))
