"""A local server that speaks as much of the Hugging Face Hub's protocol as uploads and downloads need."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


class FakeHub:
    """Repositories in memory: their files by name; and what was asked for."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.repos: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.downloads: list[str] = []

    def commit_of(self, repo: str) -> str:
        digest = hashlib.sha1()
        for name, content in sorted(self.repos[repo].items()):
            digest.update(name.encode() + content)
        return digest.hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def reply(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for key, text in {
            "Content-Length": str(len(body)),
            "Content-Type": "application/json",
            **(headers or {}),
        }.items():
            self.send_header(key, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def missing(self, code: str) -> None:
        self.reply({"error": code}, 404, {"X-Error-Code": code, "X-Error-Message": f"{code}: there is none"})

    def do_GET(self) -> None:
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        if parts[:2] == ["api", "models"]:
            self.api_get("/".join(parts[2:4]), parts[4:])
        elif "resolve" in parts:
            self.file("/".join(parts[:2]), "/".join(parts[4:]))
        else:
            self.missing("EntryNotFound")

    do_HEAD = do_GET

    def api_get(self, repo: str, rest: list[str]) -> None:
        files = self.hub.repos.get(repo)
        if files is None:
            self.missing("RepoNotFound")
        elif rest[:1] == ["tree"]:
            rows = [{"type": "file", "path": n, "size": len(c), "oid": "0" * 40} for n, c in files.items()]
            self.reply(rows)
        else:
            siblings = [{"rfilename": name, "size": len(content)} for name, content in files.items()]
            self.reply(
                {"id": repo, "sha": self.hub.commit_of(repo), "siblings": siblings, "tags": [], "private": False}
            )

    def file(self, repo: str, name: str) -> None:
        content = self.hub.repos.get(repo, {}).get(name)
        if content is None:
            self.missing("EntryNotFound")
            return
        if self.command == "GET":
            self.hub.downloads.append(name)
        etag = f'"{hashlib.sha1(content).hexdigest()}"'
        self.reply(content, 200, {"ETag": etag, "X-Repo-Commit": self.hub.commit_of(repo)})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        parts = urlsplit(self.path).path.strip("/").split("/")
        repo = "/".join(parts[2:4])
        if parts == ["api", "repos", "create"]:
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            self.hub.repos.setdefault(repo, {})
            self.hub.private[repo] = bool(asked.get("private")) or asked.get("visibility") == "private"
            self.reply({"url": f"{self.hub.address}/{repo}", "id": repo})
        elif parts[1] == "validate-yaml":
            self.reply({"errors": [], "warnings": []})
        elif parts[4] == "preupload":
            files = json.loads(body)["files"]
            self.reply({"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]})
        else:
            self.commit(repo, [json.loads(line) for line in body.decode().splitlines()])

    def commit(self, repo: str, lines: list[dict[str, Any]]) -> None:
        files = self.hub.repos[repo]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] in ("deletedFile", "deletedEntry"):
                for name in [name for name in files if fnmatch(name, value["path"])]:
                    del files[name]
        oid = self.hub.commit_of(repo)
        self.reply({"success": True, "commitOid": oid, "commitUrl": f"{self.hub.address}/{repo}/commit/{oid}"})


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """Runs a server for the block's duration."""
    handler = type("Handler", (_Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub = FakeHub(f"http://127.0.0.1:{server.server_port}")
    handler.hub = hub
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
