"""Hugging Face through `huggingface_hub`: its cache layout, tokens, mirrors and offline switch.

The library starts a file again when a process dies in the middle of it, which for a shard is
gigabytes, and names files by what the hub's headers say, wherever that leads. So files are
fetched here, into `<blob>.part` that the next try continues with, checked against the listing and
linked as the library does, which then finds them.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import urlsplit

from ..errors import LingError, RunError, UsageError
from ..files.atomic import write_atomic
from ..files.guarded import read_regular
from ..text import first_line
from .files import RemoteFile

_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_REVISION = re.compile(r"[\w][\w./+-]{0,199}", re.ASCII)


class HuggingFace:
    """One model repository on Hugging Face or a mirror (`HF_ENDPOINT`)."""

    def __init__(
        self, repository: str, local_dir: Path | None, cache_dir: Path | None, offline: bool
    ) -> None:
        from huggingface_hub import constants

        self.repository, self.local_dir = repository, local_dir
        self.cache_dir = cache_dir or Path(constants.HF_HUB_CACHE)
        self.offline = offline or constants.HF_HUB_OFFLINE
        self.revision, self.commit = "main", ""

    @property
    def _storage(self) -> Path:
        return self.cache_dir / f"models--{self.repository.replace('/', '--')}"

    def files(self, revision: str | None) -> list[RemoteFile]:
        """The listing of a revision; fixes its commit for what follows."""
        from huggingface_hub import HfApi

        self.revision = _checked_revision(revision or self.revision)
        with self._as_ling_errors(unreachable=_blocked()):
            info = HfApi().model_info(self.repository, revision=self.revision, files_metadata=True)
        self.commit = str(info.sha)
        if not _COMMIT.fullmatch(self.commit):  # it becomes the name of a folder
            raise RunError(f"hf:{self.repository}: the hub names the commit {info.sha!r:.80}")
        with self._as_ling_errors():
            return [
                RemoteFile(
                    s.rfilename,
                    0 if s.size is None else s.size,
                    sha256=s.lfs.sha256 if s.lfs else None,
                    git_sha1=None if s.lfs else s.blob_id,
                )
                for s in info.siblings or []
            ]

    def folder(self) -> Path:
        """The local folder, or the snapshot in the cache."""
        return self.local_dir or self._storage / "snapshots" / self.commit

    def fetch(self, files: list[RemoteFile]) -> None:
        """Each file resumably; in the cache also its link, and the commit for offline use."""
        with self._as_ling_errors():
            for file in files:
                self._fetch(file)
                if self.local_dir is None:
                    self._link(file)
            if self.local_dir is None and self.revision != self.commit:
                ref = self._storage / "refs" / self.revision
                ref.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(ref, self.commit)

    def bytes_here(self, file: RemoteFile) -> int:
        """Bytes of the file that need not come again: of another revision, or of an earlier try."""
        final, part = self._places(file)
        if self.local_dir is None and final.is_file() and final.stat().st_size == file.size:
            return file.size
        return min(part.stat().st_size, file.size) if part.is_file() else 0

    def _places(self, file: RemoteFile) -> tuple[Path, Path]:
        home = self.local_dir or self._storage / "blobs"
        digest = file.sha256 or file.git_sha1 or f"{self.commit}-{file.name}"
        final = home / (file.name if self.local_dir else digest)
        return final, final.with_name(final.name + ".part")

    def _link(self, file: RemoteFile) -> None:
        """The file's name in the snapshot, replacing whatever had it."""
        folder, (blob, _) = self.folder(), self._places(file)
        folder.mkdir(parents=True, exist_ok=True)
        new = folder / f"{file.name}.link"
        new.unlink(missing_ok=True)
        try:
            new.symlink_to(Path("..", "..", "blobs", blob.name))
        except OSError:  # a file system without links
            shutil.copyfile(blob, new)
        os.replace(new, folder / file.name)

    def _fetch(self, file: RemoteFile) -> None:
        final, part = self._places(file)
        if self.local_dir is None and final.is_file() and final.stat().st_size == file.size:
            return  # of another revision
        final.parent.mkdir(parents=True, exist_ok=True)
        with _open_part(part) as out, _only_one(out.fileno(), part):
            try:
                self._append_all(file, _Limited(out, file))
                if out.tell() != file.size:
                    raise RunError(f"{file.name}: {out.tell()} bytes came of {file.size}")
                out.flush()
                file.check_hash(part)
            except RunError:
                part.unlink()  # going on with wrong bytes can never end well
                raise
        os.replace(part, final)

    def _append_all(self, file: RemoteFile, out: _Limited) -> None:
        """Go on after broken connections for as long as each try brings something."""
        while out.tell() < file.size:
            before = out.tell()
            try:
                return self._append_rest(file, out)
            except LingError:
                raise
            except Exception:  # what a broken connection raises depends on the library's version
                if out.tell() <= before:
                    raise

    def _append_rest(self, file: RemoteFile, out: _Limited) -> None:
        from huggingface_hub import get_hf_file_metadata, hf_hub_url
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import build_hf_headers

        url = hf_hub_url(self.repository, file.name, revision=self.commit)
        location = get_hf_file_metadata(url).location
        if urlsplit(location).scheme not in ("http", "https"):
            raise RunError(f"{file.name}: the hub sends us to {location!r:.100}, not to the web")
        # The storage behind a redirect has signed addresses; the token is for the hub alone.
        headers = build_hf_headers(token=None if location == url else False)
        http_get(
            location,
            cast(BinaryIO, out),
            resume_size=out.tell(),
            headers=headers,
            expected_size=file.size,
            displayed_filename=file.name,
        )

    def local(self, revision: str | None) -> Path:
        """The snapshot of an earlier download."""
        if self.local_dir is not None:
            return self.local_dir
        self.revision = _checked_revision(revision or self.revision)
        ref = self._storage / "refs" / self.revision
        try:
            commit = read_regular(ref, 100).decode().strip()
        except (OSError, ValueError):  # none there, or not what names a commit
            commit = self.revision
        folder = self._storage / "snapshots" / commit
        if not _COMMIT.fullmatch(commit) or not folder.is_dir():
            raise UsageError(
                f"hf:{self.repository}: config.json is not in {self._storage} and the network is "
                "off; download once without `--offline` or HF_HUB_OFFLINE"
            )
        return folder

    @contextmanager
    def _as_ling_errors(self, unreachable: str = "{reason}; run again to go on") -> Iterator[None]:
        """Turn what the library raises into one line; what it raises differs by version.

        `unreachable` is what to say, after a `{reason}`, when no answer came.
        """
        from huggingface_hub import errors

        where = f"hf:{self.repository}"
        try:
            yield
        except LingError:
            raise
        except errors.GatedRepoError:
            raise UsageError(
                f"{where}: asks for consent first; give it there, set HF_TOKEN"
            ) from None
        except errors.RepositoryNotFoundError:
            raise UsageError(f"{where}: no such model, or HF_TOKEN may not read it") from None
        except errors.RevisionNotFoundError:
            raise UsageError(f"{where}: no revision `{self.revision}`") from None
        except errors.EntryNotFoundError as err:
            raise RunError(f"{where}: {first_line(err)}") from None
        except errors.HfHubHTTPError as err:
            status = getattr(err.response, "status_code", None)
            if status in (401, 403):
                raise UsageError(
                    f"{where}: access refused ({status}); is HF_TOKEN right, or does a proxy "
                    "block the hub?"
                ) from None
            raise RunError(f"{where}: the hub answered {status}: {first_line(err)}") from None
        except OSError as err:
            reason = err.strerror or first_line(err)
            raise RunError(f"{where}: {unreachable.format(reason=reason)}") from None
        except Exception as err:  # the HTTP library's own family, which changed twice
            reason = re.sub(r"^\[Errno -?\d+\] ", "", first_line(err))
            raise RunError(f"{where}: {unreachable.format(reason=reason)}") from None


