"""The app on a real socket, for clients that open connections of their own."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import uvicorn

from ling.serve.app import create_app
from ling.serve.connection import Connection
from ling.serve.sockets import listen


@contextlib.contextmanager
def served(llm, name: str = "scripted", **options) -> Iterator[str]:
    """The server's address without a path, as long as the block runs."""
    app = create_app(llm, served_model_name=name, **options)
    settings = uvicorn.Config(app, http=Connection, lifespan="off", log_level="warning")
    server = uvicorn.Server(settings)
    with listen("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)
            app.state.service.close()
