"""The HTTP under `HubServer`: connections that answer requests, and that can be cut."""

import contextlib
import json
import re
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


@dataclass
class Request:
    method: str
    path: str  # with the query
    headers: dict[str, str]  # without the one in which a token belongs
    has_token: bool
    body: bytes = b""  # of requests to the Hub; not what is uploaded to the storage
    user: str | None = None
    can_write: bool = False
    status: int | None = None  # None until it is answered, and for ever if the connection was cut

    @property
    def query(self) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}

    def json(self) -> dict:
        return json.loads(self.body)


@dataclass
class Response:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def json_response(data, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    body = json.dumps(data, default=str).encode()  # YAML has dates, JSON has not
    return Response(status, body, {"Content-Type": "application/json", **(headers or {})})


def content_response(content: bytes, byte_range: str | None, headers: dict[str, str]) -> Response:
    """All of a file, or the bytes that a `Range` header asks for."""
    headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", **headers}
    wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", byte_range or "")
    if wanted is None or wanted.groups() == ("", ""):
        return Response(200, content, headers)
    size = len(content)
    first, last = wanted.groups()
    if first:
        start, stop = int(first), min(int(last) + 1, size) if last else size
    else:
        start, stop = max(size - int(last), 0), size
    if start >= stop:
        return Response(416, b"", {"Content-Range": f"bytes */{size}"})
    return Response(206, content[start:stop], {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{size}"})


class Handler(BaseHTTPRequestHandler):
    """Reads requests and writes responses; a `ConnectionError` while answering cuts the connection."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet
    disable_nagle_algorithm = True

    def answer(self) -> None:
        response = self.server.answer(self)
        self.send_response(response.status)
        for name, value in {"Content-Length": str(len(response.body)), **response.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer

    def request_without_body(self) -> Request:
        headers = {name.lower(): value for name, value in self.headers.items()}
        return Request(self.command, self.path, headers, headers.pop("authorization", None) is not None)

    def read_body(self, limit: int | None = None) -> bytes:
        """The body, sent with a length or in chunks; with a limit, about so many bytes of it."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            length = int(self.headers.get("Content-Length", 0))
            return self.rfile.read(length if limit is None else min(length, limit))
        body = bytearray()
        while limit is None or len(body) < limit:
            size = int(self.rfile.readline().split(b";")[0], 16)
            body += self.rfile.read(size)
            self.rfile.readline()
            if size == 0:
                break
        return bytes(body)

    def log_message(self, *arguments) -> None:
        """Nothing on the screen: `HubServer.requests` has it."""


class Server(ThreadingHTTPServer):
    """Answers on a free port, each connection in its own thread."""

    daemon_threads = True

    def __init__(self, answer: Callable[[Handler], Response]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer = answer
        self.url = f"http://127.0.0.1:{self.server_port}"
        self._connections: set[socket.socket] = set()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        if self._thread.is_alive():
            self.shutdown()
            self._thread.join()
        self.server_close()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):  # it may just have ended
                connection.shutdown(socket.SHUT_RDWR)

    def process_request(self, request: socket.socket, client_address) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: socket.socket) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: socket.socket, client_address) -> None:
        """A cut connection is what a test asked for; anything else is a mistake of this server, and is printed."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)
