"""Reads the domains of a host into reports."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from virtballoon.engine.calls import call_within
from virtballoon.engine.reader import Sweep
from virtballoon.engine.session import DEFAULT_TIMEOUT, Visit
from virtballoon.errors import (
    AmbiguousDomain,
    ConnectionLost,
    DomainNotFound,
    NoBalloon,
    NotRunning,
    NotSupported,
    VirtballoonError,
)
from virtballoon.hypervisor.connection import AnyDomain, Domain, Target
from virtballoon.hypervisor.device import locate, read_configs
from virtballoon.hypervisor.uri import is_remote
from virtballoon.log import log_host
from virtballoon.model.report import DomainReport, HostReport, HostStatus
from virtballoon.model.source import Source


def read_host(
    target: Target = None,
    domains: Iterable[str] | None = None,
    *,
    inactive: bool = False,
    via: Source = Source.LIBVIRT,
    timeout: float = DEFAULT_TIMEOUT,
) -> HostReport:
    """Read the balloon and the memory figures of a host's domains.

    Whatever fails is in the report: a host that does not answer has a status and an error, a
    domain that does not has a verdict and an error. A domain that vanishes meanwhile has no row.

    :param target: a connection, which stays open; or a URI, or None for libvirt's default, to
        connect to: read-only, unless ``via`` is QOM
    :param domains: names, UUIDs and shell patterns; None for all
    :param inactive: whether "all" and patterns mean the domains that do not run, too; a domain
        that is named is always read
    :param via: where the figures come from. QOM marks each running guest as tainted.
    :param timeout: seconds for everything, from connecting on
    """
    visit = Visit(target, domains, via=via, readonly=via is Source.LIBVIRT, timeout=timeout)
    return read_visited(visit, inactive=inactive, via=via)


def read_visited(
    visit: Visit,
    *,
    inactive: bool,
    via: Source,
    each: Callable[[DomainReport], object] | None = None,
    earlier: HostReport | None = None,
) -> HostReport:
    """Read a host's domains as :func:`read_host` does, on a visit that has been begun.

    :param each: called in this thread with each domain as soon as it is read
    :param earlier: the reading before it of the same host, to judge by what has moved since
    """
    rows: list[DomainReport] = []
    with visit:
        for row in swept(visit, selected(visit, inactive=inactive), via=via):
            rows.append(row)
            if each is not None:
                each(row)
    return host_report(visit, rows, earlier=earlier)


def selected(visit: Visit, *, inactive: bool) -> dict[str, Domain]:
    """The domains that a caller means, by UUID.

    :param inactive: whether "all" and patterns mean the domains that do not run, too
    """
    return {
        one.domain.uuid: one.domain
        for one in visit.selection.domains
        if one.exact or one.domain.active or inactive
    }


def swept(visit: Visit, meant: dict[str, Domain], *, via: Source) -> Iterator[DomainReport]:
    """Read these domains of a visited host once, and yield each as soon as it is read.

    :param meant: the domains by UUID. Where the connection breaks and is opened again, they are
        exchanged for those of the new one, and those that are gone leave.
    :raise ConnectionLost: when the connection breaks for good, after all have been yielded
    """
    left = list(meant.values())
    while left:
        sweep = Sweep(visit.connection, left, via=via, deadline=visit.deadline, link=visit.link)
        try:
            yield from sweep
            return
        except ConnectionLost as lost:
            visit.deadline = sweep.deadline
            try:
                there = {domain.uuid: domain for domain in visit.reconnect(lost)}
            except VirtballoonError:
                yield from sweep.give_up(lost)
                raise
            for uuid in list(meant):
                if uuid in there:
                    meant[uuid] = there[uuid]
                else:
                    del meant[uuid]
            left = [there[domain.uuid] for domain in sweep.unread if domain.uuid in there]


def host_report(
    visit: Visit, rows: Iterable[DomainReport], *, earlier: HostReport | None = None
) -> HostReport:
    """The report of a host whose domains have been read, logged.

    :param earlier: the reading before it of the same host, to judge by what has moved since
    """
    return log_host(unlogged_report(visit, rows, earlier=earlier))


def unlogged_report(
    visit: Visit, rows: Iterable[DomainReport], *, earlier: HostReport | None = None
) -> HostReport:
    """The report of a host whose domains have been read, by the host's clock."""
    rows = tuple(sorted(rows, key=lambda row: (row.name, row.uuid)))
    report = HostReport(
        uri=visit.uri,
        hostname=visit.hostname,
        status=visit.status(complete=all(row.is_complete for row in rows)),
        error=visit.error,
        elapsed_seconds=visit.elapsed_seconds,
        domains=rows,
        unmatched=visit.selection.unmatched,
    )
    return report.by_clock(earlier, is_remote=is_remote(visit.uri))


