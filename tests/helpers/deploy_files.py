"""The files of `deploy/`, and nginx's with replicas on this machine."""

from __future__ import annotations

from pathlib import Path

DEPLOY = Path(__file__).parents[2] / "deploy"


def text(name: str) -> str:
    return (DEPLOY / name).read_text()


def nginx_conf(folder: Path, ports: list[int], listen: int) -> Path:
    """The configuration with replicas at `ports`, all that it writes in `folder`."""
    conf = text("nginx.conf").replace("listen 8080", f"listen 127.0.0.1:{listen}")
    for n, port in enumerate(ports, 1):
        conf = conf.replace(f"server ling-{n}:8000", f"server 127.0.0.1:{port}")
    conf = conf.replace("/run/nginx.pid", f"{folder}/nginx.pid")
    conf = conf.replace("/dev/stdout", f"{folder}/access.log")
    path = folder / "nginx.conf"
    path.write_text(conf.replace("/dev/stderr", f"{folder}/error.log"))
    return path
