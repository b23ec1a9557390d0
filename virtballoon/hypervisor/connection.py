"""A connection to a host's libvirt daemon."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cached_property
from typing import Any, Final, Self, TypeAlias
from weakref import WeakSet

import libvirt

from virtballoon.errors import ConnectError, ConnectionLost, NotSupported, VirtballoonError
from virtballoon.hypervisor import domainxml
from virtballoon.hypervisor import uri as transport
from virtballoon.hypervisor.domain import Domain, DomainStatistics, statistics_of
from virtballoon.hypervisor.translation import LOGGER, call, connect_error
from virtballoon.log import logger_in_use
from virtballoon.model.hostmemory import HostFigures
from virtballoon.model.value import Value

#: The libvirt version since which reading a domain's XML may wait while the domain is held.
_XML_MAY_WAIT: Final = (9, 1)

#: The QEMU version that introduced ``qom-list-get``, as returned by virConnectGetVersion.
_HAS_LIST_GET: Final = 10_001_000

#: The credentials that virsh offers. Without any, libvirt does not read auth.conf; with
#: VIR_CRED_USERNAME, which virsh omits, SASL asks for a second name (remote_driver.c).
_CREDENTIALS: Final = (
    libvirt.VIR_CRED_AUTHNAME,
    libvirt.VIR_CRED_ECHOPROMPT,
    libvirt.VIR_CRED_REALM,
    libvirt.VIR_CRED_PASSPHRASE,
    libvirt.VIR_CRED_NOECHOPROMPT,
    libvirt.VIR_CRED_EXTERNAL,
)


class Connection:
    """A connection to one host, opened here or by the caller.

    :ivar uri: the host's URI as requested, else as reported by libvirt
    """

    def __init__(self, raw: Any, *, uri: str | None = None, owned: bool = False) -> None:
        self._raw = raw
        self._owned = owned
        self._domains: WeakSet[Domain] = WeakSet()
        # For errors until libvirt has reported the actual URI.
        self.uri = uri or transport.default_uri()
        if uri is None:
            with call("getURI", connection=self):
                self.uri = raw.getURI()
            if _is_embedded(self.uri):
                domainxml.use_expat()

    @classmethod
    def open(cls, uri: str | None = None, *, readonly: bool = True) -> Self:
        """Open a connection.

        There is no time limit, since libvirt has none for connecting. Nothing is asked on the
        terminal: names and passwords come from libvirt's auth.conf (or ``?authfile=``, or
        ``LIBVIRT_AUTH_FILE``), and ssh asks nothing unless the URI has ``no_tty=0``.

        ``qemu:///embed`` runs the hypervisor driver inside this process and needs libvirt's event
        loop, which is started in a thread for the lifetime of the process. A program with an event
        loop of its own must register it first, open the connection itself and pass it.

        :param uri: libvirt URI; None for libvirt's default (``LIBVIRT_DEFAULT_URI`` and
            its configuration)
        :param readonly: whether to open it read-only
        :raise HostUnreachable: if the host cannot be reached
        :raise HostKeyError: if the host's ssh key is unknown or has changed
        :raise AuthError: if the host refuses access
        :raise NoDaemon: if no libvirtd listens there
        :raise ConnectError: if connecting fails for any other reason
        """
        started = time.monotonic()
        # Without a configured default, libvirt itself looks for a driver.
        named = uri or transport.configured_default()
        asked: list[int] = []

        def refuse(wanted: list[list[Any]], _data: object) -> int:
            asked.extend(credential[0] for credential in wanted)
            return -1

        if named is not None and _is_embedded(named):
            domainxml.use_expat()
            _run_event_loop()
        if named is not None and _is_file(named):
            domainxml.use_expat()
        try:
            raw = libvirt.openAuth(
                None if named is None else transport.without_prompts(named),
                [list(_CREDENTIALS), refuse, None],
                libvirt.VIR_CONNECT_RO if readonly else 0,
            )
        except libvirt.libvirtError as error:
            host = named or transport.default_uri()
            raise connect_error(error, host, asked=bool(asked)) from error
        except ValueError as error:
            # The binding refuses a NUL and invalid UTF-8.
            raise ConnectError(f"invalid URI: {error}", host=uri) from error
        finally:
            if (log := logger_in_use(LOGGER)) is not None:
                elapsed = (time.monotonic() - started) * 1000
                mode = "read-only" if readonly else "read-write"
                log.debug("%s: openAuth(%s), %.1f ms", named or "default", mode, elapsed)
        return cls(raw, uri=uri, owned=True)

    @classmethod
    def of(cls, connection: Connection | libvirt.virConnect) -> Connection:
        """A connection of the caller, which is never closed here."""
        return connection if isinstance(connection, Connection) else cls(connection)

    @property
    def raw(self) -> Any:
        """The ``libvirt.virConnect``."""
        if self._raw is None:
            raise ConnectionLost("the connection was closed", host=self.uri)
        return self._raw

    def close(self) -> None:
        """Close a connection opened by :meth:`open`; one of the caller stays open.

        libvirt's own close would free objects that pending calls use. Instead, the references to it
        and its domains are dropped, and it is closed when the last call returns. Without pending
        calls, this waits for the daemon.
        """
        if self._owned:
            self._owned = False
            for domain in list(self._domains):
                domain.release()
            self._raw = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def hostname(self) -> str:
        """The host's own name."""
        with call("getHostname", connection=self):
            return str(self.raw.getHostname())

    def link(self) -> Link:
        """Measure the round trip with a call that costs the daemon nothing."""
        started = time.monotonic()
        version = self.version()
        elapsed = time.monotonic() - started
        return Link(round_trip_seconds=elapsed, xml_waits=version >= _XML_MAY_WAIT)

    def version(self) -> tuple[int, int]:
        """The version of the host's libvirt."""
        with call("getLibVersion", connection=self):
            number = int(self.raw.getLibVersion())
        return number // 1_000_000, number // 1000 % 1000

    @cached_property
    def _has_list_get(self) -> bool:
        # The installed QEMU; that of a running domain may be older.
        with suppress(VirtballoonError), call("getVersion", connection=self):
            return bool(self.raw.getVersion() >= _HAS_LIST_GET)
        return False

    def memory(self) -> HostFigures | None:
        """The host's memory; without KSM where libvirt does not give that. Asks no guest."""
        with call("getMemoryStats", connection=self):
            memory = self.raw.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS, 0)
        ksm: Mapping[str, Any] = {}
        with suppress(VirtballoonError), call("getMemoryParameters", connection=self):
            ksm = self.raw.getMemoryParameters(0)
        return HostFigures.from_libvirt(memory, ksm)

    def require_monitor(self) -> None:
        """Raise :class:`NotSupported` if the hypervisor has no QEMU monitor."""
        with call("getType", connection=self):
            driver = str(self.raw.getType())
        if driver != "QEMU":
            raise NotSupported(
                f"libvirt's {driver} driver has no QEMU monitor and no QOM paths",
                host=self.uri,
            )

    def domains(self) -> list[Domain]:
        """Every domain of the host, running or not. Never waits for a guest."""
        return self.domains_of(self.list_all(), self.list_all(transient=True))

    def list_all(self, *, transient: bool = False) -> list[Any]:
        """The ``libvirt.virDomain`` of every domain, or of every transient one."""
        flags = libvirt.VIR_CONNECT_LIST_DOMAINS_TRANSIENT if transient else 0
        with call(f"listAllDomains({'TRANSIENT' if transient else ''})", connection=self):
            return list(self.raw.listAllDomains(flags))

    def domains_of(self, everyone: Iterable[Any], transient: Iterable[Any]) -> list[Domain]:
        """The domains, from the results of :meth:`list_all` for all and for transient ones."""
        uuids = {raw.UUIDString() for raw in transient}
        domains = [Domain(raw, self, persistent=raw.UUIDString() not in uuids) for raw in everyone]
        if self._owned:
            self._domains.update(domains)
        return domains

    def statistics(self, domains: Iterable[Domain]) -> dict[str, DomainStatistics]:
        """State and memory figures of these domains, by UUID, in one call.

        A domain that no longer exists is missing. A domain whose monitor is already held has no
        figures and is not waited for (``VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT``). A hung QEMU
        whose monitor is not held yet blocks the call until it continues.
        """
        raws = [domain.raw for domain in domains]
        what = libvirt.VIR_DOMAIN_STATS_STATE | libvirt.VIR_DOMAIN_STATS_BALLOON
        flags = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
        with call(f"domainListGetStats({len(raws)} domains)", connection=self):
            answers = self.raw.domainListGetStats(raws, what, flags) if raws else []
        return {raw.UUIDString(): statistics_of(answer) for raw, answer in answers}


