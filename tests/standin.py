"""A stand-in for the hub: the HTTP endpoints that huggingface_hub asks, with faults on demand."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = 1000
"""Files of this size and more are stored apart from git, as on the hub: known by their SHA-256, served elsewhere."""


class Hub:
    """Repositories in memory.

    Attributes:
        repositories: files by repository, revision and path.
        gated: repositories that need ``token``.
        faults: by path, what happens to its next downloads: ``cut`` (the connection breaks half way), ``flip`` (a byte
            is wrong), ``fail`` (status 500); used up from the left, ``None`` is no fault.
        requests: method, path and headers of every request.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {}
        self.gated: set[str] = set()
        self.token = "hf_secret"
        self.faults: dict[str, list[str | None]] = defaultdict(list)
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.url = self.apart = ""

    def add(self, repository: str, files: dict[str, bytes], revision: str = "main") -> None:
        self.repositories.setdefault(repository, {})[revision] = files

    def downloads(self, name: str) -> list[dict[str, str]]:
        """Headers of the GET requests for a file's bytes."""
        return [
            headers
            for method, path, headers in self.requests
            if method == "GET" and not path.startswith("/api/") and path.endswith(f"/{name}")
        ]

    @contextmanager
    def serving(self) -> Iterator[Hub]:
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        self.url, self.apart = (f"http://{host}:{server.server_port}" for host in ("127.0.0.1", "localhost"))
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def commit(revision: str) -> str:
    return hashlib.sha1(revision.encode()).hexdigest()


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _sibling(path: str, data: bytes) -> dict[str, Any]:
    about: dict[str, Any] = {"rfilename": path, "size": len(data), "blobId": git_hash(data)}
    if len(data) >= LARGE:
        about["lfs"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "pointerSize": 134}
    return about


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append((self.command, path, dict(self.headers)))
            first, *parts = path.strip("/").split("/")
            if first == "api":
                self.about(parts[1:]) if parts[0] == "models" else self.refuse(404, "")
            elif first == "apart":
                self.send_bytes(parts[-1], self.find(*parts[:3], "/".join(parts[3:])))
            else:
                owner, name, _, revision, *file = [first, *parts]
                self.resolve(f"{owner}/{name}", revision, "/".join(file))

        def allowed(self, repository: str, revision: str) -> bool:
            if repository not in hub.repositories:
                return self.refuse(404, "RepoNotFound")
            known = hub.repositories[repository]
            if revision not in known and revision not in map(commit, known):
                return self.refuse(404, "RevisionNotFound")
            return True

        def granted(self, repository: str) -> bool:
            return repository not in hub.gated or self.headers.get("Authorization") == f"Bearer {hub.token}"

        def find(self, owner: str, name: str, revision: str, file: str) -> bytes:
            known = hub.repositories[f"{owner}/{name}"]
            return known[next(each for each in known if revision in (each, commit(each)))][file]

        def about(self, parts: list[str]) -> None:
            owner, name, *rest = parts
            repository, revision = f"{owner}/{name}", rest[1] if len(rest) > 1 else "main"
            if rest == ["auth-check"]:
                self.send(200, b"", {}) if self.granted(repository) else self.refuse(403, "GatedRepo")
            elif self.allowed(repository, revision):
                files = hub.repositories[repository][revision]
                body = {
                    "id": repository,
                    "sha": commit(revision),
                    "tags": ["license:mit"],
                    "gated": "auto" if repository in hub.gated else False,
                    "siblings": [_sibling(path, data) for path, data in files.items()],
                }
                self.send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

        def resolve(self, repository: str, revision: str, file: str) -> None:
            if not self.allowed(repository, revision):
                return
            if not self.granted(repository):
                self.refuse(403, "GatedRepo")
                return
            owner, name = repository.split("/")
            try:
                data = self.find(owner, name, revision, file)
            except KeyError:
                self.refuse(404, "EntryNotFound")
                return
            headers = {"X-Repo-Commit": commit(revision), "ETag": f'"{git_hash(data)}"'}
            if len(data) < LARGE:
                self.send_bytes(file, data, headers)
                return
            headers |= {
                "X-Linked-Etag": f'"{hashlib.sha256(data).hexdigest()}"',
                "X-Linked-Size": str(len(data)),
                "Location": f"{hub.apart}/apart/{repository}/{revision}/{file}",
            }
            self.send(302, b"", headers)

        def send_bytes(self, file: str, data: bytes, headers: dict[str, str] | None = None) -> None:
            headers = headers or {}
            faults = hub.faults[file.split("/")[-1]] if self.command == "GET" else []
            fault = faults.pop(0) if faults else None
            if fault == "fail":
                self.refuse(500, "")
                return
            if fault == "flip":
                middle = len(data) // 2
                data = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
            status = 200
            if requested := self.headers.get("Range"):
                start = int(requested.removeprefix("bytes=").partition("-")[0])
                headers = headers | {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
                data, status = data[start:], 206
            self.send(status, data, headers, cut=fault == "cut")

        def refuse(self, status: int, code: str) -> bool:
            self.send(status, b"", {"X-Error-Code": code} if code else {})
            return False

        def send(self, status: int, body: bytes, headers: dict[str, str], *, cut: bool = False) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body[: len(body) // 2] if cut else body)

    return Handler
