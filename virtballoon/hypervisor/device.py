"""A domain's balloon: where it is, and its interval and figures by libvirt or by QEMU.

Unless it says otherwise, a call here waits for the domain's QEMU without limit.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from virtballoon.errors import NotRunning
from virtballoon.hypervisor.domain import Control, Domain, DomainStatistics
from virtballoon.hypervisor.domainxml import DomainXML
from virtballoon.model.balloon import Balloon
from virtballoon.model.memory import Figures
from virtballoon.model.report import Interval
from virtballoon.model.source import Source
from virtballoon.model.value import Value
from virtballoon.model.verdict import State

if TYPE_CHECKING:
    from virtballoon.hypervisor.qmp import Monitor


class Configs(NamedTuple):
    """The XML documents of a domain: live, inactive, and of the saved image from which it would
    start; None where it has none."""

    live: DomainXML | None = None
    config: DomainXML | None = None
    saved: DomainXML | None = None

    @property
    def in_force(self) -> DomainXML:
        """That of the domain as it runs, or would run; one without a balloon if none was read."""
        found = self.live or self.saved or self.config
        return found or DomainXML(id=None, balloon=None, period=0)

    @property
    def interval(self) -> Interval:
        """The intervals by the XML."""
        return Interval(
            live=self.live.period if self.live is not None else None,
            config=self.config.period if self.config is not None else None,
            saved=self.saved.period if self.saved is not None else None,
        )


def read_configs(domain: Domain) -> Configs:
    """Read a domain's XML documents. Only newer libvirt waits here, for what holds the domain."""
    now = domain.xml()
    if now.id is None:
        return Configs(config=now, saved=domain.saved_xml())
    return Configs(live=now, config=domain.xml(inactive=True) if domain.persistent else None)


class LibvirtBalloon:
    """The balloon of a running domain by libvirt's calls. Its interval is that of the live XML."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain

    def interval(self) -> int:
        """That of the live XML; waits as :func:`read_configs` does."""
        xml = self._domain.xml()
        if xml.id is None:
            host, name = self._domain.connection.uri, self._domain.name
            raise NotRunning("it does not run", host=host, domain=name)
        return xml.period

    def set_interval(self, seconds: int) -> None:
        """Set it in QEMU, even where the XML has it already, and in the live XML."""
        self._domain.set_period(seconds)

    def figures(self) -> Figures:
        """By the bulk call, which does not wait for a domain that is held; where the driver has no
        part in that, by the call for one domain."""
        statistics = self._domain.connection.statistics([self._domain]).get(self._domain.uuid)
        figures = statistics.figures if statistics is not None else None
        return figures or self._domain.figures()


class QomBalloon:
    """The balloon by QEMU's own properties, with the guest's figures alone."""

    def __init__(self, monitor: Monitor, path: str) -> None:
        self._monitor = monitor
        self._path = path

    def interval(self) -> int:
        return self._monitor.polling_interval(self._path)

    def set_interval(self, seconds: int) -> None:
        self._monitor.set_polling_interval(self._path, seconds)

    def figures(self) -> Figures:
        return self._monitor.guest_stats(self._path)


BalloonDevice: TypeAlias = LibvirtBalloon | QomBalloon


def balloon_device(domain: Domain, balloon: Balloon | None, via: Source) -> BalloonDevice:
    """The balloon of a running domain: by libvirt, unless ``via`` is QOM and its path is known."""
    if via is Source.LIBVIRT or balloon is None or balloon.qom_path is None:
        return LibvirtBalloon(domain)
    return QomBalloon(domain.monitor(), balloon.qom_path)


def locate(monitor: Monitor, known: Balloon | None) -> Balloon | None:
    """The balloon with its QOM path: by the XML where that is enough, else by QEMU."""
    if known is not None and known.qom_path is not None:
        return known
    path = monitor.find_balloon(known.alias if known is not None else None)
    if path is None:
        return None
    return replace(known or Balloon(model=None), qom_path=path)


class QomReading(Value):
    """What QEMU itself says; no balloon, no interval."""

    balloon: Balloon | None = None
    interval: int | None = None
    figures: Figures = Figures()
    read_at: float = 0.0


def read_by_qom(domain: Domain, configs: Configs | None) -> QomReading | Control:
    """Read a running domain's balloon by QOM, unless something holds the domain."""
    # The monitor passthrough would wait for it.
    control = domain.control()
    if not control.free:
        return control
    monitor = domain.monitor()
    balloon = locate(monitor, configs.live.balloon if configs and configs.live else None)
    if balloon is None or balloon.qom_path is None:
        return QomReading()
    interval, figures = monitor.interval_and_stats(balloon.qom_path)
    return QomReading(balloon=balloon, interval=interval, figures=figures, read_at=time.time())


def read_single(domain: Domain) -> DomainStatistics:
    """Read the figures of a domain whose driver takes no part in the bulk call."""
    state = domain.state()
    figures = domain.figures() if state is not State.SHUTOFF else None
    return DomainStatistics(
        state=state, figures=figures, asked=True, died=False, read_at=time.time()
    )
