"""Speed of llama.cpp on one GGUF file: prefill, decoding at a context, batched decoding.

Needs only `llama-cpp-python` and the standard library, so it runs in a process (and an
environment) of its own:

    python src/ling/eval/peer_llama.py model.gguf --prefill 512 --context 4096 --batch 1 4
    python src/ling/eval/peer_llama.py model.gguf --context 4096 --requests

With `--requests` it reads `{"what": "prefill", "tokens": 512}` or `{"what": "decode", "tokens": 32,
"context": 4096, "batch": 1}` from standard input and answers each with one line, keeping model and
contexts between them: that is how two engines are measured in turn, with prefill paid once.
`{"what": "experts", "sequences": 16, "tokens": 1}` counts the different experts that random tokens
choose, in this many sequences of this many tokens.
The first line printed describes the setting.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import random
import sys
import time
from collections.abc import Iterator
from typing import Any

import llama_cpp as lib
from llama_cpp._ggml import libggml

ON_OFF = {"on": True, "off": False}


class Tensor(ctypes.Structure):
    """The head of `ggml_tensor`: type, buffer, sizes and strides, the fastest first."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("sizes", ctypes.c_int64 * 4),
        ("strides", ctypes.c_size_t * 4),
    )


class ChosenExperts:
    """Reads the ids of chosen experts, a tensor of each layer, while a graph is computed."""

    NAME = b"ffn_moe_topk"

    def __init__(self) -> None:
        self.layers: dict[bytes, set[int]] = {}
        self.callback = lib.ggml_backend_sched_eval_callback(self._seen)
        self._name = libggml.ggml_get_name
        self._name.argtypes, self._name.restype = [ctypes.c_void_p], ctypes.c_char_p
        self._get = libggml.ggml_backend_tensor_get
        self._get.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
        self._get.restype = None

    def _seen(self, address: int, is_question: bool, _: object) -> bool:
        """Asked before a tensor is computed whether it is wanted, and called again after that."""
        name: bytes = self._name(address)
        if not is_question:
            tensor = Tensor.from_address(address)
            row = (ctypes.c_int32 * tensor.sizes[0])()
            for i in range(tensor.sizes[1]):
                self._get(address, row, i * tensor.strides[1], ctypes.sizeof(row))
                self.layers.setdefault(name, set()).update(row)
        return name.startswith(self.NAME)


