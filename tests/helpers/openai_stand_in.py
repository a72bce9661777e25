"""An OpenAI-compatible server that answers as it is told, in a thread or (run as a program) in a
process of its own: `python openai_stand_in.py PORT [MODE]`."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

NAME = "stand-in"
# Prompts have this many tokens before their words, which have `TOKENS_PER_WORD` each.
TEMPLATE_TOKENS, TOKENS_PER_WORD = 5, 3


DEEP = b"[" * 200_000
_ODD = (
    b'{"choices": [{"delta": {"content": "\\ud800\\u00e9", "tool_calls": 5}}]}',
    b'{"choices": "none"}',
    b'{"choices": [{"delta": [], "finish_reason": {}}]}',
    b"[DONE]",
)
# Streams as no server should send them.
STREAMS = {
    "deep": (b"data: " + DEEP + b"\n\n",),
    "endless": (b"data: " + b"x" * 100_000, *[b"x" * 100_000] * 300),
    "odd": tuple(b"data: " + event + b"\n\n" for event in _ODD),
}


class OpenAIStandIn:
    """Answers every request with as many tokens as it asks for, unless `mode` says otherwise.

    `short` sends half of them, `error` an error event after two, `flaky` one at every second
    request, `cut` hangs up after two, `busy` is 429, `hang` sends nothing, `die` ends the process
    at the fifth request, `no-usage` counts nothing, `unauthorized` refuses every key but "secret",
    `not-openai` knows no path, `loading` is 503 at /health for half a second; `deep-models` and
    `deep-refusal` answer with JSON too deep to read, and so do the streams of `STREAMS`.
    """

    def __init__(self, mode: str = "ok", *, port: int = 0, token_s: float = 0.0) -> None:
        self.mode, self.token_s = mode, token_s
        self.bodies: list[dict[str, Any]] = []
        self.in_flight = self.most_in_flight = 0
        self.lock = threading.Lock()
        self.begin = time.monotonic()
        self._release = threading.Event()

        class Handler(_Handler):
            stand_in = self

        self._server = _Server(("127.0.0.1", port), Handler)
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> OpenAIStandIn:
        threading.Thread(target=self.serve, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._release.set()
        self._server.shutdown()
        self._server.server_close()

    def serve(self) -> None:
        self._server.serve_forever(poll_interval=0.02)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that has seen enough hangs up; a traceback would be taken for its words.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    stand_in: OpenAIStandIn

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        side = self.stand_in
        if side.mode == "unauthorized" and self.headers.get("Authorization") != "Bearer secret":
            return self._json({"error": {"message": "no key"}}, 401)
        if side.mode == "not-openai":
            return self._json({"detail": "Not Found"}, 404)
        if self.path == "/health":
            loading = side.mode == "loading" and time.monotonic() < side.begin + 0.5
            return self._json({}, 503 if loading else 200)
        if side.mode == "deep-models":
            return self._body(DEEP, 200)
        return self._json({"data": [{"id": NAME}]})

    def do_POST(self) -> None:
        side = self.stand_in
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/tokenize":
            return self._json({"tokens": [1, 2]})
        with side.lock:
            side.bodies.append(body)
            side.in_flight += 1
            side.most_in_flight = max(side.most_in_flight, side.in_flight)
        try:
            self._answer(body)
        finally:
            with side.lock:
                side.in_flight -= 1

    def _answer(self, body: dict[str, Any]) -> None:
        side, mode = self.stand_in, self.stand_in.mode
        if mode == "busy":
            return self._json({"error": {"message": "too many requests"}}, 429)
        if mode == "deep-refusal":
            return self._body(DEEP, 400)
        if mode == "die" and len(side.bodies) >= 5:
            os._exit(3)
        if mode == "hang":
            side._release.wait(20)
            self.close_connection = True
            return None
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if mode in STREAMS:
            with contextlib.suppress(OSError):  # the client has had enough
                for piece in (*STREAMS[mode], b""):
                    self._chunk(piece)
            return None
        asked, is_chat = body["max_tokens"], "messages" in body
        if is_chat:
            self._event({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
        count = asked // 2 if mode == "short" else asked
        for i in range(count):
            if i == 2 and mode == "cut":
                self.close_connection = True
                return None
            if i == 2 and (mode == "error" or (mode == "flaky" and len(side.bodies) % 2)):
                self._event({"error": {"message": "scores are not finite"}})
                break
            time.sleep(side.token_s)
            text = f" w{i}"
            self._event({"choices": [{"delta": {"content": text}} if is_chat else {"text": text}]})
        if mode != "no-usage":
            usage = {"prompt_tokens": prompt_tokens(body), "completion_tokens": count}
            cached = {"prompt_tokens_details": {"cached_tokens": 7}}
            self._event({"choices": [], "usage": usage | cached})
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")
        return None

    def _event(self, value: dict[str, Any]) -> None:
        self._chunk(b"data: " + json.dumps(value).encode() + b"\n\n")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def _json(self, value: object, status: int = 200) -> None:
        self._body(json.dumps(value).encode(), status)

    def _body(self, data: bytes, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def prompt_tokens(body: dict[str, Any]) -> int:
    """What its tokenizer makes of a prompt."""
    texts = [m["content"] for m in body.get("messages", [])] or [body["prompt"]]
    if isinstance(texts[0], list):
        return len(texts[0])
    return TEMPLATE_TOKENS + TOKENS_PER_WORD * sum(len(text.split()) for text in texts)


if __name__ == "__main__":
    OpenAIStandIn(sys.argv[2] if len(sys.argv) > 2 else "ok", port=int(sys.argv[1])).serve()
