"""Addresses to listen on."""

from __future__ import annotations

import ipaddress
import socket

from ..errors import UsageError
from ..text import printable


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; raises `UsageError` for an address that is not available."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):
        raise UsageError(
            f"`host` is `{printable(host)}`, not a known host name or address"
        ) from None
    # asyncio sends small pieces at once (TCP_NODELAY) only on sockets that name their protocol.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # Listening now keeps a second server off the port while this one still loads.
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise UsageError(f"cannot listen on {host} port {port}: {error.strerror}") from None
    return listener


def is_loopback(listener: socket.socket) -> bool:
    """Whether only this machine reaches the socket."""
    return ipaddress.ip_address(listener.getsockname()[0].split("%")[0]).is_loopback


def base_url(host: str, listener: socket.socket) -> str:
    """The URL that clients of the OpenAI API want for a socket on `host`."""
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{listener.getsockname()[1]}/v1"
