"""Reads the domains of a host into reports."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from virtballoon.engine.reader import ReadPlan
from virtballoon.engine.session import DEFAULT_TIMEOUT, HostSession
from virtballoon.errors import (
    AmbiguousDomain,
    ConnectionLost,
    DomainNotFound,
    NoBalloon,
    NotRunning,
    NotSupported,
    VirtballoonError,
)
from virtballoon.hypervisor.connection import Target
from virtballoon.hypervisor.device import locate, read_configs
from virtballoon.hypervisor.domain import AnyDomain, Domain
from virtballoon.hypervisor.uri import is_remote
from virtballoon.log import log_host
from virtballoon.model.hostmemory import HostMemory
from virtballoon.model.report import DomainReport, HostReport, HostStatus
from virtballoon.model.source import Source

if TYPE_CHECKING:
    from virtballoon.model.outcome import HostProbe, HostQomPath


def read_host(
    target: Target = None,
    domains: Iterable[str] | None = None,
    *,
    inactive: bool = False,
    via: Source = Source.LIBVIRT,
    timeout: float = DEFAULT_TIMEOUT,
) -> HostReport:
    """Read the balloon and the memory figures of a host's domains.

    Failures are in the report: as status and error of the host, or verdict and error of a domain. A
    domain that ceases to exist during the reading has no row.

    :param target: a connection, which stays open; or a URI, or None for libvirt's default, to
        connect to, read-only unless ``via`` is QOM
    :param domains: names, UUIDs and shell patterns; None for all
    :param inactive: whether "all" and patterns include domains that are not running; a named domain
        is always read
    :param via: source of the figures; QOM taints each running guest
    :param timeout: time limit including connecting, in seconds
    """
    session = HostSession(target, domains, via=via, timeout=timeout, reads_memory=True)
    return read_session(session, inactive=inactive, via=via)


def read_session(
    session: HostSession,
    *,
    inactive: bool,
    via: Source,
    each: Callable[[DomainReport], object] | None = None,
    earlier: HostReport | None = None,
) -> HostReport:
    """Read a host's domains like :func:`read_host`, in a session, with each row as it is read."""
    rows: list[DomainReport] = []
    with session, session.errors_kept():
        session.connect()
        chosen = chosen_domains(session, inactive=inactive)
        left_out = session.selection.left_out
        if via is Source.LIBVIRT:
            # The sums over all running domains of the host include them. QOM would taint them.
            chosen |= {
                d.uuid: d for d in session.domains.values() if d.uuid in left_out and d.active
            }
        for row in read_domains(session, chosen, via=via):
            rows.append(row)
            if each is not None and row.uuid not in left_out:
                each(row)
    return log_host(meeting(session, host_report(session, rows, earlier=earlier)))


def chosen_domains(session: HostSession, *, inactive: bool) -> dict[str, Domain]:
    """The selected domains, by UUID; inactive ones only if they are named or wanted."""
    return {
        one.domain.uuid: one.domain
        for one in session.selection.domains
        if one.exact or one.domain.active or inactive
    }


def meeting(session: HostSession, report: HostReport) -> HostReport:
    """The report with those domains that meet the conditions of the session's selection, or may."""
    selection = session.selection
    if not selection.conditions and not selection.left_out:
        return report
    rows = tuple(
        row
        for row in report.domains
        if row.uuid not in selection.left_out and selection.meets(row) is not False
    )
    is_complete = all(row.is_complete for row in rows)
    status = session.result(HostReport, complete=is_complete).status
    return replace(report, domains=rows, status=status)


def read_domains(
    session: HostSession, chosen: dict[str, Domain], *, via: Source
) -> Iterator[DomainReport]:
    """Read these domains of a connected host once, and yield each as soon as it is read.

    :param chosen: the domains by UUID. If the connection breaks, those of a new one replace them.
    :raise ConnectionLost: if there is no new connection; after all have been yielded
    """
    excluded = session.selection.excluded
    for row in _read_domains(session, chosen, via=via):
        yield replace(row, excluded=True) if row.uuid in excluded else row


def _read_domains(
    session: HostSession, chosen: dict[str, Domain], *, via: Source
) -> Iterator[DomainReport]:
    left = list(chosen.values())
    while left:
        scheduler = session.scheduler
        plan = ReadPlan(
            left,
            via=via,
            limits=scheduler.limits,
            is_far=scheduler.is_far(len(left)),
            xml_waits=scheduler.link is None or scheduler.link.xml_waits,
        )
        try:
            yield from map(plan.report, scheduler.run(plan, session.deadline))
            return
        except ConnectionLost as lost:
            try:
                session.reconnect(lost)
            except VirtballoonError:
                yield from map(plan.report, plan.give_up(time.monotonic(), lost))
                raise
            there = session.domains
            for uuid in list(chosen):
                if uuid in there:
                    chosen[uuid] = there[uuid]
                else:
                    del chosen[uuid]
            left = [there[uuid] for uuid in plan.rows if uuid in there]


def host_report(
    session: HostSession, rows: Iterable[DomainReport], *, earlier: HostReport | None = None
) -> HostReport:
    """The report of a host whose domains have been read, with ages by the host's clock, which an
    earlier reading helps to know; not logged."""
    rows = tuple(sorted(rows, key=lambda row: (row.name, row.uuid)))
    is_complete = all(row.is_complete for row in rows)
    memory = host_memory(session, rows)
    report = session.result(HostReport, domains=rows, complete=is_complete, memory=memory)
    return report.by_clock(earlier, is_remote=is_remote(session.uri))


