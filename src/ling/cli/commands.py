"""The table of commands; apart from `main` so that the parser can name them."""

from __future__ import annotations

from typing import NamedTuple


class Command(NamedTuple):
    """The file of this folder and the function in it, and what `ling --help` says."""

    file: str
    function: str
    summary: str


COMMANDS = {
    "quickstart": Command(
        "train", "quickstart", "train, convert and run a small Ling on this machine, in minutes"
    ),
    "nano": Command(
        "nano", "nano", "make ling-nano, the small model of the package, from its corpus on; hours"
    ),
    "pretrain": Command(
        "train",
        "pretrain",
        "train from a recipe (a name or YAML file, dotted overrides); rerun to resume",
    ),
    "sft": Command(
        "sft",
        "sft",
        "fine-tune on conversations or pairs, all weights or an adapter (LoRA, QLoRA, DPO)",
    ),
    "plan": Command(
        "plan",
        "plan",
        "memory, speed and cost of a recipe or preset on GPUs, before it runs; best layouts",
    ),
    "recipes": Command("train", "recipes", "the recipes that come with the package"),
    "data": Command(
        "train",
        "data",
        "`data prepare`: text or source code to token files; `data check`: conversations; "
        "`data fetch`: public text by name",
    ),
    "compat": Command(
        "compat",
        "compat",
        "`compat megatron SCRIPT.sh`: a launch script of Megatron-LM as a recipe",
    ),
    "merge": Command("train", "merge", "average the last checkpoints of a run (WSM)"),
    "report": Command(
        "report", "report", "one HTML page that compares runs: losses, speed, experts"
    ),
    "download": Command(
        "convert", "download", "a model's files from Hugging Face or ModelScope, verified"
    ),
    "convert": Command("convert", "convert", "checkpoint to Hugging Face folder, and back"),
    "verify": Command("convert", "verify", "check a model folder, or compare two"),
    "inspect": Command("convert", "inspect", "parameters and bytes of a preset or a model folder"),
    "generate": Command("generate", "generate", "continue a prompt"),
    "chat": Command("chat", "chat", "talk to a model, or to a server's, in the terminal"),
    "serve": Command("serve", "serve", "OpenAI-compatible HTTP server"),
    "deploy": Command(
        "serve", "deploy", "`deploy vllm|sglang MODEL`: the command line that serves it on GPUs"
    ),
    "eval": Command(
        "evaluate",
        "evaluate",
        "models by tasks: perplexity, questions, benchmarks; `eval needle`: long contexts",
    ),
    "synth": Command(
        "convert", "synth", "random weights of a whole shape, straight in a format, for measuring"
    ),
    "bench": Command(
        "measure",
        "bench",
        "`bench train|decode|prefill|batch|start|serve`: measured speed, also against llama.cpp",
    ),
    "scaling": Command(
        "scaling",
        "scaling",
        "`scaling predict`: the published scaling laws; `scaling sweep`: runs of a grid; "
        "`scaling fit`: laws of their results",
    ),
    "reproduce": Command(
        "reproduce",
        "reproduce",
        "`reproduce CLAIM|all [--quick]`: the published claims, measured here, a page for each",
    ),
    "doctor": Command("measure", "doctor", "what this installation can do, and why not more"),
    "completion": Command(
        "completion", "completion", "`completion bash|zsh|fish`: a script for the shell, to source"
    ),
}
