"""llama.cpp's own server on one GGUF file, from the prebuilt wheel `xllamacpp`.

    pip install xllamacpp                                    # in an environment of its own
    python benchmarks/llama_server.py model.gguf --port 8081 --parallel 32 --context 448

It answers like `llama-server`, and ends with the first SIGTERM or SIGINT; `--context` are the
tokens of each of the `--parallel` sequences. `ling bench serve URL --against` starts it with
`{port}` in place of the port. How many different experts such a file makes llama.cpp choose is
printed by `ling bench batch PRESET --against llama.cpp`. The wheel is built without AVX-512, as the
second line printed shows; one compiled on the machine itself is faster.
"""

from __future__ import annotations

import argparse
import signal
import threading

import xllamacpp

FLASH = xllamacpp.llama_flash_attn_type
FLASH_TYPES = {
    "auto": FLASH.LLAMA_FLASH_ATTN_TYPE_AUTO,
    "on": FLASH.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    "off": FLASH.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}


def parse() -> argparse.Namespace:
    """The flags; those that llama-server has too are named alike."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="GGUF file")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--parallel", type=int, default=32, help="sequences at once")
    parser.add_argument("--context", type=int, default=512, help="tokens of each sequence")
    parser.add_argument("--ubatch", type=int, default=512, help="tokens of one forward pass")
    parser.add_argument("--flash-attn", choices=FLASH_TYPES, default="auto")
    parser.add_argument("--no-repack", action="store_true", help="weights as in the file")
    parser.add_argument("--cache-ram", type=int, default=0, help="MiB for prompts of the past")
    return parser.parse_args()


def params_of(args: argparse.Namespace) -> xllamacpp.CommonParams:
    """llama.cpp's settings."""
    params = xllamacpp.CommonParams()
    params.model.path = args.model
    params.port, params.n_parallel = args.port, args.parallel
    params.n_ctx = args.parallel * args.context
    params.n_ubatch = args.ubatch
    params.n_batch = max(2048, args.ubatch)
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = args.threads
    params.flash_attn_type = FLASH_TYPES[args.flash_attn]
    params.no_extra_bufts = args.no_repack
    params.cache_ram_mib = args.cache_ram
    params.kv_unified = False  # requests are strangers: each has its own cache
    params.ui = False
    return params


def main() -> None:
    """Serve until a signal."""
    args = parse()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    server = xllamacpp.Server(params_of(args))
    print(f"llama.cpp: serving {args.model} on {server.listening_address}", flush=True)
    print(xllamacpp.get_system_info(), flush=True)
    ended.wait()


if __name__ == "__main__":
    main()
