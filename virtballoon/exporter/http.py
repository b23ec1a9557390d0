"""Serves metrics over HTTP, to clients that may be slow, or mean it badly.

A request is its head, of bounded size and sent within a bounded time; so many are answered at a
time; and each connection carries one. There is no TLS and no authentication: whoever is to reach
it from elsewhere comes through a reverse proxy that has them.
"""

from __future__ import annotations

import gzip
import io
import logging
import math
import os
import re
import selectors
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any, Final, Self, TypeAlias

from virtballoon import __version__
from virtballoon.errors import VirtballoonError

_log: Final = logging.getLogger(__name__)

#: What answers a scrape: from what the client takes (HTTP's ``Accept``) and how long it waits, in
#: seconds, to the text and its media type.
Scrape: TypeAlias = Callable[[str, float | None], tuple[bytes, str]]

_HEAD_SECONDS: Final = 5.0
_HEAD_BYTES: Final = 16384
_WRITE_SECONDS: Final = 10.0
_MOST_CLIENTS: Final = 32
_BACKLOG: Final = 128
#: Before the scraper's time is up, the answer has to have reached it.
_MARGIN_SECONDS: Final = 0.5
_LEAST_SECONDS: Final = 0.05
#: How long whoever is being answered is waited for at the end.
_FAREWELL_SECONDS: Final = 5.0
_GZIP_BYTES: Final = 1024
#: Named as an encoding that the client takes, and not as one that it does not.
_GZIP: Final = re.compile(r"(?:^|,)\s*gzip\s*(?:,|$|;\s*q=(?!0(?:\.0*)?\s*(?:,|$)))", re.IGNORECASE)
_FIRST_PASSED: Final = 3

_TIMEOUT_HEADER: Final = "X-Prometheus-Scrape-Timeout-Seconds"
_PAGE: Final = f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>virtballoon</title></head>
<body>
<h1>virtballoon</h1>
<p>Version {__version__}. <a href="/metrics">Metrics</a></p>
</body>
</html>
"""


def listen(address: str) -> socket.socket:
    """Listen on ``HOST:PORT``; an IPv6 address stands in brackets.

    :raise ValueError: when it is no such address
    :raise VirtballoonError: when it cannot be listened on
    """
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%\w]+)\]|([^\[\]:/\s]+)):(\d{1,5})", address, re.ASCII)
    if found is None or int(found[3]) >= 2**16:
        raise ValueError(f"no address: {address!r} (one is 127.0.0.1:9177 or [::1]:9177)")
    host, port = found[1] or found[2], int(found[3])
    try:
        family, _, _, _, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(place, family=family, backlog=_BACKLOG)
    except OSError as error:
        raise VirtballoonError(f"cannot listen on {address}: {error.strerror}") from error


def passed_by_systemd() -> list[socket.socket]:
    """The listening sockets that systemd passes to the process that it starts
    (``sd_listen_fds(3)``); programs that this one starts do not get them.

    :raise VirtballoonError: when one is no stream socket that listens
    """
    number = os.environ.pop("LISTEN_FDS", "")
    is_ours = os.environ.pop("LISTEN_PID", "") == str(os.getpid())
    os.environ.pop("LISTEN_FDNAMES", None)
    sockets = []
    for descriptor in range(_FIRST_PASSED, _FIRST_PASSED + int(number or 0) * is_ours):
        os.set_inheritable(descriptor, False)  # noqa: FBT003 - it has no name
        try:
            passed = socket.socket(fileno=descriptor)
            accepts = passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError as error:
            raise VirtballoonError(f"systemd passed no socket: {error.strerror}") from error
        if not accepts or passed.type is not socket.SOCK_STREAM:
            raise VirtballoonError("systemd passed a socket that is no listening stream")
        sockets.append(passed)
    return sockets


def notify(state: str) -> None:
    """Tell the service manager, where there is one, what becomes of the service
    (``sd_notify(3)``): ``READY=1``, ``STOPPING=1``."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, suppress(OSError):
        manager.connect(f"\0{path[1:]}" if path.startswith("@") else path)
        manager.sendall(state.encode())