class Peer:
    """A model and its KV state; sequence s of `batch` holds `context` tokens plus what decodes."""

    def __init__(self, args: argparse.Namespace) -> None:
        lib.llama_backend_init()
        model_params = lib.llama_model_default_params()
        model_params.use_extra_bufts = ON_OFF[args.repack]
        start = time.perf_counter()
        self.model = lib.llama_model_load_from_file(os.fsencode(args.model), model_params)
        if not self.model:
            raise SystemExit(f"{args.model}: llama.cpp cannot load it")
        self.load_s = time.perf_counter() - start
        self.vocab = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self.model))
        self.random = random.Random(args.seed)
        self.batch_size = args.ubatch
        self.num_shared = 0  # tokens of the shared prompt in every sequence
        params = lib.llama_context_default_params()
        params.n_seq_max = max([1, *args.batch])
        room = max([*args.prefill, args.context + args.decode, args.ubatch])
        params.n_ctx = params.n_seq_max * -(-room // 256) * 256
        params.n_batch = params.n_ubatch = args.ubatch
        params.n_threads = params.n_threads_batch = args.threads
        params.flash_attn_type = int(ON_OFF[args.flash])
        params.kv_unified = False  # requests are strangers: each has its own cache
        self.context = lib.llama_init_from_model(self.model, params)
        if not self.context:
            raise SystemExit(f"{args.model}: no context of {params.n_ctx} tokens")
        self.memory = lib.llama_get_memory(self.context)
        self.batch = lib.llama_batch_init(args.ubatch, 0, params.n_seq_max)
        self.sequences = params.n_seq_max

    def prefill(self, tokens: int) -> dict[str, Any]:
        """Tokens per second of a prompt of random tokens, from an empty cache."""
        lib.llama_memory_clear(self.memory, True)
        self.num_shared = -1  # no prompt is left
        return {"seconds": (seconds := self._prompt(tokens)), "tokens_per_s": tokens / seconds}

    def decode(self, tokens: int, context: int, batch: int) -> dict[str, Any]:
        """Steps of `batch` sequences, one token each, after `context` tokens of prompt."""
        self._share_prompt(context)
        times = []
        for i in range(tokens):
            start = time.perf_counter()
            self._run([(s, context + i, True) for s in range(batch)])
            times.append(time.perf_counter() - start)
        for s in range(batch):
            lib.llama_memory_seq_rm(self.memory, s, context, -1)
        total = sum(times)
        step = sorted(times)[len(times) // 2]
        return {"seconds": total, "tokens_per_s": batch * tokens / total, "median_step_s": step}

    def experts(self, sequences: int, tokens: int) -> dict[str, Any]:
        """Mean number of different experts that a layer reads in one pass of random tokens."""
        chosen, count = ChosenExperts(), sequences * tokens
        params = lib.llama_context_default_params()
        params.n_seq_max, params.kv_unified = sequences, False
        params.n_ctx = sequences * -(-tokens // 256) * 256
        params.n_batch = params.n_ubatch = count
        params.cb_eval = chosen.callback
        # A context of its own: to be asked about each operation would slow the measured one down.
        context = lib.llama_init_from_model(self.model, params)
        batch = lib.llama_batch_init(count, 0, 1)
        batch.n_tokens = count
        for i in range(count):
            batch.token[i] = self.random.randrange(self.vocab)
            batch.seq_id[i][0], batch.pos[i] = divmod(i, tokens)
            # The last layer leaves rows out that no logits are wanted of.
            batch.n_seq_id[i], batch.logits[i] = 1, True
        if code := lib.llama_decode(context, batch):
            raise SystemExit(f"llama_decode failed with {code}")
        lib.llama_get_logits(context)
        lib.llama_batch_free(batch)
        lib.llama_free(context)
        layers = [len(ids) for ids in chosen.layers.values()]
        return {"layers": layers, "experts": sum(layers) / len(layers) if layers else 0.0}

    def _share_prompt(self, context: int) -> None:
        if self.num_shared == context:
            return
        lib.llama_memory_clear(self.memory, True)
        self._prompt(context)
        for s in range(1, self.sequences):
            lib.llama_memory_seq_cp(self.memory, 0, s, -1, -1)
        self._run([(0, context, True)])  # the copies are made now, not in the first measured step
        lib.llama_memory_seq_rm(self.memory, 0, context, -1)
        self.num_shared = context

    def _prompt(self, tokens: int) -> float:
        start = time.perf_counter()
        for at in range(0, tokens, self.batch_size):
            end = min(at + self.batch_size, tokens)
            self._run([(0, i, i == tokens - 1) for i in range(at, end)])
        return time.perf_counter() - start

    def _run(self, slots: list[tuple[int, int, bool]]) -> None:
        """One forward pass over (sequence, position, wants logits)."""
        batch = self.batch
        batch.n_tokens = len(slots)
        for i, (sequence, position, wanted) in enumerate(slots):
            batch.token[i] = self.random.randrange(self.vocab)
            batch.pos[i], batch.n_seq_id[i] = position, 1
            batch.seq_id[i][0], batch.logits[i] = sequence, wanted
        if code := lib.llama_decode(self.context, batch):
            raise SystemExit(f"llama_decode failed with {code}")
        if any(wanted for _, _, wanted in slots):
            lib.llama_get_logits(self.context)  # waits for the result


def requests(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What to measure: the lines of standard input, or what the flags ask for."""
    if args.requests:
        yield from (json.loads(line) for line in sys.stdin)
        return
    for _ in range(args.repeat):
        for tokens in args.prefill:
            yield {"what": "prefill", "tokens": tokens}
    for batch in args.batch:
        for _ in range(args.repeat):
            decode = {"what": "decode", "tokens": args.decode, "context": args.context}
            yield decode | {"batch": batch}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="GGUF file")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--flash", choices=ON_OFF, default="off", help="flash attention")
    parser.add_argument("--repack", choices=ON_OFF, default="on", help="weights repacked at load")
    parser.add_argument("--prefill", type=int, nargs="*", default=[], help="prompt lengths")
    parser.add_argument("--context", type=int, default=0, help="tokens before decoding starts")
    parser.add_argument("--decode", type=int, default=32, help="steps of one decode measurement")
    parser.add_argument("--batch", type=int, nargs="*", default=[1], help="sequences at once")
    parser.add_argument("--ubatch", type=int, default=512, help="tokens of one forward pass")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--requests", action="store_true", help="read requests from stdin")
    parser.add_argument("--verbose", action="store_true", help="llama.cpp's own log on stderr")
    return parser.parse_args(argv)


@lib.llama_log_callback
def _silent(level: int, text: bytes, data: ctypes.c_void_p) -> None:
    """Drops llama.cpp's log."""


def main() -> None:
    """Measure and print JSON lines."""
    args = parse()
    if not args.verbose:
        lib.llama_log_set(_silent, ctypes.c_void_p(0))
    with open(os.devnull, "w") as null, contextlib.ExitStack() as stack:
        if not args.verbose:  # some parts of ggml print past its log
            stack.enter_context(contextlib.redirect_stderr(null))
        peer = Peer(args)
    system = lib.llama_print_system_info().decode()
    setting = {k: getattr(args, k) for k in ("model", "threads", "flash", "repack", "ubatch")}
    facts = {"load_s": peer.load_s, "bytes": os.path.getsize(args.model), "system": system}
    print(json.dumps({"what": "setting", **setting, **facts}), flush=True)
    peer.prefill(16)  # first use allocates
    for request in requests(args):
        kwargs = {k: v for k, v in request.items() if k != "what"}
        measures: dict[str, Any] = {
            "prefill": peer.prefill,
            "decode": peer.decode,
            "experts": peer.experts,
        }
        result = measures[request["what"]](**kwargs)
        print(json.dumps(request | result), flush=True)


if __name__ == "__main__":
    main()
