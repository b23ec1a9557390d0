"""Serves metrics over HTTP, also to slow or malicious clients.

A request is its head alone, of limited size and received within a limited time; the number of
requests answered at a time is limited; each connection carries one. There is no TLS and no
authentication: access from other hosts goes through a reverse proxy that has both.
"""

from __future__ import annotations

import gzip
import io
import math
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from queue import Empty, SimpleQueue
from socketserver import BaseServer, TCPServer, ThreadingMixIn
from typing import Any, Final, TypeAlias

from prometheus_client.exposition import gzip_accepted

from virtballoon import __version__
from virtballoon.errors import VirtballoonError
from virtballoon.log import get_logger

_log: Final = get_logger(__name__)

#: Answers a scrape: from HTTP's ``Accept`` and the time that the client waits, in seconds, to the
#: text and its media type.
Scrape: TypeAlias = Callable[[str, float | None], tuple[bytes, str]]

_HEAD_BYTES: Final = 16384
_BACKLOG: Final = 128
#: The answer has to reach the scraper before its time is up.
_MARGIN_SECONDS: Final = 0.5
_LEAST_SECONDS: Final = 0.05
#: The number of requests answered at a time; others get 503.
_CLIENTS: Final = 32
#: How long a client is waited for, to send its request or to take part of the answer.
_CLIENT_SECONDS: Final = 10.0
#: How long requests that are being answered are waited for at the end.
_FINISH_SECONDS: Final = 5.0
_GZIP_BYTES: Final = 1024
_FIRST_PASSED: Final = 3

_TIMEOUT_HEADER: Final = "X-Prometheus-Scrape-Timeout-Seconds"
_PAGE: Final = b'<!DOCTYPE html><title>virtballoon</title><a href="/metrics">Metrics</a>\n'


def listen(address: str) -> socket.socket:
    """Listen on ``HOST:PORT``, with an IPv6 address in brackets.

    :raise ValueError: if the address is not valid
    :raise VirtballoonError: if it cannot be listened on
    """
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%\w]+)\]|([^\[\]:/\s]+)):(\d{1,5})", address, re.ASCII)
    if found is None or int(found[3]) >= 2**16:
        raise ValueError(f"invalid address {address!r}: use 127.0.0.1:9177 or [::1]:9177")
    host, port = found[1] or found[2], int(found[3])
    try:
        # With the scope of a link-local address, which bind() does not take from its name.
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(place, family=family, backlog=_BACKLOG)
    except OSError as error:
        raise VirtballoonError(f"cannot listen on {address}: {error.strerror}") from error


def passed_by_systemd() -> list[socket.socket]:
    """The listening sockets that systemd passes to the process that it starts
    (``sd_listen_fds(3)``); child processes do not inherit them.

    :raise VirtballoonError: if one is not a listening stream socket
    """
    number = os.environ.pop("LISTEN_FDS", "")
    is_for_us = os.environ.pop("LISTEN_PID", "") == str(os.getpid())
    os.environ.pop("LISTEN_FDNAMES", None)
    sockets = []
    for descriptor in range(_FIRST_PASSED, _FIRST_PASSED + int(number or 0) * is_for_us):
        os.set_inheritable(descriptor, False)  # noqa: FBT003 - it has no name
        try:
            passed = socket.socket(fileno=descriptor)
            accepts = passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError as error:
            raise VirtballoonError(f"systemd passed no socket: {error.strerror}") from error
        if not accepts or passed.type is not socket.SOCK_STREAM:
            raise VirtballoonError("systemd passed a socket that is not a listening stream socket")
        sockets.append(passed)
    return sockets


def notify(state: str) -> None:
    """Report the state of the service to the service manager, if there is one
    (``sd_notify(3)``): ``READY=1``, ``STOPPING=1``."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, suppress(OSError):
        manager.connect(f"\0{path[1:]}" if path.startswith("@") else path)
        manager.sendall(state.encode())


class Server:
    """Answers ``/metrics``, ``/-/healthy`` and, for people, ``/``.

    :param sockets: where it listens; it closes them
    :param clients: the number of requests answered at a time
    :param client_seconds: how long a client is waited for
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        scrape: Scrape,
        *,
        clients: int = _CLIENTS,
        client_seconds: float = _CLIENT_SECONDS,
    ) -> None:
        # Unlike an event, it can be used by the handler of a signal.
        self._stopped: SimpleQueue[None] = SimpleQueue()
        self._clients = clients
        self._free = threading.BoundedSemaphore(clients)
        handler = type(
            "Handler", (_Handler,), {"scrape": staticmethod(scrape), "timeout": client_seconds}
        )
        self._listeners = [_Listener(each, handler, self._free) for each in sockets]

    @property
    def addresses(self) -> list[str]:
        """Where it listens: ``HOST:PORT``; else as in systemd.socket(5), such as the path of a unix
        socket."""
        return [_address(listener.socket) for listener in self._listeners]

    def stop(self) -> None:
        """Stop it, from any thread or the handler of a signal."""
        self._stopped.put(None)

    def serve(self) -> None:
        """Serve until it is stopped. Then accept no more clients, and wait a while for the requests
        that are being answered."""
        for listener in self._listeners:
            threading.Thread(target=listener.serve_forever, daemon=True).start()
        notify("READY=1")
        while True:
            # A signal just before the wait does not interrupt it.
            with suppress(Empty):
                self._stopped.get(timeout=1)
                break
        notify("STOPPING=1")
        for listener in self._listeners:
            listener.shutdown()
            listener.server_close()
        deadline = time.monotonic() + _FINISH_SECONDS
        for _ in range(self._clients):
            self._free.acquire(timeout=max(0.0, deadline - time.monotonic()))