class Link(Value):
    """Properties of the connection to a host's daemon."""

    round_trip_seconds: float
    #: Whether reading the XML of a domain whose monitor is held waits until it is released.
    #: libvirt 9.0 does not wait and 11.3 does; versions in between are assumed to.
    xml_waits: bool


#: A host: a :class:`Connection`, libvirt's connection object, a URI, or None for libvirt's default.
Target: TypeAlias = Connection | libvirt.virConnect | str | None


def end_children(thread: int, *, process: str = "self") -> None:
    """End the child processes of a thread, and theirs. Otherwise the ssh that libvirt starts to
    connect would outlive this process if the host never answers.

    :param thread: the native ID of a thread that only opens one connection
    """
    from pathlib import Path

    try:
        children = Path(f"/proc/{process}/task/{thread}/children").read_text().split()
    except OSError:
        # The thread has ended.
        return
    for child in children:
        # ssh does not end its ProxyCommand.
        end_children(int(child), process=child)
        with suppress(OSError):
            os.kill(int(child), signal.SIGTERM)


def _is_embedded(uri: str) -> bool:
    return re.match(r"[^/?#]*:(//[^/?#]*)?/embed([?#]|$)", uri) is not None


def _is_file(uri: str) -> bool:
    """Whether it is libvirt's test driver, which runs inside this process, with a file."""
    return re.match(r"test:///(?!default([?#]|$))", uri) is not None


_event_loop = threading.Lock()


def _run_event_loop() -> None:
    # Never released: one loop serves the process for its whole lifetime.
    if not _event_loop.acquire(blocking=False):
        return
    libvirt.virEventRegisterDefaultImpl()

    def run() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=run, name="libvirt-events", daemon=True).start()
