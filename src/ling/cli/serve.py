"""Commands that serve: serve, deploy."""

from __future__ import annotations

import sys

from ..config.engine import EngineConfig, ServeConfig, flags
from .options import (
    add_flags,
    config_from,
    given_sampling,
    make_parser,
    model_options,
    naming_flags,
    sampling_options,
    say,
    use_threads,
)


def serve(args: list[str]) -> int:
    parser = make_parser("serve")
    model_options(parser)
    sampling_options(parser, "serve", "defaults")
    add_flags(parser, flags(ServeConfig), log_level="info")
    ns = parser.parse_args(args)
    from ..serve.app import serve

    if ns.api_key is not None:
        print(
            "warning: process lists show the key of --api-key; use --api-key-file FILE or "
            "LING_API_KEY",
            file=sys.stderr,
        )
    sampling = given_sampling(ns)
    use_threads(ns.threads)
    with naming_flags("max_memory", "cache_dir_size", "lora"):
        return serve(
            ns.model, config_from(ns, ServeConfig), config_from(ns, EngineConfig), sampling
        )


def deploy(args: list[str]) -> None:
    parser = make_parser("deploy")
    parser.add_argument("engine", type=str, help="vllm or sglang")
    parser.add_argument("model", type=str, help="model folder, bf16 or fp8")
    parser.add_argument(
        "--context", type=int, default=None, help="longest context in tokens; YaRN where needed"
    )
    parser.add_argument(
        "--gpus", type=int, default=None, help="GPUs to use; how they share the model is chosen"
    )
    parser.add_argument(
        "--gpu", type=str, default=None, help="their kind, such as h100-80g, which must have room"
    )
    parser.add_argument(
        "--tensor-parallel", type=int, default=None, help="GPUs that share every matrix"
    )
    parser.add_argument("--speculative", type=str, default="mtp", help="mtp or off")
    parser.add_argument("--draft-tokens", type=int, default=1, help="tokens drafted per step")
    parser.add_argument("--output", type=str, default="command", help="command, compose or k8s")
    parser.add_argument("--json", action="store_true", help="print JSON")
    ns = parser.parse_args(args)
    from ..plugins.deploy import deploy

    report = deploy(
        ns.engine,
        ns.model,
        context=ns.context,
        gpus=ns.gpus,
        gpu=ns.gpu,
        tensor_parallel=ns.tensor_parallel,
        speculative=ns.speculative,
        draft_tokens=ns.draft_tokens,
        output=ns.output,
    )
    result = report.get("file", report["command"])
    text = "\n".join([*(f"# {note}" for note in report["notes"]), result])
    say(report, ns.json, text)
