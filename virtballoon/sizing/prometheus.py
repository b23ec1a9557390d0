"""Histories from what a Prometheus has stored: the metrics of ``virtballoon export``, or those of
other exporters of libvirt's figures. Thanos, Mimir and others answer the same questions."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from virtballoon.errors import VirtballoonError
from virtballoon.model.memory import Figures, Usage
from virtballoon.model.statistics import MemoryStats
from virtballoon.sizing.day import DAY_SECONDS, Day, History
from virtballoon.sizing.recorder import AHEAD_SECONDS, Sample, days_of
from virtballoon.sizing.rule import first_day

if TYPE_CHECKING:
    from http.client import HTTPResponse
    from urllib.error import HTTPError

#: A sample stands for so long: with the least available memory in it, so that no peak is lost.
STEP_SECONDS: Final = 300

_LEAST: Final = f"min_over_time({{}}[{STEP_SECONDS}s])"
_MOST: Final = f"max_over_time({{}}[{STEP_SECONDS}s])"
#: The figures of a sample: how each is asked for, and the end of its metric's name.
_FIGURES: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "available_memory": (_LEAST, "available_memory_bytes"),
        "free_memory": ("{}", "free_memory_bytes"),
        "total_memory": ("{}", "total_memory_bytes"),
        "disk_caches": ("{}", "disk_caches_bytes"),
        "swap_in": ("{}", "swap_in_bytes_total"),
        "swap_out": ("{}", "swap_out_bytes_total"),
        "major_faults": ("{}", "major_faults_total"),
        "minor_faults": ("{}", "minor_faults_total"),
        "oom_kills": ("{}", "oom_kills_total"),
        "current": ("{}", "current_bytes"),
        "maximum": ("{}", "maximum_bytes"),
        "at": ("{}", "last_update_timestamp_seconds"),
        "fresh": (_MOST, 'verdict{verdict="fresh"}'),
    }
)
#: The names of other exporters, after ``libvirt_domain_``: Tinkoff's and inovex's differ.
_OTHERS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "available_memory": ("memory_stats_usable_bytes",),
        "free_memory": ("memory_stats_unused_bytes",),
        "total_memory": ("memory_stats_available_bytes",),
        "disk_caches": ("memory_stats_disk_cache_bytes", "memory_stats_disk_caches_bytes"),
        "swap_in": ("memory_stats_swap_in_bytes",),
        "swap_out": ("memory_stats_swap_out_bytes",),
        "major_faults": ("memory_stats_major_fault_total",),
        "minor_faults": ("memory_stats_minor_fault_total",),
        "current": ("memory_stats_current_balloon_bytes", "memory_stats_actual_balloon_bytes"),
        "maximum": ("memory_stats_maximum_bytes", "info_maximum_memory_bytes"),
        "at": ("memory_stats_last_update_timestamp_seconds",),
    }
)
#: What has the UUID.
_INFO: Final = "virtballoon_domain_info"
#: What a series of a domain has besides its labels.
_NO_LABELS: Final = frozenset({"__name__", "host", "domain", "job", "instance"})

_Key = tuple[str, str]
_Labels = Mapping[str, str]


class _Series(NamedTuple):
    labels: _Labels
    #: In order of time.
    values: list[tuple[int, float]]


def histories(
    url: str,
    *,
    now: float,
    since: float,
    timeout: float,
    others: bool = False,
    on_day: Callable[[int, int], object] | None = None,
) -> list[History]:
    """What a Prometheus knows of each domain in a window that ends now.

    :param url: of its root, which may have a user name and password
    :param timeout: seconds for each question
    :param others: whether the names of other exporters count; theirs have no UUID, and it is not
        known which figures are fresh: those that have changed count
    :param on_day: called with the number of days that have been asked for, and that of all
    :raise VirtballoonError: if it cannot be asked
    """
    ask = _Client(url, timeout)
    first, last = first_day(now, since), datetime.fromtimestamp(int(now), UTC).date()
    count = (last - first).days + 1
    days: dict[str, dict[Any, Day]] = defaultdict(dict)
    before: dict[str, Sample] = {}
    uris: dict[str, dict[str, None]] = defaultdict(dict)
    begin = int(datetime(first.year, first.month, first.day, tzinfo=UTC).timestamp())
    for number in range(count):
        start = begin + number * DAY_SECONDS
        end = min(start + DAY_SECONDS - STEP_SECONDS, int(now))
        for sample in _samples(ask, start, end, others=others):
            last_one = before.get(sample.uuid)
            if last_one is not None and (
                sample.at <= last_one.at or (others and sample.stats == last_one.stats)
            ):
                continue
            for day in days_of(sample, last_one):
                known = days[sample.uuid].get(day.date)
                days[sample.uuid][day.date] = day if known is None else known + day
            before[sample.uuid] = sample
            uris[sample.uuid].pop(sample.uri, None)
            uris[sample.uuid][sample.uri] = None
        if on_day is not None:
            on_day(number + 1, count)
    labels = {} if others else _labels(ask, int(now))
    found = [
        History(
            uuid=uuid,
            name=sample.name,
            labels=labels.get(uuid, {}),
            uris=tuple(reversed(uris[uuid])),
            days=tuple(days[uuid][date] for date in sorted(days[uuid])),
        )
        for uuid, sample in before.items()
    ]
    return sorted(found, key=lambda history: (history.name, history.uuid))


def _samples(ask: _Client, start: int, end: int, *, others: bool) -> list[Sample]:
    """The samples of a day in order of time."""
    figures: dict[_Key, dict[int, dict[str, int]]] = defaultdict(lambda: defaultdict(dict))
    for field, (question, name) in _FIGURES.items():
        if others and field not in _OTHERS:
            continue
        names = [f"libvirt_domain_{other}" for other in _OTHERS.get(field, ())]
        for metric in names if others else [f"virtballoon_domain_{name}"]:
            for series, values in ask.range(question.format(metric), start, end):
                of_domain = figures[_key(series, others=others)]
                for at, value in values:
                    of_domain[at].setdefault(field, value)
    # A name can be that of another domain later in the day.
    uuids = {
        (_key(series, others=others), at): series.get("uuid", "")
        for series, values in (() if others else ask.range(_INFO, start, end))
        for at, _ in values
    }
    uris = {} if others else _uris(ask, end)
    samples = []
    for key, by_time in figures.items():
        host, name = key
        for at, given in by_time.items():
            uuid = "/".join(key) if others else uuids.get((key, at))
            # A later update is a wrong clock's: all that follows would be older, and left out.
            if not uuid or "total_memory" not in given or given.get("at", at) > at + AHEAD_SECONDS:
                continue
            if others or given.get("fresh"):
                samples.append(_sample(uuid, uris.get(host, host), name, at, given))
    return sorted(samples, key=lambda sample: sample.at)


def _sample(uuid: str, uri: str, name: str, at: int, given: Mapping[str, int]) -> Sample:
    stats = {field: value for field, value in given.items() if field in MemoryStats.field_names}
    figures = Figures(
        stats=MemoryStats.from_qemu(stats),
        current_bytes=given.get("current"),
        maximum_bytes=given.get("maximum"),
    )
    return Sample(
        uri=uri,
        uuid=uuid,
        name=name,
        # Whether it is another run of the domain is told by its counters.
        id=1,
        at=given.get("at", at),
        stats=figures.stats,
        usage=Usage.of(figures),
        current_bytes=figures.current_bytes,
        maximum_bytes=figures.maximum_bytes,
    )


def _key(series: _Labels, *, others: bool) -> _Key:
    return series.get("instance" if others else "host", ""), series.get("domain", "")


def _uris(ask: _Client, at: int) -> dict[str, str]:
    """The URI of each host of the day that ends then, by its name; without those that several have,
    such as ``qemu:///system``."""
    uris = {
        series.get("host", ""): series.get("uri", "")
        for series in ask.day("virtballoon_host_info", at)
    }
    count = Counter(uris.values())
    return {host: uri for host, uri in uris.items() if uri and count[uri] == 1}


