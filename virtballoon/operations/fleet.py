"""What a caller asks for, on many hosts at a time.

Changing and refreshing are imported where they are used: a reading starts faster without them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from virtballoon.engine.fleet import DEFAULT_JOBS, on_hosts
from virtballoon.engine.session import DEFAULT_TIMEOUT, HostSession
from virtballoon.errors import DomainNotFound
from virtballoon.hypervisor.connection import Target
from virtballoon.log import log_host, log_unrestored
from virtballoon.model.report import HostReport, HostStatus
from virtballoon.model.selection import means_all
from virtballoon.model.source import Source
from virtballoon.operations.reading import read_host
from virtballoon.system import cleanup

if TYPE_CHECKING:
    from virtballoon.model.outcome import HostChanges
    from virtballoon.operations.setting import IntervalRequest
    from virtballoon.operations.waiting import WaitCallback


def read_hosts(
    targets: Sequence[Target],
    domains: Iterable[str] | None = None,
    *,
    inactive: bool = False,
    via: Source = Source.LIBVIRT,
    timeout: float = DEFAULT_TIMEOUT,
    jobs: int = DEFAULT_JOBS,
    max_age: float | None = None,
    rates_over: float | None = None,
    on_result: Callable[[HostReport], object] | None = None,
    on_waiting: WaitCallback | None = None,
) -> tuple[HostReport, ...]:
    """Read several hosts at a time with :func:`on_hosts`, each as :func:`read_host` does.

    :param max_age: the greatest age of figures, in seconds; older ones are refreshed as
        :func:`read_fresh` does. None for not refreshing.
    :param rates_over: read twice, and return the second readings with the rates in between: seconds
        from the start of the first reading to that of the second, which waits for the end of the
        first. Domains that are polled less often have no rates. None for reading once.
    """
    words = None if domains is None else tuple(domains)
    cancelled = threading.Event()
    visit: Callable[..., HostReport] = read_host
    if max_age is not None:
        from virtballoon.operations.refreshing import read_fresh

        visit = partial(read_fresh, max_age=max_age, on_waiting=on_waiting, cancelled=cancelled)
    visit = partial(visit, domains=words, inactive=inactive, via=via, timeout=timeout)
    try:
        if rates_over is None:
            return on_hosts(targets, visit, jobs=jobs, on_result=on_result)
        began = time.monotonic()
        earlier = on_hosts(targets, visit, jobs=jobs)
        time.sleep(max(0.0, began + rates_over - time.monotonic()))
        if max_age is not None:
            # Each of the two moments in between may seem up to a second older than it is.
            visit = partial(visit, max_age=min(max_age, max(0.0, rates_over - 1)))
        later = on_hosts(targets, visit, jobs=jobs, on_result=on_result)
        return tuple(host.since(before) for before, host in zip(earlier, later, strict=True))
    except BaseException:
        # The visits are in threads that end with the process, which may be about to end.
        cancelled.set()
        if max_age is not None:
            log_unrestored(cleanup.undo_all(cleanup.UNDO_SECONDS))
        raise


def domain_names(
    targets: Sequence[Target], *, timeout: float = DEFAULT_TIMEOUT, jobs: int = DEFAULT_JOBS
) -> frozenset[str]:
    """The names of all domains, running or not, of the hosts that answer."""

    def names(target: Target) -> set[str]:
        session = HostSession(target, None, timeout=timeout)
        with session, session.errors_kept():
            session.connect()
        return {selected.domain.name for selected in session.selection.domains}

    return frozenset().union(*on_hosts(targets, names, jobs=jobs))


def set_intervals_on_hosts(
    targets: Sequence[Target],
    request: IntervalRequest | int,
    domains: Iterable[str] | None,
    *,
    wait: float | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    jobs: int = DEFAULT_JOBS,
    on_result: Callable[[HostChanges], object] | None = None,
    on_waiting: WaitCallback | None = None,
) -> tuple[HostChanges, ...]:
    """Set the interval on several hosts at a time with :func:`on_hosts`, on each as
    :func:`set_intervals` does.

    A name, UUID or pattern may match on some hosts only. If it matches on none of those that
    answered, nothing is changed. So where domains are named, each of several hosts is visited twice
    within its time: first to find them, in half of it at most.
    """
    from virtballoon.operations.setting import IntervalRequest, set_intervals

    request = IntervalRequest.of(request)
    words = None if domains is None else tuple(domains)
    change = partial(set_intervals, request=request, wait=wait, on_waiting=on_waiting)
    if words is None or means_all(words) or len(targets) == 1:
        visit = partial(change, domains=words, timeout=timeout)
        return on_hosts(targets, visit, jobs=jobs, on_result=on_result)
    found = on_hosts(targets, partial(_find, words=words, timeout=timeout / 2), jobs=jobs)
    reached = [host for host in found if host.hostname is not None]
    is_unknown = any(all(word in host.unmatched for host in reached) for word in words)

    def visit_again(index: int) -> HostChanges:
        host = found[index]
        there = [word for word in words if word not in host.unmatched]
        if is_unknown or host.hostname is None or means_all(there):
            return log_host(host)
        # The time that other hosts took does not count.
        spent = host.elapsed_seconds
        host = change(targets[index], domains=there, timeout=timeout - spent)
        host = replace(host, elapsed_seconds=host.elapsed_seconds + spent)
        if not host.unmatched or host.error is not None:
            return host
        names = ", ".join(map(repr, host.unmatched))
        gone = DomainNotFound(f"{names} went away; nothing was changed here", host=host.uri)
        return replace(host, status=HostStatus.PARTIAL, error=gone)

    return on_hosts(range(len(targets)), visit_again, jobs=jobs, on_result=on_result)


def _find(target: Target, *, words: Sequence[str], timeout: float) -> HostChanges:
    from virtballoon.model.outcome import HostChanges

    session = HostSession(target, words, timeout=timeout)
    with session, session.errors_kept():
        session.connect()
    return session.result(HostChanges, complete=True)
