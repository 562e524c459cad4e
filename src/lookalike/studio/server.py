"""The studio's server: loopback only, one random token in the address, no request of another page answered.

It is Python's own ``http.server``: a handful of routes for one person on one machine need no framework, and nothing
more has to be kept up to date.
"""

import hmac
import json
import secrets
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, urlsplit

from typing_extensions import override

from lookalike._core.errors import LookalikeError
from lookalike._core.names import json_text
from lookalike._core.records import one_line, parse_json
from lookalike.studio.desk import Desk, StaleError

_HOST = "127.0.0.1"
_MOST_BYTES = 2**25  # of a request's body: a photograph
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_CHANGES = {
    "api/edit": "edit",
    "api/try": "try_out",
    "api/move": "move",
    "api/correct": "correct",
    "api/test": "open_test",
}
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_STYLES = ("tokens.css", "page.css", "tables.css", "cards.css", "dialog.css", "browser.css")


class StudioServer(ThreadingHTTPServer):
    """Serves the studio of one model.

    Args:
        desk: What the page works on.
        port: Port; 0 takes a free one.

    Attributes:
        token: Random part of the address; requests without it are answered like those of a missing page.
    """

    daemon_threads = True

    def __init__(self, desk: Desk, port: int = 0) -> None:
        super().__init__((_HOST, port), _Handler)
        self.desk = desk
        self.token = secrets.token_urlsafe(24)

    @override
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing: a browser that closes a connection is no fault, and all others are answered."""

    @property
    def origin(self) -> str:
        """The origin of the page."""
        return f"http://{_HOST}:{self.server_port}"

    @property
    def address(self) -> str:
        """The address to open in a browser."""
        return f"{self.origin}/{self.token}/"


class _Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: StudioServer
    server_version, sys_version = "lookalike", ""
    protocol_version = "HTTP/1.1"
    timeout = 60
    _is_body_read = False

    def do_GET(self) -> None:
        """Answers a page, a picture or a question."""
        self._answer(self._get)

    def do_POST(self) -> None:
        """Answers a request to change something, or an image."""
        self._answer(self._post)

    @override
    def log_message(self, format: str, *args: Any) -> None:
        """Logs nothing: the address has the token."""

    def _answer(self, route: Any) -> None:
        """Checks where a request comes from, and turns mistakes into one line."""
        self._is_body_read = False  # a connection has one handler for all its requests
        try:
            path = self._path() if self._is_own() else None
            if path is None:
                self._send(HTTPStatus.NOT_FOUND, b"not found", "text/plain")
            else:
                route(path)
        except StaleError as error:
            self._send_json({"error": str(error), "stale": True}, HTTPStatus.CONFLICT)
        except LookalikeError as error:
            self._send_json({"error": one_line(error)}, HTTPStatus.BAD_REQUEST)
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            self.close_connection = True
        except Exception as error:  # a fault of the program, which the page must show as one
            self._send_json({"error": f"{type(error).__name__}: {one_line(error)}"}, HTTPStatus.INTERNAL_SERVER_ERROR)

    def _path(self) -> str | None:
        """Returns the path of the request behind the token, and keeps its query; None if it is none of this server."""
        try:
            url = urlsplit(self.path)
        except ValueError:  # such as http://[
            return None
        _, _, below = url.path.partition("/")
        token, _, path = below.partition("/")
        if not hmac.compare_digest(token.encode(), self.server.token.encode()):
            return None
        self._query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        return path

    def _is_own(self) -> bool:
        """Returns whether a request is for this server, and of its own page.

        Another page may send requests here, but not choose their Host, Origin and Sec-Fetch-Site. The Host also stops
        names that were pointed at this machine (DNS rebinding).
        """
        port = self.server.server_port
        if self.headers.get("Host") not in (f"{_HOST}:{port}", f"localhost:{port}"):
            return False
        origin = self.headers.get("Origin")
        if origin is not None and origin not in (self.server.origin, f"http://localhost:{port}"):
            return False
        if self.command == "POST" and origin is None:
            return False
        return self.headers.get("Sec-Fetch-Site", "none") in ("none", "same-origin")

    def _get(self, path: str) -> None:
        desk = self.server.desk
        if path.startswith("picture/"):
            part, _, sample = path.removeprefix("picture/").rpartition("/")
            self._send(HTTPStatus.OK, desk.picture(part, _whole(sample)), "image/png")
        elif path.startswith("api/near/"):
            self._send_json(desk.near(_whole(path.removeprefix("api/near/"))))
        elif path == "api/map":
            self._send_json(desk.map(self._query.get("by", "pca")))  # type: ignore[arg-type]
        elif path in ("api/state", "api/wrong", "api/suspects", "api/shortcuts"):
            self._send_json(getattr(desk, path.removeprefix("api/"))())
        else:
            self._send_file(path or "index.html")

    def _post(self, path: str) -> None:
        desk, body = self.server.desk, self._body()
        if path == "api/look":
            self._send_json(desk.look(body))
        elif path == "api/add":
            revision = _whole(self._query.get("revision", ""))
            self._send_json(desk.add_image(body, self._query.get("class", ""), revision))
        elif path in _CHANGES:
            values = parse_json(body)
            if not isinstance(values, dict):
                raise LookalikeError("a request is a JSON object")
            self._send_json(getattr(desk, _CHANGES[path])(values))
        else:
            self._send(HTTPStatus.NOT_FOUND, b"not found", "text/plain")

    def _body(self) -> bytes:
        length = _whole(self.headers.get("Content-Length", ""))
        if length > _MOST_BYTES:
            raise LookalikeError(f"a file of {length / 2**20:.0f} MiB is too large; {_MOST_BYTES // 2**20} MiB at most")
        body = self.rfile.read(length)
        self._is_body_read = True
        return body

    def _leaves_a_body(self) -> bool:
        """Returns whether a body is still on the connection, where it would be answered as the next request."""
        if "Transfer-Encoding" in self.headers:  # never read
            return True
        return not self._is_body_read and self.headers.get("Content-Length", "0") != "0"

    def _send_file(self, name: str) -> None:
        """Sends a file of the page."""
        suffix = "." + name.rpartition(".")[2]
        if name == "components.css":
            components = files("lookalike.report") / "templates" / "components"
            content = "\n".join((components / style).read_text(encoding="utf-8") for style in _STYLES)
            self._send(HTTPStatus.OK, content.encode(), "text/css")
            return
        page = files("lookalike.studio") / "page"
        if suffix not in _TYPES or name not in {file.name for file in page.iterdir()}:
            self._send(HTTPStatus.NOT_FOUND, b"not found", "text/plain")
            return
        self._send(HTTPStatus.OK, (page / name).read_bytes(), _TYPES[suffix])

    def _send_json(self, value: Any, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._send(status, json_text(value, ensure_ascii=True).encode(), "application/json")

    def _send(self, status: HTTPStatus, content: bytes, kind: str) -> None:
        self.send_response(status)
        headers = {
            "Content-Type": kind if kind.startswith("image/") else f"{kind}; charset=utf-8",
            "Content-Length": str(len(content)),
            "Content-Security-Policy": _POLICY,
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "private, max-age=3600" if kind == "image/png" else "no-store",
        }
        if self._leaves_a_body():
            headers["Connection"] = "close"
            self.close_connection = True
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


def _whole(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise LookalikeError(f"a whole number is needed, not {json.dumps(text[:40])}")
    return int(text)
