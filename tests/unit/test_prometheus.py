"""A Prometheus as the source of histories: what it may answer, other than what was asked for."""

from __future__ import annotations

import contextlib
import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from unittest.mock import patch
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.sizing_histories import GIB, NOW, UUID
from virtballoon.errors import VirtballoonError
from virtballoon.sizing.day import DAY_SECONDS, History
from virtballoon.sizing.prometheus import STEP_SECONDS, histories
from virtballoon.sizing.rule import advise

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

    with started(Handler) as url:
        yield url


@contextmanager
def started(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
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
    info = SERIES | {"uuid": UUID.format(0), "uri": "qemu:///system"}
    if "start" not in words:
        return 200, result(*[{"metric": info}] * ("info" in query))
    times = range(int(words["start"]), int(words["end"]) + 1, STEP_SECONDS)
    if "info" in query:
        return 200, result({"metric": info, "values": [[at, "1"] for at in times]})
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
        (200, "[" * 100_000, "does not answer as a Prometheus"),
        (200, '{"data": {"result": []}, "warnings": ["no store"]}', "incomplete: .*no store"),
        (404, "", "HTTP 404"),
        (404, "[" * 9000, "HTTP 404"),
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


@pytest.mark.parametrize("url", ["", "x", "ftp://x", "http://", "http://x:99999", "http://[x"])
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(VirtballoonError, match="no URL of a Prometheus"):
        read(url)


def test_no_error_has_a_password() -> None:
    for url in ("http://me:secret@x:99999", "me:secret@x", "http://me:secret@[x"):
        with pytest.raises(VirtballoonError, match="no URL of a Prometheus") as caught:
            read(url)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://a..b", "label empty"),
        ("http://x/\u00e4", "must be encoded"),
        ("http://x/ y", "control characters"),
    ],
)
def test_urls_that_cannot_be_asked_for(url: str, reason: str) -> None:
    with pytest.raises(VirtballoonError, match=reason):
        read(url)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
TIME = st.sampled_from([NOW, 10**15, -(10**15)])
VALUE = st.tuples(JSON, JSON) | st.tuples(TIME, st.integers(0, 9).map(str)) | JSON
METRIC = st.dictionaries(st.sampled_from(["host", "domain", "uuid", "uri"]), JSON) | JSON
ANSWER = st.fixed_dictionaries({"metric": METRIC, "values": st.lists(VALUE, max_size=2) | JSON})


@given(
    others=st.booleans(),
    answer=JSON | st.lists(ANSWER | JSON, max_size=2).map(lambda of: {"data": {"result": of}}),
)
def test_any_answer(others: bool, answer: object) -> None:
    with (
        patch("urllib.request.urlopen", lambda *_, **__: Answered(json.dumps(answer))),
        contextlib.suppress(VirtballoonError),
    ):
        read("http://x", others=others)


def test_times_that_were_not_asked_for() -> None:
    def answer(query: str, _words: dict[str, str]) -> tuple[int, str]:
        series = {"metric": {"instance": "i", "domain": "web1"}, "values": [[10**15, "1"]]}
        return 200, result(*[series] * ("last_update" not in query))

    with serving(answer) as url:
        assert read(url, others=True) == []


class Answered(io.BytesIO):
    """A response."""

    length = 0

    def __init__(self, text: str) -> None:
        super().__init__(text.encode())


def test_a_redirection_gets_no_password() -> None:
    asked: list[Any] = []
    with serving(a_guest, asked) as other:

        class Redirecting(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(302)
                self.send_header("Location", f"{other}{self.path}")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        with started(Redirecting) as url:
            read(url.replace("//", "//me:secret@"))
    assert {header for _, header in asked} == {None}


@pytest.mark.parametrize(
    ("length", "reason"), [("9", "8 more expected"), (None, "no answer in 0.5 s")]
)
def test_an_answer_that_does_not_end(length: str | None, reason: str) -> None:
    class Endless(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            if length is not None:
                self.send_header("Content-Length", length)
            self.end_headers()
            with contextlib.suppress(OSError):
                while length is None:
                    self.wfile.write(b" ")
                self.wfile.write(b"{")

        def log_message(self, *_: object) -> None:
            pass

    with started(Endless) as url, pytest.raises(VirtballoonError, match=reason):
        read(url, timeout=0.5)


def changed(**values: Callable[[int], object]) -> Answer:
    """The guest with other values at a time, by a part of the metric's name; None for no value."""

    def answer(query: str, words: dict[str, str]) -> tuple[int, str]:
        status, body = a_guest(query, words)
        found = json.loads(body)["data"]["result"]
        for part, value in values.items():
            for series in found if part in query else ():
                given = [[at, value(at)] for at, _ in series.get("values", ())]
                series["values"] = [[at, new] for at, new in given if new is not None]
        return status, result(*found)

    return answer


def test_an_update_of_the_future_is_left_out() -> None:
    wrong = NOW - 6 * 3600
    with serving(changed(last_update=lambda at: str(10**17 if at == wrong else at))) as url:
        (found,) = read(url)
    # A sample covers 15 minutes.
    assert sum(day.covered_seconds for day in found.days) == 36 * 3600


def test_a_guest_without_available_memory_is_unknown_for_that_reason() -> None:
    def answer(query: str, words: dict[str, str]) -> tuple[int, str]:
        if "available" in query:
            return 200, result()
        return a_guest(query.replace("free_memory", "available_memory"), words)

    with serving(answer) as url:
        (found,) = read(url, since=8 * DAY_SECONDS)
    assert "no available memory" in advise(found, now=NOW, since=8 * DAY_SECONDS).because


def test_a_name_of_two_domains_on_one_day() -> None:
    moment = NOW - 3 * 3600

    def answer(query: str, words: dict[str, str]) -> tuple[int, str]:
        status, body = a_guest(query, words)
        if "info" not in query or "start" not in words:
            return status, body
        (series,) = json.loads(body)["data"]["result"]
        values = series["values"]
        return 200, result(
            series | {"values": [value for value in values if value[0] < moment]},
            {
                "metric": series["metric"] | {"uuid": UUID.format(1)},
                "values": [value for value in values if value[0] >= moment],
            },
        )

    with serving(answer) as url:
        old, new = read(url)
    assert (old.uuid, new.uuid) == (UUID.format(0), UUID.format(1))
    assert sum(day.covered_seconds for day in new.days) == 3 * 3600


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
