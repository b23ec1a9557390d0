"""Many hosts at a time, each under its own deadline."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final, TypeVar

from virtballoon.calls import Calls
from virtballoon.connection import Target
from virtballoon.errors import DomainNotFound, HostError, VirtballoonError
from virtballoon.host import DEFAULT_TIMEOUT, Visit
from virtballoon.log import log_host
from virtballoon.reading import QomPath, find_qom_path, read_host
from virtballoon.report import HostChanges, HostReport, HostResult, HostStatus, Source
from virtballoon.setting import check_interval, set_intervals

#: So many hosts are visited at a time.
_JOBS: Final = 32

T = TypeVar("T")


def read_hosts(
    targets: Sequence[Target],
    domains: Iterable[str] | None = None,
    *,
    inactive: bool = False,
    via: Source = Source.LIBVIRT,
    timeout: float = DEFAULT_TIMEOUT,
) -> tuple[HostReport, ...]:
    """Read several hosts as :func:`read_host` does, all at once.

    :return: a report for each target, in their order
    """
    words = None if domains is None else tuple(domains)
    return _visit_all(
        [
            partial(read_host, target, words, inactive=inactive, via=via, timeout=timeout)
            for target in targets
        ]
    )


def find_qom_paths(
    targets: Sequence[Target],
    domain: str,
    *,
    via: Source = Source.LIBVIRT,
    timeout: float = DEFAULT_TIMEOUT,
) -> tuple[QomPath | VirtballoonError, ...]:
    """Look for a domain on several hosts as :func:`find_qom_path` does, all at once.

    :return: for each target, in their order, where QEMU has its balloon, or why that is not known
    """

    def visit(target: Target) -> QomPath | VirtballoonError:
        started = time.monotonic()
        answer: QomPath | VirtballoonError
        try:
            answer = find_qom_path(target, domain, via=via, timeout=timeout)
        except VirtballoonError as error:
            answer = error
        _log_search(answer, time.monotonic() - started)
        return answer

    return _visit_all([partial(visit, target) for target in targets])


def set_intervals_on_hosts(
    targets: Sequence[Target],
    seconds: int,
    domains: Iterable[str] | None,
    *,
    live: bool = False,
    config: bool = False,
    where_off: bool = False,
    via: Source = Source.LIBVIRT,
    dry_run: bool = False,
    timeout: float = DEFAULT_TIMEOUT,
) -> tuple[HostChanges, ...]:
    """Set the interval on several hosts as :func:`set_intervals` does, all at once.

    A name, UUID or pattern may match on some hosts only. One that matches on none of those that
    answered keeps everything as it is. Where several hosts are given and domains are named, each
    host is visited twice within its time: to look for them, in half of it at most, and to change
    them.

    :return: the changes of each target, in their order
    :raise InvalidInterval: when QEMU takes no such interval; nothing was done
    """
    words = None if domains is None else tuple(domains)
    check_interval(seconds, via=Source.LIBVIRT if config else via)
    deadline = time.monotonic() + timeout

    def visit(target: Target, meant: Sequence[str] | None) -> HostChanges:
        return set_intervals(
            target,
            seconds,
            meant,
            live=live,
            config=config,
            where_off=where_off,
            via=via,
            dry_run=dry_run,
            timeout=deadline - time.monotonic(),
        )

    if words is None or len(targets) == 1:
        return _visit_all([partial(visit, target, words) for target in targets])
    # A silent host must not use up the time in which the others are changed.
    found = _visit_all([partial(_look_for, target, words, timeout / 2) for target in targets])
    answered = [host for host in found if host.hostname is not None]
    if any(all(word in host.unmatched for host in answered) for word in words):
        for host in answered:
            log_host(host)
        return found
    there = [index for index, host in enumerate(found) if host.hostname is not None]
    meant = [[word for word in words if word not in found[index].unmatched] for index in there]
    done = _visit_all([partial(visit, targets[i], m) for i, m in zip(there, meant, strict=True)])
    changes = dict(enumerate(found)) | dict(zip(there, done, strict=True))
    return tuple(changes.values())


def _look_for(target: Target, words: Sequence[str], timeout: float) -> HostChanges:
    """Only find out which of the domains a host has."""
    with Visit(target, words, via=Source.LIBVIRT, readonly=True, timeout=timeout) as visit:
        pass
    host = HostChanges(
        uri=visit.uri,
        hostname=visit.hostname,
        status=visit.status(complete=True),
        error=visit.error,
        elapsed_seconds=visit.elapsed_seconds,
        unmatched=visit.selection.unmatched,
    )
    # The others are visited again.
    return log_host(host) if host.hostname is None else host


def _log_search(answer: QomPath | VirtballoonError, elapsed_seconds: float) -> None:
    path = answer if isinstance(answer, QomPath) else None
    error = answer if isinstance(answer, VirtballoonError) else None
    uri = path.uri if path is not None else str(error and error.host)
    if isinstance(error, DomainNotFound):
        # Another host may have it.
        error = None
    unreachable = isinstance(error, HostError)
    status = HostStatus.PARTIAL if error is not None else HostStatus.OK
    log_host(
        HostResult(
            uri=uri,
            hostname=path.hostname if path is not None else None,
            status=HostStatus.UNREACHABLE if unreachable else status,
            error=error,
            elapsed_seconds=elapsed_seconds,
        ),
        domains=int(path is not None),
    )


def _visit_all(visits: Sequence[Callable[[], T]]) -> tuple[T, ...]:
    calls: Calls[int] = Calls()
    waiting = list(enumerate(visits))[::-1]
    results: dict[int, T] = {}

    def keep(index: int, visit: Callable[[], T]) -> None:
        results[index] = visit()

    try:
        while waiting or calls.in_flight:
            while waiting and len(calls.in_flight) < _JOBS:
                index, visit = waiting.pop()
                calls.submit(index, partial(keep, index, visit))
            answer = calls.wait(60)
            if answer is not None and answer.error is not None:
                raise answer.error
    finally:
        calls.close()
    return tuple(results[index] for index in range(len(visits)))
