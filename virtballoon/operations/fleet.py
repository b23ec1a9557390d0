"""Many hosts at a time, each under its own deadline.

What is done on a host is imported while it is being connected to.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from virtballoon.engine.calls import Calls
from virtballoon.engine.session import DEFAULT_TIMEOUT, HostSession
from virtballoon.errors import DomainNotFound, HostError, VirtballoonError
from virtballoon.hypervisor.connection import Target
from virtballoon.model.source import Source
from virtballoon.system import cleanup

if TYPE_CHECKING:
    from virtballoon.model.outcome import HostChanges, HostProbe
    from virtballoon.model.report import HostReport
    from virtballoon.operations.reading import QomPath
    from virtballoon.operations.waiting import Onlooker

#: So many hosts are visited at a time. Each has its own time, which begins with its visit.
DEFAULT_JOBS: Final = 32

T = TypeVar("T")


def read_hosts(
    targets: Sequence[Target],
    domains: Iterable[str] | None = None,
    *,
    inactive: bool = False,
    via: Source = Source.LIBVIRT,
    timeout: float = DEFAULT_TIMEOUT,
    jobs: int = DEFAULT_JOBS,
    max_age: float | None = None,
    each: Callable[[HostReport], object] | None = None,
    note: Onlooker | None = None,
) -> tuple[HostReport, ...]:
    """Read several hosts as :func:`read_host` does, many at a time.

    :param jobs: how many hosts are visited at a time
    :param max_age: the greatest age of figures, in seconds; where they are older, guests are asked
        as :func:`read_fresh` does. None for not asking.
    :param each: called in this thread with each report as soon as it is there
    :param note: called in other threads with a host's URI and the names of its domains that are
        awaited
    :return: a report for each target, in their order
    """
    if max_age is None:
        visits = _readings(targets, domains, inactive=inactive, via=via, timeout=timeout)
        return _visit_all(visits, jobs, each)
    words = None if domains is None else tuple(domains)
    debts: set[cleanup.Cleanup] = set()
    abandoned = threading.Event()
    options: dict[str, Any] = {"inactive": inactive, "via": via, "timeout": timeout}
    options |= {"max_age": max_age, "note": note, "debts": debts, "abandoned": abandoned}
    try:
        visits = [partial(_read_fresh, target, words, **options) for target in targets]
        return _visit_all(visits, jobs, each)
    except BaseException:
        # The visits are in threads that end with the process, which may be about to.
        abandoned.set()
        from virtballoon.log import log_pleas

        log_pleas(cleanup.undo_all(debts, cleanup.UNDO_SECONDS))
        raise


def _read_fresh(
    target: Target,
    words: Sequence[str] | None,
    *,
    via: Source,
    timeout: float,
    **options: Any,
) -> HostReport:
    session = HostSession(target, words, via=via, readonly=False, timeout=timeout).start()
    from virtballoon.operations.refreshing import read_session_fresh

    return read_session_fresh(session, via=via, timeout=timeout, **options)


def read_rates(
    targets: Sequence[Target],
    domains: Iterable[str] | None = None,
    *,
    seconds: float,
    inactive: bool = False,
    via: Source = Source.LIBVIRT,
    timeout: float = DEFAULT_TIMEOUT,
    jobs: int = DEFAULT_JOBS,
    max_age: float | None = None,
    each: Callable[[HostReport], object] | None = None,
    note: Onlooker | None = None,
) -> tuple[HostReport, ...]:
    """Read several hosts twice as :func:`read_hosts` does, so that each domain's report has what
    the guest did in between.

    :param seconds: from the beginning of the first reading to that of the second, which waits for
        the end of the first. Guests that are polled less often have no rates.
    :param max_age: as for :func:`read_hosts`, and for the second reading less than ``seconds``, so
        that it is of other figures
    :param each: called in this thread with each report of the second reading
    :return: the second reading of each target, in their order
    """
    words = None if domains is None else tuple(domains)
    options: dict[str, Any] = {"inactive": inactive, "via": via, "timeout": timeout, "jobs": jobs}
    began = time.monotonic()
    earlier = read_hosts(targets, words, **options, max_age=max_age, note=note)
    time.sleep(max(0.0, began + seconds - time.monotonic()))
    if max_age is not None:
        # Of the two moments that lie between, each may seem up to a second older than it is.
        max_age = min(max_age, max(0.0, seconds - 1))
    later = read_hosts(targets, words, **options, max_age=max_age, each=each, note=note)
    return tuple(host.since(before) for before, host in zip(earlier, later, strict=True))


def iter_hosts(
    targets: Sequence[Target],
    domains: Iterable[str] | None = None,
    *,
    inactive: bool = False,
    via: Source = Source.LIBVIRT,
    timeout: float = DEFAULT_TIMEOUT,
    jobs: int = DEFAULT_JOBS,
) -> Iterator[HostReport]:
    """Read several hosts as :func:`read_hosts` does, and yield each as soon as it is read."""
    visits = _readings(targets, domains, inactive=inactive, via=via, timeout=timeout)
    for _, host in as_they_end(visits, jobs):
        yield host


def _readings(
    targets: Sequence[Target],
    domains: Iterable[str] | None,
    *,
    inactive: bool,
    via: Source,
    timeout: float,
) -> list[Callable[[], HostReport]]:
    words = None if domains is None else tuple(domains)
    return [
        partial(_read, target, words, inactive=inactive, via=via, timeout=timeout)
        for target in targets
    ]


def _read(
    target: Target, words: Sequence[str] | None, *, inactive: bool, via: Source, timeout: float
) -> HostReport:
    readonly = via is Source.LIBVIRT
    session = HostSession(target, words, via=via, readonly=readonly, timeout=timeout).start()
    # While it connects.
    from virtballoon.operations.reading import read_session

    return read_session(session, inactive=inactive, via=via)


def probe_hosts(
    targets: Sequence[Target],
    *,
    timeout: float = DEFAULT_TIMEOUT,
    jobs: int = DEFAULT_JOBS,
    each: Callable[[HostProbe], object] | None = None,
) -> tuple[HostProbe, ...]:
    """See which hosts answer: one read-only visit each, which asks no guest.

    :param timeout: seconds for each host
    :param jobs: how many hosts are visited at a time
    :param each: called in this thread with each result as soon as it is there
    :return: what each target said, in their order
    """
    return _visit_all([partial(_probe, target, timeout) for target in targets], jobs, each)


def domain_names(
    targets: Sequence[Target],
    *,
    timeout: float = DEFAULT_TIMEOUT,
    jobs: int = DEFAULT_JOBS,
) -> frozenset[str]:
    """The names of all domains, running or not, of those hosts that answer: one read-only visit
    each, which asks no guest.

    :param timeout: seconds for each host
    :param jobs: how many hosts are visited at a time
    """

    def visit(target: Target) -> set[str]:
        session = HostSession(target, None, readonly=True, timeout=timeout)
        with session, session.errors_kept():
            session.connect()
        return {selected.domain.name for selected in session.selection.domains}

    return frozenset().union(*_visit_all([partial(visit, target) for target in targets], jobs))


def find_qom_paths(
    targets: Sequence[Target],
    domain: str,
    *,
    via: Source = Source.LIBVIRT,
    timeout: float = DEFAULT_TIMEOUT,
    jobs: int = DEFAULT_JOBS,
    each: Callable[[QomPath | VirtballoonError], object] | None = None,
) -> tuple[QomPath | VirtballoonError, ...]:
    """Look for a domain on several hosts as :func:`find_qom_path` does, many at a time.

    :param jobs: how many hosts are visited at a time
    :param each: called in this thread with each answer as soon as it is there
    :return: for each target, in their order, where QEMU has its balloon, or why that is not known
    """
    from virtballoon.operations.reading import find_qom_path

    def visit(target: Target) -> QomPath | VirtballoonError:
        started = time.monotonic()
        answer: QomPath | VirtballoonError
        try:
            answer = find_qom_path(target, domain, via=via, timeout=timeout)
        except VirtballoonError as error:
            answer = error
        _log_search(answer, time.monotonic() - started)
        return answer

    return _visit_all([partial(visit, target) for target in targets], jobs, each)


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
    wait: float | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    jobs: int = DEFAULT_JOBS,
    each: Callable[[HostChanges], object] | None = None,
    note: Onlooker | None = None,
) -> tuple[HostChanges, ...]:
    """Set the interval on several hosts as :func:`set_intervals` does, many at a time.

    A name, UUID or pattern may match on some hosts only. One that matches on none of those that
    answered keeps everything as it is. Where several hosts are given and domains are named, each
    host is visited twice within its time: to look for them, in half of it at most, and to change
    them.

    :param jobs: how many hosts are visited at a time
    :param each: called in this thread with the changes of each host as soon as they are made
    :param note: called in other threads with a host's URI and the names of its domains that are
        still awaited
    :return: the changes of each target, in their order
    :raise InvalidInterval: when QEMU takes no such interval; nothing was done
    """
    from virtballoon.log import log_host
    from virtballoon.model.report import HostStatus
    from virtballoon.operations.setting import check_interval, set_intervals

    words = None if domains is None else tuple(domains)
    check_interval(seconds, via=Source.LIBVIRT if config else via)

    def visit(target: Target, meant: Sequence[str] | None, spent: float = 0) -> HostChanges:
        host = set_intervals(
            target,
            seconds,
            meant,
            live=live,
            config=config,
            where_off=where_off,
            via=via,
            dry_run=dry_run,
            wait=wait,
            timeout=timeout - spent,
            note=note,
        )
        host = replace(host, elapsed_seconds=host.elapsed_seconds + spent)
        if spent and host.unmatched and host.error is None:
            gone = DomainNotFound(
                f"{', '.join(map(repr, host.unmatched))} went away; nothing was changed here",
                host=host.uri,
            )
            host = replace(host, status=HostStatus.PARTIAL, error=gone)
        return host

    if words is None or len(targets) == 1:
        return _visit_all([partial(visit, target, words) for target in targets], jobs, each)

    def missed(host: HostChanges) -> None:
        if each is not None and host.hostname is None:
            each(host)

    # A silent host must not use up the time in which the others are changed: each has what it
    # has not spent itself.
    looks = [partial(_look_for, target, words, timeout / 2) for target in targets]
    found = _visit_all(looks, jobs, missed)
    there = {index: host for index, host in enumerate(found) if host.hostname is not None}
    if any(all(word in host.unmatched for host in there.values()) for word in words):
        for host in there.values():
            log_host(host)
            if each is not None:
                each(host)
        return found
    meant = {
        index: [word for word in words if word not in host.unmatched]
        for index, host in there.items()
    }
    for index, host in there.items():
        if not meant[index]:
            log_host(host)
            if each is not None:
                each(host)
    changed = [index for index in there if meant[index]]
    visits = [partial(visit, targets[i], meant[i], there[i].elapsed_seconds) for i in changed]
    done = dict(zip(changed, _visit_all(visits, jobs, each), strict=True))
    return tuple(done.get(index, host) for index, host in enumerate(found))


def _look_for(target: Target, words: Sequence[str], timeout: float) -> HostChanges:
    """Only find out which of the domains a host has."""
    from virtballoon.log import log_host
    from virtballoon.model.outcome import HostChanges

    session = HostSession(target, words, readonly=True, timeout=timeout)
    with session, session.errors_kept():
        session.connect()
    host = session.result(HostChanges, complete=True)
    # The others are visited again.
    return log_host(host) if host.hostname is None else host


def _log_search(answer: QomPath | VirtballoonError, elapsed_seconds: float) -> None:
    from virtballoon.log import log_host
    from virtballoon.model.report import HostResult, HostStatus
    from virtballoon.operations.reading import QomPath

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


def _probe(target: Target, timeout: float) -> HostProbe:
    from virtballoon.log import log_host
    from virtballoon.model.outcome import HostProbe

    session = HostSession(target, None, readonly=True, timeout=timeout)
    with session, session.errors_kept():
        session.connect()
    reached = session.hostname is not None
    domains = [selected.domain for selected in session.selection.domains]
    probe = session.result(
        HostProbe,
        complete=True,
        running=sum(domain.active for domain in domains) if reached else None,
        defined=sum(domain.persistent for domain in domains) if reached else None,
    )
    return log_host(probe, domains=len(domains))


def _visit_all(
    visits: Sequence[Callable[[], T]], jobs: int, each: Callable[[T], object] | None = None
) -> tuple[T, ...]:
    results: dict[int, T] = {}
    for index, result in as_they_end(visits, jobs):
        results[index] = result
        if each is not None:
            each(result)
    return tuple(results[index] for index in range(len(visits)))


def as_they_end(visits: Sequence[Callable[[], T]], jobs: int) -> Iterator[tuple[int, T]]:
    """Make these visits, so many at a time, and yield the number and the outcome of each as soon
    as it ends."""
    if jobs < 1:
        raise ValueError(f"at least 1 host is visited at a time, not {jobs}")
    calls: Calls[int] = Calls()
    waiting = list(enumerate(visits))[::-1]
    results: dict[int, T] = {}

    def keep(index: int, visit: Callable[[], T]) -> None:
        results[index] = visit()

    try:
        while waiting or calls.in_flight:
            while waiting and len(calls.in_flight) < jobs:
                index, visit = waiting.pop()
                calls.submit(index, partial(keep, index, visit))
            answer = calls.wait(math.inf)
            if answer is None:
                continue
            if answer.error is not None:
                raise answer.error
            yield answer.key, results.pop(answer.key)
    finally:
        calls.close()
