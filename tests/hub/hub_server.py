"""A stand-in for the Hub on this machine: enough of its HTTP interface to load models and data sets, and to push.

It answers what ``huggingface_hub`` asks for (file resolution with revision, etag and commit; model and tree listings;
repository creation, pre-upload and commit; tokens) and records every request. Files are taken inline, never through a
large-file store.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

GOOD_TOKEN = "hf_goodtokengoodtokengoodtoken"
USER = "user"


@dataclass
class Repository:
    """Commits by id and branches or tags by name; a commit maps paths to contents."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], ref: str = "main") -> str:
        """Make ``files`` the content of ``ref`` and give the commit's id."""
        digest = hashlib.sha1(ref.encode())
        for path, content in sorted(files.items()):
            digest.update(path.encode() + content)
        self.commits[digest.hexdigest()] = files
        self.refs[ref] = digest.hexdigest()
        return digest.hexdigest()

    def find(self, revision: str) -> str | None:
        """Give the commit a revision names: a branch, a tag, or a commit's id."""
        return self.refs.get(revision, revision if revision in self.commits else None)


class Hub:
    """Repositories by id, and what was asked: ``"GET /api/models/user/model"``."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []
        self.endpoint = ""

    def add(self, repo_id: str, folder: Path, *, private: bool = False) -> Repository:
        """Publish the files of a folder."""
        files = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
        repository = self.repositories.setdefault(repo_id, Repository(private))
        repository.commit(files)
        return repository


@contextmanager
def serving() -> Iterator[Hub]:
    """Run a hub on a free local port for the length of a block."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.hub.requests.append(f"{self.command} /{path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token != GOOD_TOKEN:
            return self._refuse(401, None, "Invalid credentials in Authorization header")
        parts = path.split("/")
        if parts[0] == "datasets":
            parts = parts[1:]
        if parts[0] == "api":
            return self._api(parts[1:], body, signed=bool(token))
        if len(parts) > 4 and parts[2] == "resolve":
            return self._resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]), signed=bool(token))
        return self._refuse(404, None, "Not found")

    def _resolve(self, repo_id: str, revision: str, filename: str, *, signed: bool) -> None:
        repository, commit = self._found(repo_id, revision, signed=signed)
        if repository is None or commit is None:
            return None
        content = repository.commits[commit].get(filename)
        if content is None:
            return self._refuse(404, "EntryNotFound", "Entry not found", commit)
        return self._send(200, content, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": commit})

    def _found(self, repo_id: str, revision: str, *, signed: bool) -> tuple[Repository | None, str | None]:
        """Give a repository and commit, or answer as the Hub does: an unknown and a private one look the same."""
        repository = self.hub.repositories.get(repo_id)
        if repository is None or (repository.private and not signed):
            self._refuse(404 if signed else 401, "RepoNotFound", "Repository not found")
            return None, None
        commit = repository.find(revision)
        if commit is None:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repository, commit

    def _api(self, parts: list[str], body: bytes, *, signed: bool) -> None:
        if parts == ["whoami-v2"]:
            if not signed:
                return self._refuse(401, None, "Invalid username or password.")
            return self._json({"type": "user", "name": USER, "orgs": [], "auth": {"type": "access_token"}})
        if parts == ["validate-yaml"]:
            return self._json({"errors": [], "warnings": []})
        if self.command == "POST" and not signed:
            return self._refuse(401, None, "Invalid username or password.")
        if parts == ["repos", "create"]:
            return self._create(json.loads(body))
        if parts[0] in ("models", "datasets") and len(parts) >= 3:
            return self._model("/".join(parts[1:3]), parts[3:], body, signed=signed)
        return self._refuse(404, None, "Not found")

    def _create(self, asked: dict[str, Any]) -> None:
        repo_id = f"{asked.get('organization') or USER}/{asked['name']}"
        url = f"{self.hub.endpoint}/{repo_id}"
        if repo_id in self.hub.repositories:
            return self._json({"url": url, "error": "You already created this model repo"}, status=409)
        self.hub.repositories[repo_id] = Repository(bool(asked.get("private")))
        self.hub.repositories[repo_id].commit({})
        return self._json({"url": url, "name": repo_id})

    def _model(self, repo_id: str, rest: list[str], body: bytes, *, signed: bool) -> None:
        action, revision = (rest[0], rest[1]) if len(rest) > 1 else ("revision", "main")
        repository, commit = self._found(repo_id, revision, signed=signed)
        if repository is None or commit is None:
            return None
        files = repository.commits[commit]
        if action == "revision":
            siblings = [{"rfilename": path} for path in sorted(files)]
            told = {"id": repo_id, "modelId": repo_id, "sha": commit, "private": repository.private, "tags": []}
            return self._json({**told, "siblings": siblings, "downloads": 0, "likes": 0})
        if action == "tree":
            return self._tree(files, "/".join(rest[2:]))
        if action == "preupload":
            asked = json.loads(body)["files"]
            answer = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            return self._json({"files": [{"path": one["path"], **answer} for one in asked]})
        if action == "commit":
            return self._commit(repository, repo_id, revision, files, body)
        return self._refuse(404, None, "Not found")

    def _tree(self, files: dict[str, bytes], folder: str) -> None:
        inside = {path: content for path, content in files.items() if not folder or path.startswith(f"{folder}/")}
        if folder and not inside:
            return self._refuse(404, "EntryNotFound", f"{folder} does not exist")
        return self._json(
            [
                {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for path, content in sorted(inside.items())
            ]
        )

    def _commit(self, repository: Repository, repo_id: str, ref: str, files: dict[str, bytes], body: bytes) -> None:
        written = dict(files)
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                written[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
        commit = repository.commit(written, ref)
        self._json(
            {"success": True, "commitOid": commit, "commitUrl": f"{self.hub.endpoint}/{repo_id}/commit/{commit}"}
        )

    def _json(self, value: Any, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str | None, message: str, commit: str | None = None) -> None:
        headers = {"X-Error-Message": message, "X-Error-Code": code, "X-Repo-Commit": commit}
        self._send(status, b"", {name: value for name, value in headers.items() if value})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
