"""ModelScope through `modelscope-hub`, which resumes partial files and checks hashes itself."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import LingError, RunError, UsageError
from ..text import first_line
from .files import RemoteFile

_DEFAULT_REVISION = "master"


class ModelScope:
    """One model repository on ModelScope (`MODELSCOPE_ENDPOINT`, `MODELSCOPE_API_TOKEN`)."""

    def __init__(
        self, repository: str, local_dir: Path | None, cache_dir: Path | None, offline: bool
    ) -> None:
        self._api = _library().HubApi()
        self.repository, self.local_dir = repository, local_dir
        self.cache_dir = cache_dir or Path(_library().config.HubConfig().cache_dir)
        # It has no switch of its own; who turns one hub off means the network.
        switch = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
        self.offline = offline or switch.upper() in ("1", "ON", "YES", "TRUE")
        self.revision = _DEFAULT_REVISION

    def files(self, revision: str | None) -> list[RemoteFile]:
        """The listing of a revision."""
        self.revision = revision or _DEFAULT_REVISION
        with self._as_ling_errors():
            found = self._api.list_repo_files(self.repository, "model", revision=self.revision)
            return [RemoteFile(f.path, f.size, sha256=f.sha256 or None) for f in found]

    def folder(self) -> Path:
        """The local folder, or the snapshot where the library's own cache has it."""
        repository = self.repository.replace("/", "--")
        cached = self.cache_dir / "models" / repository / "snapshots" / self.revision
        return self.local_dir or cached

    def bytes_here(self, file: RemoteFile) -> int:
        """Unknown: where the library keeps partial files is its own affair."""
        return 0

    def fetch(self, files: list[RemoteFile]) -> None:
        """Download by the library, which continues partial files and checks sizes and hashes."""
        with self._as_ling_errors():
            self._api.download_repo(
                self.repository,
                "model",
                revision=self.revision,
                local_dir=self.folder(),
                allow_patterns=[f.name for f in files],
            )

    def local(self, revision: str | None) -> Path:
        """The folder of an earlier download."""
        self.revision = revision or _DEFAULT_REVISION
        return self.folder()

    @contextmanager
    def _as_ling_errors(self) -> Iterator[None]:
        from modelscope_hub import errors

        where = f"modelscope:{self.repository}"
        try:
            yield
        except errors.NotExistError:
            raise UsageError(f"{where}: no such model or revision `{self.revision}`") from None
        except (errors.AuthenticationError, errors.PermissionDeniedError):
            raise UsageError(f"{where}: access refused; is MODELSCOPE_API_TOKEN right?") from None
        except errors.FileDownloadError as err:
            name, reason = next(iter(err.failed_files.items()))
            raise RunError(f"{where}: {name}: {first_line(reason)}; run again to go on") from None
        except LingError:
            raise
        except Exception as err:  # also what the library makes of an answer that is none
            raise RunError(f"{where}: {first_line(err)}; run again to go on") from None


def _library() -> Any:
    try:
        import modelscope_hub
        import modelscope_hub.config
    except ImportError:
        raise UsageError('ModelScope needs `pip install "ling[modelscope]"`') from None
    # What it logs as errors is raised too and becomes one line of ours.
    logging.getLogger("modelscope_hub").setLevel(logging.CRITICAL)
    return modelscope_hub