def _address(listening: socket.socket) -> str:
    name = listening.getsockname()
    if listening.family is socket.AF_VSOCK:
        cid, port = name
        return f"vsock:{'' if cid == socket.VMADDR_CID_ANY else cid}:{port}"
    if isinstance(name, tuple):
        host, port = name[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    # An abstract name is bytes, which begin with 0.
    return f"@{os.fsdecode(name[1:])}" if isinstance(name, bytes) else str(name)


class _Listener(ThreadingMixIn, TCPServer):
    """Answers the clients of one socket, each in a thread of its own."""

    daemon_threads = True

    def __init__(
        self,
        listening: socket.socket,
        handler: type[BaseHTTPRequestHandler],
        free: threading.BoundedSemaphore,
    ) -> None:
        # Not TCPServer's, which opens a socket of its own.
        BaseServer.__init__(self, listening.getsockname(), handler)
        # A client that has gone again must not block accept().
        listening.settimeout(0)
        self.socket = listening
        self._free = free

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            return super().get_request()
        except BlockingIOError:
            raise
        except OSError as error:
            # No file descriptor is left, for example: a client has to leave first.
            _log.warning("cannot accept a client: %s", error)
            time.sleep(_LEAST_SECONDS)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            with suppress(OSError):
                request.send(b"HTTP/1.0 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            # The system has no thread left, for example.
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, _request: Any, _client_address: Any) -> None:
        # Clients may go away or be too slow.
        if not isinstance(sys.exc_info()[1], OSError):
            _log.exception("cannot answer a request")


class _Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    scrape: Scrape
    server_version = f"virtballoon/{__version__}"
    sys_version = ""

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self.rfile = io.BufferedReader(io.BytesIO(self._head()))
        self.connection.settimeout(self.timeout)

    def _head(self) -> bytes:
        """The head of the request, or as much of it as arrives in time and is not too long."""
        deadline = time.monotonic() + (self.timeout or 0)
        head = b""
        while b"\r\n\r\n" not in head and b"\n\n" not in head:
            # A byte now and then does not keep a client's place.
            if (left := deadline - time.monotonic()) <= 0:
                raise TimeoutError
            self.connection.settimeout(left)
            more = self.connection.recv(4096)
            head += more
            if len(head) > _HEAD_BYTES:
                self.connection.sendall(b"HTTP/1.0 431 Request Header Fields Too Large\r\n\r\n")
                return b""
            if not more:
                break
        return head

    def do_GET(self) -> None:
        """Answer with a page."""
        path = self.path.partition("?")[0]
        if path == "/metrics":
            accept = ", ".join(self.headers.get_all("Accept") or ())
            timeout = _reading_time(self.headers.get(_TIMEOUT_HEADER))
            self._answer(HTTPStatus.OK, *self.scrape(accept, timeout))
        elif path == "/":
            self._answer(HTTPStatus.OK, _PAGE, "text/html; charset=utf-8")
        elif path == "/-/healthy":
            self._answer(HTTPStatus.OK, b"virtballoon is healthy.\n")
        else:
            self._answer(HTTPStatus.NOT_FOUND, b"There are /metrics and /-/healthy.\n")

    do_HEAD = do_GET  # noqa: N815 - the base class's spelling

    def _answer(
        self, status: HTTPStatus, body: bytes, media_type: str = "text/plain; charset=utf-8"
    ) -> None:
        self.send_response(status)
        if len(body) > _GZIP_BYTES and gzip_accepted(self.headers.get("Accept-Encoding", "")):
            # Higher levels take several times as long for a tenth less.
            body = gzip.compress(body, 1)
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's word
        """Log requests for debugging only."""
        _log.debug(format, *args)


def _reading_time(scrape_timeout: str | None) -> float | None:
    """How long reading may take, in seconds, if the answer is to arrive in the scraper's time."""
    try:
        seconds = float(scrape_timeout or "")
    except ValueError:
        return None
    if not 0 < seconds < math.inf:
        return None
    return max(_LEAST_SECONDS, seconds - _MARGIN_SECONDS, min(seconds / 2, _MARGIN_SECONDS))
