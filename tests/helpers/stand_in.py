"""A hub on this machine: what huggingface_hub and modelscope-hub ask of theirs, and failures."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class StandIn:
    """Serves `files` of repository `org/name`; the attributes below make it fail."""

    def __init__(self, files: dict[str, bytes], repository: str = "org/name") -> None:
        self.files, self.repository = files, repository
        self.requests: list[tuple[str, str, str | None]] = []
        """Method, path and Range of every request."""
        self.token: str | None = None
        """Only requests with this token are answered; others get 401."""
        self.authorized_storage = 0
        """Requests to the storage that carried a token; it must never see one."""
        self.cut: dict[str, int] = {}
        """Files whose body ends after this many bytes, with a broken connection."""
        self.stall: dict[str, int] = {}
        """Files whose body stops after this many bytes, with the connection open."""
        self.corrupt: set[str] = set()
        """Files that are served with one byte changed."""
        self.claimed_size: dict[str, int] = {}
        """Sizes that the listing gives instead of the true ones."""
        self.commit = COMMIT
        """What the listing calls the commit."""
        self.extra: list[dict[str, object]] = []
        """More entries of the listing, as they are: `path`, `size`, `sha256`, `sha1`."""
        self.answer: bytes | None = None
        """The body of every answer of the API, instead of what it should be."""
        self.location: dict[str, str] = {}
        """Where requests for these files are sent; "listing" is the API itself."""
        self.headers: dict[str, str] = {}
        """Added to, or put in place of, the headers of small files."""
        self.longer: dict[str, int] = {}
        """Files that go on for this many bytes beyond their size."""
        self._release = threading.Event()

    def __enter__(self) -> StandIn:
        stand_in = self

        class Handler(_Handler):
            hub = stand_in

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._release.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def is_large(self, name: str) -> bool:
        """Large files lie in a storage behind a redirect, as on the real hub."""
        return name.endswith(".safetensors")

    def sha256(self, name: str) -> str:
        return hashlib.sha256(self.files[name]).hexdigest()

    def git_sha1(self, name: str) -> str:
        data = self.files[name]
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    def size(self, name: str) -> int:
        return self.claimed_size.get(name, len(self.files[name]))

    def ranges(self, name: str) -> list[str | None]:
        """The Range of every body that was asked for this file."""
        places = (f"/storage/{name}", f"/resolve/{COMMIT}/{name}", f"FilePath={name}")
        return [r for method, path, r in self.requests if method == "GET" and path.endswith(places)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: StandIn

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub, url = self.hub, urlsplit(self.path)
        path, query = unquote(url.path), parse_qs(url.query)
        hub.requests.append((self.command, unquote(self.path), self.headers.get("Range")))
        authorization = self.headers.get("Authorization")
        if path.startswith("/storage/"):
            hub.authorized_storage += authorization is not None
            return self._file(path.removeprefix("/storage/"))
        if hub.token is not None and authorization != f"Bearer {hub.token}":
            return self._json({"error": "Invalid username or password."}, 401)
        if "listing" in hub.location and path.startswith("/api/"):
            return self._send(302, b"", {"Location": hub.location["listing"]})
        if hub.answer is not None and path.startswith("/api/"):
            return self._send(200, hub.answer, {"Content-Type": "application/json"})
        if path.startswith(f"/api/models/{hub.repository}"):
            return self._hf_api(path.removeprefix(f"/api/models/{hub.repository}"))
        if path.startswith(f"/{hub.repository}/resolve/"):
            _, name = path.removeprefix(f"/{hub.repository}/resolve/").split("/", 1)
            return self._hf_file(name)
        if path == f"/api/v1/models/{hub.repository}/repo/files":
            return self._ms_files(query)
        if path == f"/api/v1/models/{hub.repository}/repo":
            return self._file(query["FilePath"][0])
        headers = {"X-Error-Code": "RepoNotFound"} if "/api/v1/" not in path else {}
        self._json({"error": "Repository not found", "Code": 10010205205}, 404, headers)

    # ---- Hugging Face --------------------------------------------------------------------------

    def _hf_api(self, rest: str) -> None:
        hub = self.hub
        if rest.startswith("/revision/") and rest.split("/")[2] not in ("main", COMMIT):
            return self._json({"error": "Revision"}, 404, {"X-Error-Code": "RevisionNotFound"})
        entries = [(name, hub.size(name), hub.is_large(name)) for name in hub.files]
        if rest.startswith("/tree/"):
            listing = [
                {"type": "file", "path": n, "size": s, "oid": hub.git_sha1(n)}
                | ({"lfs": {"oid": hub.sha256(n), "size": s, "pointerSize": 130}} if large else {})
                for n, s, large in entries
            ]
            return self._json(listing)
        siblings = [
            {"rfilename": n, "size": s, "blobId": hub.git_sha1(n)}
            | ({"lfs": {"sha256": hub.sha256(n), "size": s, "pointerSize": 130}} if large else {})
            for n, s, large in entries
        ]
        siblings += [
            {"rfilename": e["path"], "size": e["size"], "blobId": e.get("sha1")}
            | (
                {"lfs": {"sha256": e["sha256"], "size": e["size"], "pointerSize": 1}}
                if "sha256" in e
                else {}
            )
            for e in hub.extra
        ]
        self._json({"id": hub.repository, "sha": hub.commit, "siblings": siblings})

    def _hf_file(self, name: str) -> None:
        hub = self.hub
        if name not in hub.files:
            return self._json({"error": "Entry"}, 404, {"X-Error-Code": "EntryNotFound"})
        headers = {"X-Repo-Commit": COMMIT}
        if name in hub.location:
            return self._send(302, b"", {**headers, "Location": hub.location[name]})
        if not hub.is_large(name):
            own = {**headers, "ETag": f'"{hub.git_sha1(name)}"', **hub.headers}
            return self._file(name, own)
        headers |= {"X-Linked-ETag": f'"{hub.sha256(name)}"', "X-Linked-Size": str(hub.size(name))}
        # Another host name, so that a client must not send its token on.
        port = hub.url.rsplit(":", 1)[1]
        headers["Location"] = f"http://localhost:{port}/storage/{name}"
        self._send(302, b"", headers)

    # ---- ModelScope ----------------------------------------------------------------------------

    def _ms_files(self, query: dict[str, list[str]]) -> None:
        hub = self.hub
        if query["Revision"][0] not in ("master", "v1"):
            return self._json({"Code": 10010205204, "Message": "revision not found"}, 404)
        files = [
            {"Path": n, "Name": n, "Type": "blob", "Size": hub.size(n), "Sha256": hub.sha256(n)}
            for n in hub.files
        ]
        files += [
            {"Path": e["path"], "Name": e["path"], "Type": "blob", "Size": e["size"]}
            | {"Sha256": e.get("sha256", "")}
            for e in hub.extra
        ]
        self._json({"Code": 200, "Success": True, "Data": {"Files": files}})

    # ---- bodies --------------------------------------------------------------------------------

    def _file(self, name: str, headers: dict[str, str] | None = None) -> None:
        hub, data = self.hub, self.hub.files[name]
        data += bytes(hub.longer.get(name, 0))
        if name in hub.corrupt:
            data = data[:-1] + bytes([data[-1] ^ 1])
        total, begin, status = len(data), 0, 200
        headers = {"ETag": f'"{hub.git_sha1(name)}"', "Accept-Ranges": "bytes", **(headers or {})}
        asked = self.headers.get("Range")
        if asked:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            begin, end = int(first), int(last) + 1 if last else total
            status, data = 206, data[begin:end]
            headers["Content-Range"] = f"bytes {begin}-{begin + len(data) - 1}/{total}"
        self._send(status, data, headers, self._limit(name, begin))

    def _limit(self, name: str, begin: int) -> int | None:
        """How many of the bytes from `begin` on are sent; each failure happens once."""
        for failures in (self.hub.cut, self.hub.stall):
            if name in failures and failures[name] > begin and self.command == "GET":
                self._stalls = failures is self.hub.stall
                return failures.pop(name) - begin
        return None

    def _json(
        self, value: object, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        body = json.dumps(value).encode()
        self._send(status, body, {"Content-Type": "application/json", **(headers or {})})

    def _send(
        self, status: int, body: bytes, headers: dict[str, str], limit: int | None = None
    ) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body if limit is None else body[:limit])
        if limit is not None:
            self.wfile.flush()
            if self._stalls:
                self.hub._release.wait(60)
            self.close_connection = True
