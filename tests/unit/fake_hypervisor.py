# ruff: noqa: N802 - the names are libvirt's
"""A hypervisor that is only pretended: domains that hang, are held or migrate, at given times.

:class:`FakeHost` has the methods of ``libvirt.virConnect`` that are used, and :class:`FakeDomain`
those of ``libvirt.virDomain``, so that the package's own classes work on them. Nothing of it waits,
except a hung call, which waits until :meth:`FakeHost.wake`.

:class:`Simulation` carries out a plan without threads, by a clock of its own.
"""

from __future__ import annotations

import heapq
import itertools
import math
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import libvirt

from virtballoon.engine.plan import Call, Plan, R, Step
from virtballoon.hypervisor.connection import Connection
from virtballoon.hypervisor.domain import Control, Domain, DomainStatistics
from virtballoon.model.memory import Figures
from virtballoon.model.verdict import State

GIB_KIB: Final = 1024 * 1024
URI: Final = "fake:///system"


def libvirt_error(code: int, message: str = "refused") -> libvirt.libvirtError:
    """An error as libvirt raises it."""
    error = libvirt.libvirtError(message)
    error.err = (code, 0, message, 2, None, None, None, 0, 0)
    return error


@dataclass(eq=False)
class FakeDomain:
    """A domain as ``libvirt.virDomain`` shows it.

    :ivar hangs: whether calls that need QEMU wait until the host is woken
    :ivar control: what ``controlInfo`` says while nothing waits
    :ivar is_held: whether something else holds it, so that libvirt's bulk call leaves figures out
    :ivar is_incoming: whether it is being migrated to this host
    :ivar live: the live interval; None for a domain that does not run
    :ivar config: the interval of the configuration; None for a transient domain
    :ivar refuses_config: whether writing the configuration fails, after the live interval was set
    """

    host: FakeHost
    number: int
    hangs: bool = False
    control: tuple[int, int, int] = (0, 0, 0)
    is_held: bool = False
    is_incoming: bool = False
    live: int | None = 10
    config: int | None = 10
    refuses_config: bool = False
    held_since: float | None = None

    def connect(self) -> FakeHost:
        return self.host

    def name(self) -> str:
        return f"fake{self.number:04}"

    def UUIDString(self) -> str:
        return f"00000000-0000-4000-8000-{self.number:012}"

    def ID(self) -> int:
        return -1 if self.live is None else self.number + 1

    def isActive(self) -> int:
        return int(self.live is not None)

    def isPersistent(self) -> int:
        return int(self.config is not None)

    def hasManagedSaveImage(self, _flags: int) -> int:
        return 0

    def state(self) -> list[int]:
        if self.live is None:
            return [libvirt.VIR_DOMAIN_SHUTOFF, 0]
        if self.is_incoming:
            return [libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_MIGRATION]
        return [libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_BOOTED]

    def jobInfo(self) -> list[int]:
        if self.is_incoming:
            raise libvirt_error(libvirt.VIR_ERR_OPERATION_UNSUPPORTED)
        return [libvirt.VIR_DOMAIN_JOB_NONE] + [0] * 11

    def info(self) -> list[int]:
        return [self.state()[0], GIB_KIB, GIB_KIB, 1, 0]

    def controlInfo(self, _flags: int) -> list[int]:
        self.host.use()
        if self.live is None:
            raise libvirt_error(libvirt.VIR_ERR_OPERATION_INVALID)
        if self.held_since is not None:
            milliseconds = int((time.monotonic() - self.held_since) * 1000)
            return [libvirt.VIR_DOMAIN_CONTROL_OCCUPIED, 0, milliseconds]
        return list(self.control)

    def XMLDesc(self, flags: int) -> str:
        self.host.use()
        inactive = bool(flags & libvirt.VIR_DOMAIN_XML_INACTIVE) or self.live is None
        period = self.config if inactive else self.live
        number = "" if inactive else f" id='{self.ID()}'"
        return (
            f"<domain type='qemu'{number}><name>{self.name()}</name>"
            f"<uuid>{self.UUIDString()}</uuid><devices><memballoon model='virtio'>"
            f"<stats period='{period or 0}'/><alias name='balloon0'/>"
            "</memballoon></devices></domain>"
        )

    def setMemoryStatsPeriod(self, seconds: int, flags: int) -> None:
        self.host.use()
        self.ask_qemu()
        if flags & libvirt.VIR_DOMAIN_AFFECT_LIVE:
            self.live = seconds
        if flags & libvirt.VIR_DOMAIN_AFFECT_CONFIG:
            if self.refuses_config:
                raise libvirt_error(libvirt.VIR_ERR_INTERNAL_ERROR, "no space left")
            self.config = seconds

    def statistics(self) -> dict[str, Any]:
        """Its part of the bulk call."""
        sizes = {"balloon.current": GIB_KIB, "balloon.maximum": GIB_KIB}
        state = {"state.state": self.state()[0], "state.reason": self.state()[1]}
        if self.live is None or self.is_held or self.is_incoming or self.held_since is not None:
            return state | sizes
        self.ask_qemu()
        guest = {"available": GIB_KIB // 2, "unused": 1000, "last-update": int(time.time())}
        return state | sizes | {"balloon.rss": 1000} | {f"balloon.{k}": v for k, v in guest.items()}

    def ask_qemu(self) -> None:
        if self.hangs:
            self.held_since = time.monotonic()
            self.host.woken.wait()
            self.held_since = None
        # The connection may have broken while it waited.
        self.host.use()


class FakeHost:
    """A host as ``libvirt.virConnect`` shows it.

    :ivar domains: its domains
    :ivar calls: the names of the calls that were made
    :ivar breaks_after: the number of calls after which the connection is broken
    :ivar memory_hangs: whether reading the host's memory waits until the host is woken
    :ivar memory_error: libvirt's number of the error of reading the host's memory
    :ivar memory_reads: the number of times that the host's memory was asked for
    :ivar woken: set when hung calls return
    """

    def __init__(self, number: int, **attributes: Any) -> None:
        self.domains = [FakeDomain(self, index, **attributes) for index in range(number)]
        self.breaks_after = math.inf
        self.uses = 0
        self.memory_hangs = False
        self.memory_error: int | None = None
        self.memory_reads = 0
        self.woken = threading.Event()

    def use(self) -> None:
        self.uses += 1
        if self.uses > self.breaks_after:
            raise libvirt_error(libvirt.VIR_ERR_INTERNAL_ERROR, "the connection is closed")

    def wake(self) -> None:
        """Have all hung calls return."""
        self.woken.set()

    def isAlive(self) -> int:
        return int(self.uses <= self.breaks_after)

    def getURI(self) -> str:
        return URI

    def getHostname(self) -> str:
        self.use()
        return "fake"

    def getLibVersion(self) -> int:
        self.use()
        return 9_000_000

    def getType(self) -> str:
        return "QEMU"

    def getMemoryStats(self, _cell: int, _flags: int) -> dict[str, int]:
        self.memory_reads += 1
        if self.memory_hangs:
            self.woken.wait()
        if self.memory_error is not None:
            raise libvirt_error(self.memory_error)
        return {"total": 64 * GIB_KIB, "free": GIB_KIB, "buffers": 2 * GIB_KIB, "cached": 3}

    def getMemoryParameters(self, _flags: int) -> dict[str, int]:
        raise libvirt_error(libvirt.VIR_ERR_NO_SUPPORT)

    def listAllDomains(self, flags: int) -> list[FakeDomain]:
        self.use()
        transient = flags & libvirt.VIR_CONNECT_LIST_DOMAINS_TRANSIENT
        return [domain for domain in self.domains if not transient or domain.config is None]

    def domainListGetStats(
        self, domains: Iterable[FakeDomain], _what: int, _flags: int
    ) -> list[tuple[FakeDomain, dict[str, Any]]]:
        self.use()
        return [(domain, domain.statistics()) for domain in domains]


def connected(host: FakeHost) -> tuple[Connection, list[Domain]]:
    """The package's own connection to a host that is only pretended, and its domains."""
    connection = Connection(host)
    return connection, connection.domains()


# Without threads.


@dataclass(slots=True)
class Trouble:
    """What is the matter with a domain of a simulation.

    :ivar hangs_from: when its QEMU stops to answer
    :ivar hangs_until: when it goes on
    :ivar held: when another caller's job or command holds it
    :ivar is_job: whether that is a job
    :ivar is_shown: whether libvirt shows this job
    :ivar is_incoming: whether it is being migrated to this host
    """

    hangs_from: float = math.inf
    hangs_until: float = math.inf
    held: list[tuple[float, float]] = field(default_factory=list)
    is_job: bool = False
    is_shown: bool = True
    is_incoming: bool = False

    def held_since(self, now: float) -> float | None:
        """When it was taken, if it is held."""
        return next((start for start, end in self.held if start <= now < end), None)

    def control(self, now: float) -> Control:
        """What ``hold`` says."""
        since = self.held_since(now)
        if self.is_incoming:
            return Control(free=False, seconds=0.0, waiting=False, incoming=True)
        if since is None or (self.is_job and not self.is_shown):
            return Control(free=True, seconds=0.0, waiting=False)
        if self.is_job:
            return Control(free=False, seconds=0.0, waiting=False)
        return Control(free=False, seconds=max(0.001, now - since), waiting=True)


class Simulation:
    """Carries out a plan by a clock of its own.

    :param trouble: by UUID
    :param call_seconds: how long a call takes for each domain

    :ivar now: the time
    :ivar most_in_flight: the most calls that were under way at a time
    :ivar most_blocking: the most of them that could be blocked
    """

    def __init__(self, trouble: Mapping[str, Trouble], *, call_seconds: float = 0.001) -> None:
        self.trouble = trouble
        self.call_seconds = call_seconds
        self.now = 1000.0
        self.most_in_flight = 0
        self.most_blocking = 0
        self._in_flight: list[Call] = []

    def run(self, plan: Plan[R], *, seconds: float) -> Iterator[R]:
        """Carry out a plan within this time."""
        deadline = self.now + seconds
        #: When each call is at its next domain or answered, and the domains that it has left.
        events: list[tuple[float, int, Call, tuple[Domain, ...], dict[str, object]]] = []
        number = itertools.count()
        while plan.rows and plan.lost is None and self.now < deadline:
            for call in plan.start(self.now):
                self._in_flight.append(call)
                at = self.now + self.call_seconds
                heapq.heappush(events, (at, next(number), call, call.domains, {}))
            self.most_in_flight = max(self.most_in_flight, len(self._in_flight))
            blocking = sum(call.may_block for call in self._in_flight)
            self.most_blocking = max(self.most_blocking, blocking)
            if plan.is_over:
                break
            pause_until = min(deadline, plan.next_event())
            while events and events[0][0] <= pause_until:
                self.now, _, call, left, outcomes = heapq.heappop(events)
                if left:
                    at = self._visit(call, left[0], outcomes)
                    at += self.call_seconds if left[1:] else 0.0
                    heapq.heappush(events, (at, next(number), call, left[1:], outcomes))
                    continue
                self._in_flight.remove(call)
                yield from plan.take(call, outcomes, self.now)
                break
            else:
                # A plan that asks to be called again at once would go round for ever.
                self.now = max(pause_until, self.now + 1e-6)
        yield from plan.give_up(self.now)

    def _visit(self, call: Call, domain: Domain, outcomes: dict[str, object]) -> float:
        """Have a call reach a domain now; when it is done with it."""
        trouble, uuid = self._trouble(domain), domain.uuid
        if call.step in {Step.CHECK, Step.SCAN}:
            control = trouble.control(self.now)
            if control.incoming and call.step is Step.SCAN:
                control = Control(free=True, seconds=0.0, waiting=False)
            outcomes[uuid] = control
        elif call.step is Step.XML:
            outcomes[uuid] = self.configs(domain)
        elif trouble.is_incoming or trouble.held_since(self.now) is not None:
            outcomes[uuid] = self.unasked(call, trouble, self.now)
        else:
            outcomes[uuid] = self.asked(call)
            if trouble.hangs_from <= self.now < trouble.hangs_until:
                trouble.held.append((self.now, trouble.hangs_until))
                return trouble.hangs_until
        return self.now

    def _trouble(self, domain: Domain) -> Trouble:
        return self.trouble.get(domain.uuid, Trouble())

    @staticmethod
    def configs(domain: Domain) -> object:
        """What reading XML gives."""
        from virtballoon.hypervisor.device import read_configs

        return read_configs(domain)

    @staticmethod
    def unasked(call: Call, trouble: Trouble, at: float) -> object:
        """What a call gives of a domain that is held."""
        if call.step is Step.TASK:
            return trouble.control(at)
        figures = Figures.from_libvirt({"current": GIB_KIB, "maximum": GIB_KIB})
        return DomainStatistics(
            state=State.PAUSED if trouble.is_incoming else State.RUNNING,
            figures=figures,
            asked=False,
            died=False,
            read_at=0.0,
        )

    @staticmethod
    def asked(call: Call) -> object:
        """What a call gives of a domain that answers."""
        if call.step is Step.TASK:
            return True
        figures = Figures.from_libvirt(
            {"current": GIB_KIB, "maximum": GIB_KIB, "rss": 1000, "last-update": 1}
        )
        return DomainStatistics(
            state=State.RUNNING, figures=figures, asked=True, died=False, read_at=1.0
        )