def unread(error: VirtballoonError, uri: str, *, elapsed_seconds: float) -> HostReport:
    """The report of a host that was not visited, not logged."""
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
    """Read a host's domains as :func:`read_host` does, and yield each as soon as it is read.

    :raise HostError: when the host cannot be reached or read
    :raise DomainNotFound: before anything else, when a name, UUID or pattern matches no domain
    :raise NotSupported: ``via`` is QOM and the host's driver is not QEMU's
    :raise ReadOnly: ``via`` is QOM and the connection may not write
    """
    visit = Visit(target, domains, via=via, readonly=via is Source.LIBVIRT, timeout=timeout)
    with visit:
        for word in visit.selection.unmatched:
            raise DomainNotFound(f"no domain matches {word!r}", host=visit.uri)
        yield from swept(visit, selected(visit, inactive=inactive), via=via)
    if visit.error is not None:
        raise visit.error


def read_domain(
    domain: AnyDomain,
    *,
    via: Source = Source.LIBVIRT,
    timeout: float = DEFAULT_TIMEOUT,
) -> DomainReport:
    """Read one domain that the caller has at hand. Its connection stays open.

    :raise HostError: when the connection is broken
    :raise DomainNotFound: when the domain is gone
    :raise NotSupported: ``via`` is QOM and the host's driver is not QEMU's
    :raise ReadOnly: ``via`` is QOM and the connection may not write
    """
    deadline = time.monotonic() + timeout
    domain = Domain.of(domain)
    if via is Source.QOM:
        domain.connection.require_monitor()
    link = call_within(domain.connection.link, timeout)
    sweep = Sweep(
        domain.connection, [domain], via=via, deadline=deadline, link=link[0] if link else None
    )
    for row in sweep:
        return row
    raise DomainNotFound("it vanished", host=domain.connection.uri, domain=domain.name)


def qom_path(domain: AnyDomain, *, via: Source = Source.LIBVIRT) -> str:
    """Where QEMU has the domain's balloon, such as ``/machine/peripheral/balloon0``.

    Through libvirt it follows from the alias in the live XML; through QOM it is looked up where
    the XML does not tell, which waits for the guest's QEMU without limit.

    :raise NotRunning: a domain that does not run has no QEMU
    :raise NoBalloon: it has no balloon device
    :raise NotSupported: a hypervisor that is not QEMU
    """
    domain = Domain.of(domain)
    host = domain.connection.uri
    domain.connection.require_monitor()
    configs = read_configs(domain)
    if configs.live is None:
        raise NotRunning("it does not run, so it has no QOM path", host=host, domain=domain.name)
    balloon = configs.live.balloon
    if via is Source.QOM:
        balloon = locate(domain.monitor(), balloon, everywhere=True)
    if balloon is None:
        raise NoBalloon("it has no balloon device", host=host, domain=domain.name)
    if balloon.qom_path is None:
        raise NotSupported("its XML does not tell the QOM path", host=host, domain=domain.name)
    return balloon.qom_path


@dataclass(frozen=True, slots=True, kw_only=True)
class QomPath:
    """Where QEMU has a domain's balloon.

    :ivar uri: the host's URI
    :ivar hostname: the host's own name
    :ivar name: the domain's name
    :ivar uuid: the domain's UUID
    :ivar qom_path: the path
    """

    uri: str
    hostname: str
    name: str
    uuid: str
    qom_path: str


def find_qom_path(
    target: Target,
    domain: str,
    *,
    via: Source = Source.LIBVIRT,
    timeout: float = DEFAULT_TIMEOUT,
) -> QomPath:
    """Find a domain by name, UUID or pattern, and where QEMU has its balloon.

    :raise HostError: when the host cannot be reached or does not answer in time
    :raise DomainNotFound: when no domain matches
    :raise AmbiguousDomain: when more than one does
    :raise NotRunning: a domain that does not run has no QEMU
    :raise NoBalloon: it has no balloon device
    """
    with Visit(target, [domain], via=via, readonly=via is Source.LIBVIRT, timeout=timeout) as visit:
        if visit.error is None:
            meant = [selected.domain for selected in visit.selection.domains]
            if not meant:
                raise DomainNotFound(f"no domain matches {domain!r}", host=visit.uri)
            if len(meant) > 1:
                raise AmbiguousDomain(f"{len(meant)} domains match {domain!r}", host=visit.uri)
            path = visit.within(lambda: qom_path(meant[0], via=via))
            return QomPath(
                uri=visit.uri,
                hostname=visit.hostname or "",
                name=meant[0].name,
                uuid=meant[0].uuid,
                qom_path=path,
            )
    assert visit.error is not None
    raise visit.error
