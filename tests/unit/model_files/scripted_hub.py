"""A hub of this process: the part of the real one's HTTP interface that its client needs."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Answer(NamedTuple):
    """What the hub says instead of what was asked for."""

    status: int
    code: str


UNKNOWN_REPOSITORY = Answer(404, "RepoNotFound")
UNKNOWN_REVISION = Answer(404, "RevisionNotFound")
GATED = Answer(403, "GatedRepo")
BROKEN = Answer(500, "")


class ScriptedHub:
    """Serves directories as repositories.

    Args:
        repositories: by name; each has one commit, which is called "main", "v1" and `COMMIT`.
        listing: what every question about a repository is answered with, if not with the truth.
        files: what every request for a file is answered with, if not with the file.

    Attributes:
        asked: every path that was asked for, in order.
        fetched: every file that was sent, by its path in its repository.
    """

    def __init__(
        self,
        repositories: Mapping[str, Path],
        *,
        listing: Answer | None = None,
        files: Answer | None = None,
    ) -> None:
        self.repositories = repositories
        self.listing = listing
        self.files = files
        self.asked: list[str] = []
        self.fetched: list[str] = []
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.hub = self

    @property
    def address(self) -> str:
        """What HF_ENDPOINT is to be."""
        return f"http://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def serving(self) -> Iterator["ScriptedHub"]:
        """Serves on a thread while the block runs."""
        thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()

    def answer(self, path: str) -> Answer | bytes | Path:
        """What a path leads to: JSON, a file, or a refusal."""
        self.asked.append(path)
        match path.strip("/").split("/"):
            case ["api", "models", owner, name, "revision", revision]:
                return self._repository(f"{owner}/{name}", revision) or _json(
                    {"id": f"{owner}/{name}", "sha": COMMIT, "siblings": [], "tags": []}
                )
            case ["api", "models", owner, name, "tree", revision]:
                return self._repository(f"{owner}/{name}", revision) or _json(
                    [
                        {"type": "file", "path": str(file), "size": size, "oid": _etag(str(file))}
                        for file, size in _files(self.repositories[f"{owner}/{name}"])
                    ]
                )
            case [owner, name, "resolve", revision, *names]:
                refused = self.files or self._repository(f"{owner}/{name}", revision)
                return refused or self.repositories[f"{owner}/{name}"].joinpath(*names)
        return Answer(404, "EntryNotFound")

    def _repository(self, name: str, revision: str) -> Answer | None:
        if name not in self.repositories:
            return UNKNOWN_REPOSITORY
        if revision not in ("main", "v1", COMMIT):
            return UNKNOWN_REVISION
        return self.listing


class _Server(ThreadingHTTPServer):
    hub: ScriptedHub


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        self._reply(with_body=True)

    def do_HEAD(self) -> None:
        self._reply(with_body=False)

    def log_message(self, *_: object) -> None:
        """Keeps the tests' output to themselves."""

    def _reply(self, *, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        answer = self.server.hub.answer(path)
        if isinstance(answer, Path) and with_body:
            self.server.hub.fetched.append(path.partition(f"/resolve/{COMMIT}/")[2])
        if isinstance(answer, Answer):
            self.send_response(answer.status)
            self.send_header("X-Error-Code", answer.code)
            body = b"{}"
        else:
            self.send_response(200)
            body = answer if isinstance(answer, bytes) else answer.read_bytes()
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{_etag(path)}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)


def _files(directory: Path) -> Iterator[tuple[Path, int]]:
    for file in sorted(directory.rglob("*")):
        if file.is_file():
            yield file.relative_to(directory), file.stat().st_size


def _etag(path: str) -> str:
    return hashlib.sha1(path.encode()).hexdigest()


def _json(value: object) -> bytes:
    return json.dumps(value).encode()
