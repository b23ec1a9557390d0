"""A Prometheus as the source of histories: what it may answer, other than what was asked for."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.unit.sizing_histories import GIB, NOW, UUID
from virtballoon.errors import VirtballoonError
from virtballoon.sizing.day import DAY_SECONDS, History
from virtballoon.sizing.prometheus import STEP_SECONDS, histories

if TYPE_CHECKING:
    from tests.unit.command import Command

#: The status and the body of an answer to a query, with its words.
Answer = Callable[[str, dict[str, str]], tuple[int, str]]
SERIES = {"host": "hv1", "domain": "web1"}


@contextmanager
def serving(answer: Answer, asked: list[Any] | None = None) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            words = {name: values[0] for name, values in parse_qs(parts.query).items()}
            if asked is not None:
                asked.append((parts.path, self.headers.get("Authorization")))
            status, body = answer(words["query"], words)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def read(url: str, **more: Any) -> list[History]:
    return histories(url, **({"now": NOW, "since": DAY_SECONDS, "timeout": 10} | more))


def result(*series: dict[str, Any]) -> str:
    return json.dumps({"status": "success", "data": {"resultType": "matrix", "result": series}})


def a_guest(query: str, words: dict[str, str]) -> tuple[int, str]:
    """Uses 1 of 4 GiB, each figure once in a step."""
    if "info" in query:
        return 200, result({"metric": SERIES | {"uuid": UUID.format(0), "uri": "qemu:///system"}})
    if "start" not in words:
        return 200, result()
    times = range(int(words["start"]), int(words["end"]) + 1, STEP_SECONDS)
    value = {"total": 4 * GIB, "avail": 3 * GIB, "current": 5 * GIB, "verdict": 1}
    number = next((value[word] for word in value if word in query), None)
    if "last_update" in query:
        return 200, result({"metric": SERIES, "values": [[at, str(at)] for at in times]})
    if number is None:
        return 200, result()
    return 200, result({"metric": SERIES, "values": [[at, str(number)] for at in times]})


def test_a_guest() -> None:
    seen: list[tuple[int, int]] = []
    with serving(a_guest) as url:
        (found,) = read(url, on_day=lambda *of: seen.append(of))
    assert (found.uuid, found.name, found.uris) == (UUID.format(0), "web1", ("qemu:///system",))
    # From midnight of the day before until now.
    assert sum(day.covered_seconds for day in found.days) == 36 * 3600
    assert {day.peak.value for day in found.days if day.peak} == {GIB}
    assert seen == [(1, 2), (2, 2)]


def test_credentials_and_a_path_in_the_url() -> None:
    asked: list[Any] = []
    with serving(a_guest, asked) as url:
        read(url.replace("//", "//me:s%40crt@") + "/mimir/prometheus/")
    assert {path.rpartition("/")[0] for path, _ in asked} == {"/mimir/prometheus/api/v1"}
    assert {header for _, header in asked} == {"Basic bWU6c0BjcnQ="}


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (200, "<html>", "does not answer as a Prometheus"),
        (200, "{}", "does not answer as a Prometheus"),
        (200, '{"data": {"result": [3]}}', "does not answer as a Prometheus"),
        (200, '{"data": {"result": [{"metric": {}, "values": [["x"]]}]}}', "does not answer"),
        (200, '{"data": {"result": [{"metric": {}, "values": [[1e999, "1"]]}]}}', "does not"),
        (404, "", "HTTP 404"),
        (422, '{"error": "too many samples"}', "HTTP 422: too many samples"),
    ],
)
def test_other_answers(status: int, body: str, reason: str) -> None:
    with (
        serving(lambda _query, _words: (status, body)) as url,
        pytest.raises(VirtballoonError, match=reason) as caught,
    ):
        read(url.replace("//", "//me:secret@"))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf", "-1", "1e30"])
def test_values_that_are_no_figures(value: str) -> None:
    def answer(query: str, words: dict[str, str]) -> tuple[int, str]:
        status, body = a_guest(query, words)
        return status, body.replace(f'"{3 * GIB}"', f'"{value}"')

    with serving(answer) as url:
        (found,) = read(url)
    assert [day.peak for day in found.days] == [None, None]


@pytest.mark.parametrize("url", ["", "x", "ftp://x", "http://", "http://x:99999"])
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(VirtballoonError, match="no URL of a Prometheus"):
        read(url)


def test_nobody_answers() -> None:
    with pytest.raises(VirtballoonError, match=r"cannot read from http://127.0.0.1:1: .*refused"):
        read("http://127.0.0.1:1")


def test_usage_and_errors_of_the_command(command: Command) -> None:
    both, alone, refused = command.each(
        ["advise", *words]
        for words in (
            ["--prometheus", "http://127.0.0.1:1", "--store", "x"],
            ["--compat", "libvirt-exporter"],
            ["--prometheus", "http://127.0.0.1:1"],
        )
    )
    assert (both.status, alone.status, refused.status) == (2, 2, 1)
    assert "takes the place of --store" in both.stderr
    assert "--compat requires --prometheus" in alone.stderr
    assert len(refused.complaints) == 1