class Server:
    """Answers ``/metrics``, ``/-/healthy`` and, for people, ``/``. A context manager.

    :param sockets: where it listens; it closes them
    :param scrape: what gives the metrics
    """

    def __init__(self, sockets: Sequence[socket.socket], scrape: Scrape) -> None:
        self._sockets = tuple(sockets)
        self._waking, self._wake = socket.socketpair()
        self._wake.settimeout(0)
        self._room = threading.BoundedSemaphore(_MOST_CLIENTS)
        self._clients: set[threading.Thread] = set()
        self._scrape = scrape

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for mine in (*self._sockets, self._waking, self._wake):
            mine.close()

    @property
    def addresses(self) -> list[str]:
        """Where it listens: ``HOST:PORT``, or the path of a unix socket."""
        return [_written(listening) for listening in self._sockets]

    @property
    def wakeup(self) -> int:
        """The file descriptor that ends it when something is written there, as
        ``signal.set_wakeup_fd`` does."""
        return self._wake.fileno()

    def stop(self) -> None:
        """End it, from any thread."""
        with suppress(OSError):
            self._wake.send(b"\0")

    def serve(self) -> None:
        """Serve until it is ended."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._waking, selectors.EVENT_READ)
            for listening in self._sockets:
                listening.settimeout(0)
                selector.register(listening, selectors.EVENT_READ)
            while not any(self._let_in(key.fileobj) for key, _ in selector.select()):
                pass

    def finish(self) -> None:
        """Let nobody in any more, and wait a while for those that are being answered."""
        for listening in self._sockets:
            listening.close()
        deadline = time.monotonic() + _FAREWELL_SECONDS
        for client in tuple(self._clients):
            client.join(max(0.0, deadline - time.monotonic()))

    def _let_in(self, ready: Any) -> bool:
        """Take a client in, and whether it was a sign to end."""
        if ready is self._waking:
            return True
        try:
            client, address = ready.accept()
        except BlockingIOError:
            return False
        except OSError as error:
            # No file descriptor is left, say: somebody has to leave first.
            _log.warning("a client could not be let in: %s", error)
            time.sleep(_LEAST_SECONDS)
            return False
        client.settimeout(_HEAD_SECONDS)
        if not self._room.acquire(blocking=False):
            with client, suppress(OSError):
                client.send(b"HTTP/1.0 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
            return False
        thread = threading.Thread(
            target=self._attend, args=(client, address), name="virtballoon-client", daemon=True
        )
        self._clients.add(thread)
        try:
            thread.start()
        except RuntimeError as error:
            # The system has no thread left: somebody has to leave first.
            _log.warning("a client could not be attended to: %s", error)
            self._clients.discard(thread)
            self._room.release()
            client.close()
        return False

    def _attend(self, client: socket.socket, address: Any) -> None:
        try:
            with client, suppress(OSError):
                _Handler(client, address, self._scrape)
                client.shutdown(socket.SHUT_WR)
        except Exception:
            _log.exception("a request could not be answered")
        finally:
            self._clients.discard(threading.current_thread())
            self._room.release()


def _written(listening: socket.socket) -> str:
    name = listening.getsockname()
    if listening.family == socket.AF_UNIX:
        return str(name)
    return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"


class _Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server_version = f"virtballoon/{__version__}"
    sys_version = ""

    def __init__(self, client: socket.socket, address: Any, scrape: Scrape) -> None:
        self._scrape = scrape
        # Its base class hands the server on to whoever asks, and nobody does.
        super().__init__(client, address, None)  # type: ignore[arg-type]

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self.rfile = io.BufferedReader(io.BytesIO(_head(self.connection)))
        self.connection.settimeout(_WRITE_SECONDS)

    def do_GET(self) -> None:
        """Answer with a page."""
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._answer_with_metrics()
        elif path == "/":
            self._answer(HTTPStatus.OK, _PAGE.encode(), "text/html; charset=utf-8")
        elif path == "/-/healthy":
            self._answer(HTTPStatus.OK, b"virtballoon is healthy.\n")
        else:
            self._answer(HTTPStatus.NOT_FOUND, b"There are /metrics and /-/healthy.\n")

    do_HEAD = do_GET  # noqa: N815 - the base class's spelling

    def _answer_with_metrics(self) -> None:
        accept = ", ".join(self.headers.get_all("Accept") or ())
        try:
            body, media_type = self._scrape(accept, _budget(self.headers.get(_TIMEOUT_HEADER)))
        except VirtballoonError as error:
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, f"{error}\n".encode())
            return
        self._answer(HTTPStatus.OK, body, media_type)

    def _answer(
        self, status: HTTPStatus, body: bytes, media_type: str = "text/plain; charset=utf-8"
    ) -> None:
        takes_gzip = _GZIP.search(self.headers.get("Accept-Encoding", ""))
        self.send_response(status)
        if takes_gzip and len(body) > _GZIP_BYTES:
            body = gzip.compress(body, 6)
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's word
        """Requests are no news."""
        _log.debug(format, *args)


def _head(client: socket.socket) -> bytes:
    """The head of a request, or as much of it as comes in time and is not too much."""
    deadline = time.monotonic() + _HEAD_SECONDS
    head = b""
    while b"\r\n\r\n" not in head and b"\n\n" not in head:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        client.settimeout(left)
        more = client.recv(4096)
        head += more
        if not more or len(head) > _HEAD_BYTES:
            break
    if len(head) > _HEAD_BYTES:
        client.sendall(b"HTTP/1.0 431 Request Header Fields Too Large\r\n\r\n")
        return b""
    return head


def _budget(told: str | None) -> float | None:
    """How long reading may take for an answer in the time that the scraper waits."""
    try:
        seconds = float(told or "")
    except ValueError:
        return None
    if not (seconds > 0 and math.isfinite(seconds)):
        return None
    return max(_LEAST_SECONDS, seconds - _MARGIN_SECONDS, min(seconds / 2, _MARGIN_SECONDS))
