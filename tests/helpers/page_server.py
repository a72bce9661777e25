"""The web page before a scripted model: what a conversation gets is told by its last message."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse

from ling.serve.guard import PROBES, Guard, Rules
from ling.serve.keys import Keys
from ling.serve.page import PATHS, make_page

LAYERS, EXPERTS, TOP = 19, 256, 8
Script = Callable[[dict], "list[dict] | JSONResponse"]


def say(text: str, **fields) -> dict:
    """A delta of an answer."""
    return {"delta": {"content": text}, **fields}


def words(text: str) -> list[dict]:
    """An answer, a word at a time."""
    return [say(part) for part in text.replace(" ", " \0").split("\0")]


def think(text: str) -> list[dict]:
    return [{"delta": {"reasoning_content": part}} for part in text.replace(" ", " \0").split("\0")]


def call(index: int, name: str, arguments: str) -> list[dict]:
    """The deltas of a tool call, its arguments in two parts."""
    opened = {"index": index, "id": f"call_{index}", "type": "function"}
    opened["function"] = {"name": name, "arguments": ""}
    half = len(arguments) // 2
    parts = [
        {"index": index, "function": {"arguments": a}} for a in (arguments[:half], arguments[half:])
    ]
    return [{"delta": {"tool_calls": [c]}} for c in (opened, *parts)]


def routed(token: int) -> dict:
    """Experts of one token: those of layer l begin at 7 · l + token."""
    ids = np.empty((1, LAYERS, TOP), "<i4")
    for layer in range(LAYERS):
        ids[0, layer] = (7 * layer + token + 13 * np.arange(TOP)) % EXPERTS
    weights = np.broadcast_to(np.linspace(0.6, 0.1, TOP, dtype="<f4"), ids.shape)
    return {
        "routed_experts": base64.b64encode(ids.tobytes()).decode(),
        "routed_expert_weights": base64.b64encode(weights.tobytes()).decode(),
        "routed_experts_shape": list(ids.shape),
    }


class PageServer:
    """A server in a thread; `scripts` maps a message to its answer, `bodies` are the requests."""

    def __init__(self, *, api_key: str | None = None, step_s: float = 0.004) -> None:
        self.scripts: dict[str, Script] = {}
        self.bodies: list[dict] = []
        self.left = threading.Event()
        self._step_s = step_s
        self.app = FastAPI()
        self.app.include_router(make_page())
        self._add_api()
        keys = Keys([api_key] if api_key else [])
        self.app.add_middleware(Guard, rules=Rules(keys=keys, open_paths=PROBES | PATHS))
        config = uvicorn.Config(self.app, port=0, log_level="error", lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> PageServer:
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._server.force_exit = True
        self._thread.join(5)

    def on(self, message: str, answer: list[dict] | Script) -> None:
        """What the model says to a message."""
        self.scripts[message] = answer if callable(answer) else lambda body: answer

    def _add_api(self) -> None:
        @self.app.get("/v1/models")
        async def models() -> dict:
            return {"object": "list", "data": [{"id": "ling-mini-2.0", "max_model_len": 32768}]}

        @self.app.get("/v1/experts")
        async def experts() -> dict:
            layers = list(range(1, LAYERS + 1))
            return {"layers": layers, "num_experts": EXPERTS, "num_experts_per_tok": TOP}

        @self.app.post("/v1/chat/completions")
        async def chat(request: Request):
            body = await request.json()
            self.bodies.append(body)
            answer = self.scripts[body["messages"][-1]["content"]](body)
            if isinstance(answer, JSONResponse):
                return answer
            return StreamingResponse(self._stream(answer, body), media_type="text/event-stream")

    async def _stream(self, answer: list[dict], body: dict) -> Iterator[str]:
        sent = 0
        try:
            for sent, part in enumerate(answer, 1):
                await asyncio.sleep(self._step_s)
                yield _event(_choice(part, sent, body))
            yield _event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
            details = {"prompt_tokens_details": {"cached_tokens": 64}}
            usage = {"prompt_tokens": 90, "completion_tokens": sent, "total_tokens": 90 + sent}
            yield _event({"choices": [], "usage": {**usage, **details}})
            yield "data: [DONE]\n\n"
        finally:
            if sent < len(answer):
                self.left.set()


def _choice(part: dict, sent: int, body: dict) -> dict:
    choice = {"index": 0, **part}
    if body.get("return_routed_experts"):
        text = part["delta"].get("content") or part["delta"].get("reasoning_content") or ""
        choice["logprobs"] = {"content": [{"token": text, "logprob": -0.5}]}
        choice |= routed(sent - 1)
    return {"choices": [choice]}


def _event(value: dict) -> str:
    return f"data: {json.dumps(value)}\n\n"