def host_memory(session: HostSession, rows: Collection[DomainReport]) -> HostMemory | None:
    """The memory of a host after its session, with sums if there is a row for each running
    domain."""
    if session.memory is None:
        return None
    running = {domain.uuid for domain in session.domains.values() if domain.active}
    is_whole = session.error is None and running.issubset(row.uuid for row in rows)
    return HostMemory.of(session.memory, rows if is_whole else None)


def unread(error: VirtballoonError, uri: str, *, elapsed_seconds: float) -> HostReport:
    """The report of a host that was not connected to, not logged."""
    return HostReport(
        uri=uri,
        hostname=None,
        status=HostStatus.UNREACHABLE,
        error=error,
        elapsed_seconds=elapsed_seconds,
    )


def iter_domains(
    target: Target = None,
    domains: Iterable[str] | None = None,
    *,
    inactive: bool = False,
    via: Source = Source.LIBVIRT,
    timeout: float = DEFAULT_TIMEOUT,
) -> Iterator[DomainReport]:
    """Read a host's domains like :func:`read_host`, and yield each as soon as it is read.

    :raise HostError: if the host cannot be reached or read
    :raise DomainNotFound: before the first row, if a name, UUID or pattern matches no domain
    :raise NotSupported: if ``via`` is QOM and the host's driver is not QEMU's
    :raise ReadOnly: if ``via`` is QOM and the connection is read-only
    """
    with HostSession(target, domains, via=via, timeout=timeout) as session:
        session.connect()
        for word in session.selection.unmatched:
            raise DomainNotFound(f"no domain matches {word!r}", host=session.uri)
        for row in read_domains(session, chosen_domains(session, inactive=inactive), via=via):
            if session.selection.meets(row) is not False:
                yield row


def read_domain(
    domain: AnyDomain,
    *,
    via: Source = Source.LIBVIRT,
    timeout: float = DEFAULT_TIMEOUT,
) -> DomainReport:
    """Read one domain object of the caller. Its connection stays open.

    :raise HostError: if the connection is broken
    :raise DomainNotFound: if the domain is gone
    :raise NotSupported: if ``via`` is QOM and the host's driver is not QEMU's
    :raise ReadOnly: if ``via`` is QOM and the connection is read-only
    """
    domain = Domain.of(domain)
    with HostSession(domain.connection, (), via=via, timeout=timeout) as session:
        session.connect()
        chosen = {uuid: one for uuid, one in session.domains.items() if uuid == domain.uuid}
        # All of it: where the connection breaks, an error follows the report.
        for row in list(read_domains(session, chosen, via=via)):
            return row
    raise DomainNotFound("it no longer exists", host=domain.connection.uri, domain=domain.name)


def qom_path(domain: AnyDomain, *, via: Source = Source.LIBVIRT) -> str:
    """The QOM path of the domain's balloon, such as ``/machine/peripheral/balloon0``.

    Through libvirt, it is derived from the alias in the live XML. Through QOM, QEMU is asked if the
    XML does not have it, which waits for QEMU without limit.

    :raise NotRunning: if the domain is not running
    :raise NoBalloon: if it has no balloon device
    :raise NotSupported: if the hypervisor is not QEMU
    """
    domain = Domain.of(domain)
    host = domain.connection.uri
    domain.connection.require_monitor()
    configs = read_configs(domain)
    if configs.live is None:
        raise NotRunning("it does not run, so it has no QOM path", host=host, domain=domain.name)
    balloon = configs.live.balloon
    if via is Source.QOM:
        balloon = locate(domain.monitor(), balloon)
    if balloon is None:
        raise NoBalloon("it has no balloon device", host=host, domain=domain.name)
    if balloon.qom_path is None:
        raise NotSupported("its XML does not contain the QOM path", host=host, domain=domain.name)
    return balloon.qom_path


def probe_host(target: Target, *, timeout: float = DEFAULT_TIMEOUT) -> HostProbe:
    """Check whether a host answers, and read its memory and its domains', over a read-only
    connection. What a domain does not say is unknown, and no error."""
    from virtballoon.model.outcome import HostProbe

    session = HostSession(target, None, timeout=timeout, reads_memory=True)
    rows: list[DomainReport] = []
    with session, session.errors_kept():
        session.connect()
        chosen = chosen_domains(session, inactive=False)
        rows.extend(read_domains(session, chosen, via=Source.LIBVIRT))
    reached = session.hostname is not None
    domains = [selected.domain for selected in session.selection.domains]
    probe = session.result(
        HostProbe,
        complete=True,
        running=sum(domain.active for domain in domains) if reached else None,
        defined=sum(domain.persistent for domain in domains) if reached else None,
        memory=host_memory(session, rows),
    )
    return log_host(probe, domains=len(domains))


def find_qom_path(
    target: Target,
    domain: str,
    *,
    via: Source = Source.LIBVIRT,
    timeout: float = DEFAULT_TIMEOUT,
) -> HostQomPath:
    """Find a domain by name, UUID or pattern, and the QOM path of its balloon.

    If several domains match, or the domain has no path, that is the ``error``.
    """
    from virtballoon.model.outcome import HostQomPath, QomPath

    session = HostSession(target, [domain], via=via, timeout=timeout)
    paths: list[QomPath] = []
    with session, session.errors_kept():
        session.connect()
        found = [selected.domain for selected in session.selection.domains]
        if len(found) > 1:
            raise AmbiguousDomain(f"{len(found)} domains match {domain!r}", host=session.uri)
        for one in found:
            path = session.within(partial(qom_path, one, via=via))
            paths.append(QomPath(name=one.name, uuid=one.uuid, qom_path=path))
    result = session.result(HostQomPath, complete=True, domains=tuple(paths))
    return log_host(result, domains=len(paths))