def _blocked() -> str:
    """What to say of a hub that does not answer at all, with the ways around it."""
    from huggingface_hub import constants

    return (
        f"{constants.ENDPOINT} cannot be reached ({{reason}}); is it blocked here? Set HF_ENDPOINT "
        "to a mirror or HTTPS_PROXY, try `ling download --hub modelscope`, or copy a folder that "
        "was downloaded elsewhere"
    )


def _checked_revision(revision: str) -> str:
    """A branch, tag or commit: it becomes the name of a file."""
    if not _REVISION.fullmatch(revision) or ".." in revision:
        raise UsageError(f"`--revision` is `{revision:.80}`, expected a branch, a tag or a commit")
    return revision


class _Limited:
    """A file being written that refuses more bytes than the hub listed."""

    def __init__(self, out: BinaryIO, file: RemoteFile) -> None:
        self._out, self._file = out, file
        if self.tell() > file.size:
            out.truncate(0)

    def write(self, data: bytes) -> int:
        if self.tell() + len(data) > self._file.size:
            raise RunError(f"{self._file.name}: more came than the {self._file.size} bytes listed")
        return self._out.write(data)

    def tell(self) -> int:
        return self._out.seek(0, os.SEEK_END)

    def seek(self, at: int) -> int:
        return self._out.seek(at)

    def truncate(self) -> int:
        return self._out.truncate()


def _open_part(part: Path) -> BinaryIO:
    """To append to; never through a link, which would lead out of the cache."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(part, flags, 0o644)
    except OSError as err:
        reason = "a link is in the way" if err.errno == errno.ELOOP else err.strerror
        raise RunError(f"{part}: {reason}") from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise RunError(f"{part}: not a regular file")
    return os.fdopen(fd, "ab")


@contextmanager
def _only_one(fd: int, part: Path) -> Iterator[None]:
    """Two processes appending to one file would mix their bytes."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise RunError(f"{part}: another download is writing it") from None
    try:
        yield
    finally:
        os.fsync(fd)
        fcntl.flock(fd, fcntl.LOCK_UN)
