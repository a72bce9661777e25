"""Hugging Face through `huggingface_hub`: its cache layout, tokens, mirrors and offline switch.

The library starts a file anew when a process dies in the middle of it, which for a shard is
gigabytes. So large files are fetched here first, into `<blob>.part` that the next try goes on with,
and put where the library looks before it downloads; it adds the small files and the links.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import LingError, RunError, UsageError
from .files import RemoteFile, first_line


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

        self.revision = revision or self.revision
        with self._as_ling_errors():
            info = HfApi().model_info(self.repository, revision=self.revision, files_metadata=True)
        self.commit = str(info.sha)
        return [
            RemoteFile(
                s.rfilename,
                s.size or 0,
                sha256=s.lfs.sha256 if s.lfs else None,
                git_sha1=None if s.lfs else s.blob_id,
            )
            for s in info.siblings or []
        ]

    def folder(self) -> Path:
        """The local folder, or the snapshot in the cache."""
        return self.local_dir or self._storage / "snapshots" / self.commit

    def fetch(self, files: list[RemoteFile]) -> None:
        """Large files resumably, then the rest and the links by the library."""
        from huggingface_hub import snapshot_download

        with self._as_ling_errors():
            for file in files:
                if file.sha256:
                    self._fetch_large(file)
            # By the revision's name, which makes the library note its commit for offline use.
            snapshot_download(
                self.repository,
                revision=self.revision,
                allow_patterns=[f.name for f in files],
                local_dir=self.local_dir,
                cache_dir=None if self.local_dir else self.cache_dir,
            )

    def bytes_here(self, file: RemoteFile) -> int:
        """Bytes of the file that need not come again: of another revision, or of an earlier try."""
        if file.sha256:
            final, part = self._places(file)
            for path in (final, part):
                if path.is_file():
                    return min(path.stat().st_size, file.size)
        return 0

    def _places(self, file: RemoteFile) -> tuple[Path, Path]:
        home = self.local_dir or self._storage / "blobs"
        final = home / (file.name if self.local_dir else str(file.sha256))
        return final, final.with_name(final.name + ".part")

    def _fetch_large(self, file: RemoteFile) -> None:
        final, part = self._places(file)
        if final.exists():
            return
        final.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as out, _only_one(out.fileno(), part):
            self._append_all(file, out)
        try:
            if part.stat().st_size != file.size:
                raise RunError(f"{file.name}: {part.stat().st_size} bytes came of {file.size}")
            file.check_hash(part)
        except RunError:
            part.unlink()  # going on with wrong bytes can never end well
            raise
        part.rename(final)

    def _append_all(self, file: RemoteFile, out: Any) -> None:
        """Go on after broken connections for as long as each try brings something."""
        while True:
            before = out.tell()
            try:
                return self._append_rest(file, out)
            except Exception:  # what a broken connection raises depends on the library's version
                if out.tell() <= before:
                    raise

    def _append_rest(self, file: RemoteFile, out: Any) -> None:
        from huggingface_hub import get_hf_file_metadata, hf_hub_url
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import build_hf_headers

        url = hf_hub_url(self.repository, file.name, revision=self.commit)
        done = out.tell()
        if done > file.size:
            out.truncate(0)
            done = 0
        location = get_hf_file_metadata(url).location
        # The storage behind a redirect has signed addresses; the token is for the hub alone.
        headers = build_hf_headers(token=None if location == url else False)
        http_get(
            location,
            out,
            resume_size=done,
            headers=headers,
            expected_size=file.size,
            displayed_filename=file.name,
        )

    def local(self, revision: str | None) -> Path:
        """The snapshot of an earlier download."""
        if self.local_dir is not None:
            return self.local_dir
        self.revision = revision or self.revision
        ref = self._storage / "refs" / self.revision
        commit = ref.read_text().strip() if ref.is_file() else self.revision
        folder = self._storage / "snapshots" / commit
        if not folder.is_dir():
            raise UsageError(
                f"hf:{self.repository}: config.json is not in {self._storage} and the network is "
                "off; download once without `--offline` or HF_HUB_OFFLINE"
            )
        return folder

    @contextmanager
    def _as_ling_errors(self) -> Iterator[None]:
        """Turn what the library raises into one line; what it raises differs by version."""
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
                    f"{where}: access refused ({status}); is HF_TOKEN right?"
                ) from None
            raise RunError(f"{where}: the hub answered {status}: {first_line(err)}") from None
        except OSError as err:
            raise RunError(
                f"{where}: {err.strerror or first_line(err)}; run again to go on"
            ) from None
        except Exception as err:  # the HTTP library's own family, which changed twice
            raise RunError(f"{where}: {first_line(err)}; run again to go on") from None


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
