"""The HTTP server: its pages, its limits, and slow or malicious clients."""

from __future__ import annotations

import gzip
import os
import socket
import sys
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab.waiting import wait_until
from tests.process import finished
from virtballoon import VirtballoonError
from virtballoon.exporter import http
from virtballoon.exporter.http import Server, listen

if TYPE_CHECKING:
    from collections.abc import Iterator

TEXT = "x " * 1000


class Metrics:
    """Stands for the hosts: keeps the requests, and answers when allowed."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, float | None]] = []
        self.begun = threading.Semaphore(0)
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.error: Exception | None = None
        self.text = TEXT

    def __call__(self, accept: str, timeout: float | None) -> tuple[bytes, str]:
        self.asked.append((accept, timeout))
        self.begun.release()
        self.may_answer.wait()
        if self.error is not None:
            raise self.error
        return self.text.encode(), "text/x-metrics"


@contextmanager
def served(metrics: Metrics, **limits: Any) -> Iterator[tuple[Server, tuple[str, int]]]:
    server = Server([listen("127.0.0.1:0")], metrics, **limits)
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    host, _, port = server.addresses[0].partition(":")
    try:
        yield server, (host, int(port))
    finally:
        metrics.may_answer.set()
        server.stop()
        thread.join(30)
        assert not thread.is_alive()


def ask(place: tuple[str, int], head: str) -> tuple[str, dict[str, str], bytes]:
    """The status line, the headers and the body of an answer."""
    with socket.create_connection(place, timeout=30) as client:
        client.sendall(head.replace("\n", "\r\n").encode())
        return answer(client)


def answer(client: socket.socket) -> tuple[str, dict[str, str], bytes]:
    received = b"".join(iter(lambda: client.recv(65536), b""))
    top, _, body = received.partition(b"\r\n\r\n")
    status, *lines = top.decode().split("\r\n")
    return status, dict(line.split(": ", 1) for line in lines), body


def test_pages() -> None:
    metrics = Metrics()
    with served(metrics) as (_, place):
        status, headers, body = ask(place, "GET /metrics?x=1 HTTP/1.1\nHost: a\nAccept: a/b\n\n")
        assert (status, body.decode()) == ("HTTP/1.0 200 OK", TEXT)
        assert headers["Content-Type"] == "text/x-metrics"
        assert headers["Content-Length"] == str(len(TEXT))
        assert metrics.asked == [("a/b", None)]
        _, headers, body = ask(place, "GET /metrics HTTP/1.1\nAccept-Encoding: br, gzip\n\n")
        assert gzip.decompress(body).decode() == TEXT
        assert headers["Content-Encoding"] == "gzip"
        _, headers, body = ask(place, "HEAD /metrics HTTP/1.0\n\n")
        assert (headers["Content-Length"], body) == (str(len(TEXT)), b"")
        _, _, body = ask(place, "GET / HTTP/1.0\n\n")
        assert b'<a href="/metrics">' in body
        status, _, _ = ask(place, "GET /-/healthy HTTP/1.0\n\n")
        assert status.endswith(" 200 OK")
        assert len(metrics.asked) == 3
        assert ask(place, "GET /../etc/passwd HTTP/1.0\n\n")[0].endswith(" 404 Not Found")
        assert " 501 " in ask(place, "DELETE /metrics HTTP/1.0\n\n")[0]
        assert " 400 " in ask(place, "GET /metrics nonsense HTTP/1.0\n\n")[0]


@pytest.mark.parametrize(
    ("told", "seconds"),
    [("10", 9.5), ("1", 0.5), ("0.4", 0.2), ("1e-9", 0.05)]
    + [(none, None) for none in ("", "x", "nan", "inf", "-1", "0")],
)
def test_reading_time(told: str, seconds: float | None) -> None:
    metrics = Metrics()
    with served(metrics) as (_, place):
        ask(place, f"GET /metrics HTTP/1.0\nX-Prometheus-Scrape-Timeout-Seconds: {told}\n\n")
    ((_, timeout),) = metrics.asked
    assert timeout == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("takes", "gets"),
    [
        ("gzip", True),
        ("br, GZIP ;q=0.5", True),
        ("gzip;q=1.0, *", True),
        ("x-gzip", False),
        ("", False),
    ],
)
def test_compression(takes: str, gets: bool) -> None:
    with served(Metrics()) as (_, place):
        _, headers, _ = ask(place, f"HEAD /metrics HTTP/1.0\nAccept-Encoding: {takes}\n\n")
    assert ("Content-Encoding" in headers) is gets


def test_client_that_does_not_read() -> None:
    metrics = Metrics()
    # More than what the kernel keeps between them.
    metrics.text = TEXT * 20000
    with (
        served(metrics, clients=1, client_seconds=0.2) as (_, place),
        socket.create_connection(place, timeout=30) as client,
    ):
        client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        metrics.begun.acquire()

        def answers() -> bool:
            # Until then it is refused, which may cut the question off.
            with suppress(ConnectionResetError, BrokenPipeError):
                return " 200 " in ask(place, "GET /-/healthy HTTP/1.0\n\n")[0]
            return False

        wait_until(answers, 30, "its place to be free")


def test_unexpected_exception_ends_its_request_alone() -> None:
    metrics = Metrics()
    metrics.error = ZeroDivisionError()
    with served(metrics) as (_, place):
        assert ask(place, "GET /metrics HTTP/1.0\n\n")[0] == ""
        assert ask(place, "GET /-/healthy HTTP/1.0\n\n")[0].endswith(" 200 OK")


def test_slow_clients_do_not_delay_others() -> None:
    with served(Metrics(), client_seconds=1) as (_, place):
        slow = [socket.create_connection(place, timeout=30) for _ in range(10)]
        for client in slow:
            client.sendall(b"GET /metrics HTTP/1.1\r\nX-A: ")
        assert ask(place, "GET /-/healthy HTTP/1.0\n\n")[0].endswith(" 200 OK")
        for client in slow:
            with client:
                assert answer(client)[2] == b""


def test_a_byte_now_and_then_does_not_keep_a_place() -> None:
    with (
        served(Metrics(), client_seconds=0.5) as (_, place),
        socket.create_connection(place, timeout=30) as client,
    ):
        client.sendall(b"GET /metrics HTTP/1.1\r\nX-A: ")
        client.setblocking(False)

        def ended() -> bool:
            try:
                client.send(b"a")
                return client.recv(1) == b""
            except BlockingIOError:
                return False
            except ConnectionError:
                return True

        wait_until(ended, 30, "the connection to end")


def test_number_of_clients_is_limited() -> None:
    metrics = Metrics()
    metrics.may_answer.clear()
    request = "GET /metrics HTTP/1.0\n\n"
    with served(metrics, clients=3) as (_, place):
        inside = [socket.create_connection(place, timeout=30) for _ in range(3)]
        for client in inside:
            client.sendall(request.replace("\n", "\r\n").encode())
            metrics.begun.acquire()
        with socket.create_connection(place, timeout=30) as client:
            assert " 503 " in answer(client)[0]
        metrics.may_answer.set()
        for client in inside:
            with client:
                assert answer(client)[0].endswith(" 200 OK")


def test_endless_head() -> None:
    with served(Metrics()) as (_, place), socket.create_connection(place, timeout=30) as client:
        client.sendall(b"GET / HTTP/1.1\r\nX-A: " + b"a" * 20000)
        assert " 431 " in answer(client)[0]


def test_answers_are_completed_at_the_end() -> None:
    metrics = Metrics()
    metrics.may_answer.clear()
    with served(metrics) as (server, place), socket.create_connection(place) as client:
        client.settimeout(30)
        client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        metrics.begun.acquire()
        server.stop()
        metrics.may_answer.set()
        assert answer(client)[2].decode() == TEXT
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(place, timeout=30)


@pytest.mark.parametrize(
    "address", ["", "9177", ":9177", "localhost", "::1:9177", "[::1]", "a:b", "127.0.0.1:70000"]
)
def test_rejects_invalid_addresses(address: str) -> None:
    with pytest.raises(ValueError, match="invalid address"):
        listen(address)


def test_addresses() -> None:
    with listen("127.0.0.1:0") as first, listen("localhost:0") as second:
        assert first.getsockname()[0] == second.getsockname()[0] == "127.0.0.1"
        port = first.getsockname()[1]
        with pytest.raises(VirtballoonError, match="cannot listen"):
            listen(f"127.0.0.1:{port}")
    try:
        with listen("[::1]:0") as third:
            assert Server([third], Metrics()).addresses[0].startswith("[::1]:")
    except VirtballoonError as error:
        pytest.skip(f"no IPv6 here: {error}")


def test_addresses_of_other_families() -> None:
    with socket.socket(socket.AF_UNIX) as abstract, socket.socket(socket.AF_VSOCK) as vsock:
        abstract.bind("\0virtballoon test")
        vsock.bind((socket.VMADDR_CID_ANY, socket.VMADDR_PORT_ANY))
        for listening in (abstract, vsock):
            listening.listen()
        port = vsock.getsockname()[1]
        assert Server([abstract, vsock], Metrics()).addresses == [
            "@virtballoon test",
            f"vsock::{port}",
        ]


def test_address_of_one_link() -> None:
    for line in Path("/proc/net/if_inet6").read_text().splitlines():
        digits, _, _, scope, _, interface = line.split()
        if scope == "20":
            address = socket.inet_ntop(socket.AF_INET6, bytes.fromhex(digits))
            with listen(f"[{address}%{interface}]:0") as listening:
                assert listening.getsockname()[0] == address
                return
    pytest.skip("no link-local address here")


def test_notifies_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    http.notify("READY=1")
    for name in (str(tmp_path / "notify"), f"@{tmp_path}/notify"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(name.replace("@", "\0"))
            monkeypatch.setenv("NOTIFY_SOCKET", name)
            http.notify("READY=1")
            assert manager.recv(100) == b"READY=1"
    # One that is not there is no reason to end.
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    http.notify("READY=1")


PASSED = """
import os, sys
os.environ["LISTEN_PID"] = str(os.getpid() + int(sys.argv[1]))
from virtballoon.exporter.http import passed_by_systemd
print([passed.getsockname() for passed in passed_by_systemd()], os.environ.get("LISTEN_FDS"))
"""


@pytest.mark.parametrize("is_for_us", [True, False])
def test_sockets_passed_by_systemd(tmp_path: Path, is_for_us: bool) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        shell = f'exec 3<&{listening.fileno()}; exec "$@"'
        result = finished(
            ["bash", "-c", shell, "bash", sys.executable, "-c", PASSED, str(int(not is_for_us))],
            pass_fds=[listening.fileno()],
            env={**os.environ, "LISTEN_FDS": "1"},
        )
    assert (result.stdout, result.stderr) == (f"{[path] if is_for_us else []} None\n", "")


def test_rejects_other_files_passed_by_systemd() -> None:
    result = finished(
        ["bash", "-c", 'exec 3</dev/null; exec "$@"', "bash", sys.executable, "-c", PASSED, "0"],
        env={**os.environ, "LISTEN_FDS": "1"},
    )
    assert "VirtballoonError: systemd passed no socket" in result.stderr
