"""The web page: a fixed table of its files. No path is ever made of what a request says."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import Response

FOLDER = Path(__file__).parent / "page"
_TEXT = "text/plain; charset=utf-8"
_SCRIPT = "text/javascript; charset=utf-8"
_SCRIPTS = (
    "api",
    "app",
    "arguments",
    "calls",
    "dom",
    "grid",
    "highlight",
    "map",
    "markdown",
    "message",
    "settings",
    "shell",
    "sidebar",
    "store",
    "theme",
    "trace",
    "tree",
    "turn",
    "vendor/marked.esm",
)
FILES: dict[str, tuple[str, str]] = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page/style.css": ("style.css", "text/css; charset=utf-8"),
    "/page/icon.svg": ("icon.svg", "image/svg+xml"),
    "/page/vendor/marked.LICENSE.txt": ("vendor/marked.LICENSE.txt", _TEXT),
    **{f"/page/{name}.js": (f"{name}.js", _SCRIPT) for name in _SCRIPTS},
}
"""File and type of each path."""
PATHS = frozenset(FILES)
"""Paths that need no API key: the files are the same for everybody."""

# No script or style but our own files, nothing from other hosts, no frame around the page, and no
# way for a script to turn text into markup (`trusted-types 'none'`).
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    # The browser asks each time whether its copy is still right, so that an update is never mixed.
    "Cache-Control": "no-cache",
}


def make_page() -> APIRouter:
    """An endpoint for each file, read once."""
    router = APIRouter(include_in_schema=False)
    for path, (name, media_type) in FILES.items():
        router.get(path)(_endpoint((FOLDER / name).read_bytes(), media_type))
    return router


def _endpoint(content: bytes, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {**HEADERS, "ETag": etag}

    async def file(request: Request) -> Response:
        known = request.headers.get("if-none-match", "").split(",")
        if etag in (tag.strip().removeprefix("W/") for tag in known):
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type=media_type)

    return file
