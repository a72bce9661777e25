"""Commands that serve: serve, deploy."""

from __future__ import annotations

from .options import (
    make_parser,
    model_options,
    say,
    use_threads,
)


def serve(args: list[str]) -> int:
    parser = make_parser("serve")
    model_options(parser)
    parser.add_argument("--host", type=str, default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--served-model-name", type=str, default=None)
    parser.add_argument("--api-key", type=str, default=None, help="or the variable LING_API_KEY")
    ns = parser.parse_args(args)
    from ..serve.app import serve

    use_threads(ns.threads)
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


def deploy(args: list[str]) -> None:
    parser = make_parser("deploy")
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
    from ..plugins.deploy import deploy

    report = deploy(
        ns.engine,
        ns.model,
        context=ns.context,
        tensor_parallel=ns.tensor_parallel,
        speculative=ns.speculative,
        draft_tokens=ns.draft_tokens,
    )
    text = "\n".join([*(f"# {note}" for note in report["notes"]), report["command"]])
    say(report, ns.json, text)
