"""Reads the domains of a host into reports."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING

from virtballoon.engine.calls import BackgroundCall
from virtballoon.engine.limits import Deadline
from virtballoon.engine.reader import DomainReader
from virtballoon.engine.scheduler import Scheduler
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
from virtballoon.model.report import DomainReport, HostReport, HostResult, HostStatus
from virtballoon.model.source import Source
from virtballoon.model.value import Value

if TYPE_CHECKING:
    from virtballoon.model.outcome import HostProbe


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
    session = HostSession(target, domains, via=via, timeout=timeout)
    return read_session(session, inactive=inactive, via=via)


def read_session(
    session: HostSession,
    *,
    inactive: bool,
    via: Source,
    each: Callable[[DomainReport], object] | None = None,
    earlier: HostReport | None = None,
) -> HostReport:
    """Read a host's domains as :func:`read_host` does, in a session.

    :param each: called in this thread with each domain as soon as it is read
    :param earlier: the reading before it of the same host, to judge by what has moved since
    """
    rows: list[DomainReport] = []
    with session, session.errors_kept():
        session.connect()
        for row in read_domains(session, chosen_domains(session, inactive=inactive), via=via):
            rows.append(row)
            if each is not None:
                each(row)
    return log_host(host_report(session, rows, earlier=earlier))


def chosen_domains(session: HostSession, *, inactive: bool) -> dict[str, Domain]:
    """The domains that a caller means, by UUID.

    :param inactive: whether "all" and patterns mean the domains that do not run, too
    """
    return {
        one.domain.uuid: one.domain
        for one in session.selection.domains
        if one.exact or one.domain.active or inactive
    }


def read_domains(
    session: HostSession, chosen: dict[str, Domain], *, via: Source
) -> Iterator[DomainReport]:
    """Read these domains of a connected host once, and yield each as soon as it is read.

    :param chosen: the domains by UUID. Where the connection breaks and is opened again, they are
        replaced by those of the new one, and those that are gone are removed.
    :raise ConnectionLost: when the connection breaks for good, after all have been yielded
    """
    left = list(chosen.values())
    while left:
        reader = DomainReader(session.scheduler, left, via=via, deadline=session.deadline)
        try:
            yield from reader
            return
        except ConnectionLost as lost:
            try:
                session.reconnect(lost)
            except VirtballoonError:
                yield from reader.give_up(lost)
                raise
            there = session.domains
            for uuid in list(chosen):
                if uuid in there:
                    chosen[uuid] = there[uuid]
                else:
                    del chosen[uuid]
            left = [there[domain.uuid] for domain in reader.unread if domain.uuid in there]


def host_report(
    session: HostSession, rows: Iterable[DomainReport], *, earlier: HostReport | None = None
) -> HostReport:
    """The report of a host whose domains have been read, by the host's clock; not logged.

    :param earlier: the reading before it of the same host, to judge by what has moved since
    """
    rows = tuple(sorted(rows, key=lambda row: (row.name, row.uuid)))
    is_complete = all(row.is_complete for row in rows)
    report = session.result(HostReport, domains=rows, complete=is_complete)
    return report.by_clock(earlier, is_remote=is_remote(session.uri))


def unread(error: VirtballoonError, uri: str, *, elapsed_seconds: float) -> HostReport:
    """The report of a host with which there was no session, not logged."""
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
    with HostSession(target, domains, via=via, timeout=timeout) as session:
        session.connect()
        for word in session.selection.unmatched:
            raise DomainNotFound(f"no domain matches {word!r}", host=session.uri)
        yield from read_domains(session, chosen_domains(session, inactive=inactive), via=via)


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
    deadline = Deadline.after(timeout)
    domain = Domain.of(domain)
    if via is Source.QOM:
        domain.connection.require_monitor()
    asking = BackgroundCall(domain.connection.link)
    link = asking.result() if asking.wait(timeout) else None
    with closing(Scheduler(domain.connection, link)) as scheduler:
        for row in DomainReader(scheduler, [domain], via=via, deadline=deadline):
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


def probe_host(target: Target, *, timeout: float = DEFAULT_TIMEOUT) -> HostProbe:
    """Check whether a host answers, over a read-only connection and without reading its
    domains."""
    from virtballoon.model.outcome import HostProbe

    session = HostSession(target, None, timeout=timeout)
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


class QomPath(Value):
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
    session = HostSession(target, [domain], via=via, timeout=timeout)
    found: list[Domain] = []
    try:
        with session:
            session.connect()
            found += [selected.domain for selected in session.selection.domains]
            if not found:
                raise DomainNotFound(f"no domain matches {domain!r}", host=session.uri)
            if len(found) > 1:
                raise AmbiguousDomain(f"{len(found)} domains match {domain!r}", host=session.uri)
            return QomPath(
                uri=session.uri,
                hostname=session.hostname or "",
                name=found[0].name,
                uuid=found[0].uuid,
                qom_path=session.within(lambda: qom_path(found[0], via=via)),
            )
    except VirtballoonError as error:
        # Another host may have the domain.
        session.error = error if not isinstance(error, DomainNotFound) else None
        raise
    finally:
        log_host(session.result(HostResult, complete=True), domains=len(found))