def _labels(ask: _Client, at: int) -> dict[str, dict[str, str]]:
    uuids = {_key(series, others=False): series.get("uuid", "") for series in ask.day(_INFO, at)}
    return {
        uuids[key]: {
            name.removeprefix("label_"): text
            for name, text in series.items()
            if name not in _NO_LABELS
        }
        for series in ask.day("virtballoon_domain_labels", at)
        if (key := _key(series, others=False)) in uuids
    }


class _Client:
    def __init__(self, url: str, timeout: float) -> None:
        from urllib.parse import urlsplit

        try:
            parts = urlsplit(url)
            if parts.scheme not in {"http", "https"} or not parts.hostname:
                raise ValueError("it must begin with http:// or https://")
            if not url.isascii():
                raise ValueError("it has characters that must be encoded")
            port = parts.port
        except ValueError as error:
            # It may have a password.
            shown = repr(url.rpartition("@")[2])
            raise VirtballoonError(f"{shown} is no URL of a Prometheus: {error}") from None
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        #: Without the password.
        self._url = f"{parts.scheme}://{host}{f':{port}' if port else ''}{parts.path.rstrip('/')}"
        self._user = (parts.username, parts.password or "") if parts.username else None
        self._timeout = timeout

    def range(
        self, query: str, start: int, end: int
    ) -> Iterator[tuple[_Labels, list[tuple[int, int]]]]:
        """Each series, with its whole numbers in the steps of a time."""
        found = self._ask("query_range", query=query, start=start, end=end, step=STEP_SECONDS)
        for labels, values in found:
            # Others may have stored NaN, or infinity.
            yield (
                labels,
                [
                    (at, int(value))
                    for at, value in values
                    if start <= at <= end and 0 <= value < 2.0**63
                ],
            )

    def day(self, metric: str, at: int) -> list[_Labels]:
        """The labels of each series in the day before a time, the oldest first."""
        found = self._ask("query", query=f"last_over_time({metric}[1d])", time=at)
        present = self._ask("query", query=metric, time=at)
        return [series.labels for series in (*found, *present)]

    def _ask(self, path: str, **words: object) -> list[_Series]:
        import base64
        from http.client import HTTPException
        from urllib.error import HTTPError
        from urllib.parse import unquote, urlencode
        from urllib.request import Request, urlopen

        deadline = time.monotonic() + self._timeout
        try:
            # Thanos would answer without what it cannot reach.
            query = urlencode(words | {"partial_response": "false"})
            request = Request(f"{self._url}/api/v1/{path}?{query}")
            if self._user is not None:
                word = base64.b64encode(":".join(map(unquote, self._user)).encode())
                # Not for another server that this one names.
                request.add_unredirected_header("Authorization", f"Basic {word.decode()}")
            with urlopen(request, timeout=self._timeout) as answer:
                text = _body(answer, deadline)
        except HTTPError as error:
            raise self._error(_reason(error)) from error
        except TimeoutError as error:
            raise self._slow() from error
        except (OSError, HTTPException, UnicodeError) as error:
            reason = getattr(error, "reason", None) or error
            is_slow = isinstance(reason, TimeoutError)
            raise (self._slow() if is_slow else self._error(reason)) from error
        try:
            document = json.loads(text)
            found = [_series(each) for each in document["data"]["result"]]
            warnings = document.get("warnings")
        except (
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            ArithmeticError,
            RecursionError,
        ) as error:
            raise self._error("it does not answer as a Prometheus does") from error
        if warnings:
            # Of a remote store that could not be read, say.
            raise self._error(f"its answer is incomplete: {warnings!s:.200}")
        return found

    def _slow(self) -> VirtballoonError:
        error = self._error(f"no answer in {self._timeout:g} s")
        error.hint = "a longer --timeout may help"
        return error

    def _error(self, reason: object) -> VirtballoonError:
        return VirtballoonError(f"cannot read from {self._url}: {reason}")


def _body(answer: HTTPResponse, deadline: float) -> bytes:
    """What is answered until the deadline."""
    from http.client import IncompleteRead

    parts = []
    while part := answer.read1(2**20):
        parts.append(part)
        if time.monotonic() > deadline:
            raise TimeoutError
    if answer.length:
        raise IncompleteRead(b"", answer.length)
    return b"".join(parts)


def _series(given: dict[str, Any]) -> _Series:
    values = [(int(at), float(value)) for at, value in given.get("values", ())]
    return _Series({str(name): str(text) for name, text in given["metric"].items()}, values)


def _reason(error: HTTPError) -> str:
    from http.client import HTTPException

    otherwise = f"HTTP {error.code}"
    try:
        with error:
            return f"{otherwise}: {json.loads(error.read(10_000))['error']!s:.200}"
    except (OSError, HTTPException, ValueError, KeyError, TypeError, RecursionError):
        return otherwise
