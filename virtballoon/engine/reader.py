"""Reads many domains of one host: with few calls, and none that can delay the others.

Libvirt's bulk call reads the figures of several domains; it is made for chunks of them, a few at a
time. Where newer libvirt makes the XML of a held domain wait, it is read after the figures.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from virtballoon.engine.limits import IN_FLIGHT, Limits
from virtballoon.engine.plan import CHUNK, Call, Plan, Row, Step
from virtballoon.engine.scheduler import each
from virtballoon.errors import (
    Busy,
    ConnectionLost,
    DomainNotFound,
    LibvirtFailure,
    NotRunning,
    NotSupported,
    ReadOnly,
    VirtballoonError,
)
from virtballoon.hypervisor.device import (
    Configs,
    QomReading,
    read_by_qom,
    read_configs,
    read_single,
)
from virtballoon.hypervisor.domain import Domain, DomainStatistics
from virtballoon.model.memory import Figures
from virtballoon.model.report import DomainReport
from virtballoon.model.source import Source
from virtballoon.model.verdict import State

#: A domain without figures, of which nothing says why, is read this often.
_EMPTY_ANSWERS: Final = 3


class _Row(Row):
    """How far the reading of one domain has come."""

    configs: Configs | None = None
    statistics: DomainStatistics | None = None
    #: What libvirt said of it without asking its QEMU.
    unasked: DomainStatistics | None = None
    qom: QomReading | None = None
    empty_answers: int = 0
    is_asked_for_xml: bool = False
    has_reread_xml: bool = False
    is_asked_for_qom: bool = False


class ReadPlan(Plan[_Row]):
    """One reading of some domains, after which :meth:`report` has what was read of each."""

    def __init__(
        self,
        domains: Iterable[Domain],
        *,
        via: Source,
        limits: Limits,
        is_far: bool = False,
        xml_waits: bool = True,
    ) -> None:
        super().__init__(map(_Row, domains), limits=limits, is_far=is_far)
        self.via = via
        self.xml_waits = xml_waits
        self._routed_around: set[Call] = set()
        self._are_all_asked_for_xml = False
        everyone = [row.domain for row in self.rows.values()]
        size = max(CHUNK, math.ceil(len(everyone) / IN_FLIGHT)) if is_far else CHUNK
        for number, start in enumerate(range(0, len(everyone), size)):
            chunk = tuple(everyone[start : start + size])
            self.add(Call(Step.BULK, chunk))
            # Domains that an earlier run left hanging are likely to be among the first ones.
            if number < IN_FLIGHT:
                self.add_split(Step.SCAN, [d for d in chunk[:CHUNK] if d.active])
        if is_far:
            self._ask_for_xml([])

    def start(self, now: float, left_behind: int = 0) -> list[Call]:
        """The calls to begin now."""
        begun = super().start(now, left_behind)
        if self.is_over:
            # Too many domains hang to ask for figures.
            self._ask_for_xml([])
            begun += super().start(now, left_behind)
        return begun

    def take(self, call: Call, outcomes: Mapping[str, object], now: float) -> list[_Row]:
        """Take in an answer, and give the domains that it completes."""
        for outcome in outcomes.values():
            if isinstance(outcome, ReadOnly):
                raise outcome
            if isinstance(outcome, ConnectionLost):
                self.lost = outcome
        done = [] if self.lost else super().take(call, outcomes, now)
        # Not before the figures: while QEMU gives those, libvirt and this process read XML.
        if call.step is not Step.SCAN:
            self._ask_for_xml(call.domains)
        return done

    def _ask_for_xml(self, domains: Iterable[Domain]) -> None:
        """Read XML: of all, or, where that waits for what holds a domain, of those that were let
        in just now."""
        if not self.xml_waits and not self._are_all_asked_for_xml:
            self._are_all_asked_for_xml = True
            domains = [row.domain for row in self.rows.values()]
            self.add_split(Step.XML, domains)
        elif self.xml_waits:
            rows = [self.rows.get(domain.uuid) for domain in domains]
            ready = [row for row in rows if row and row.statistics and not row.is_asked_for_xml]
            for row in ready:
                row.is_asked_for_xml = True
            self.add_split(Step.XML, [row.domain for row in ready])

    def _to_scan(self) -> Iterable[_Row]:
        return [row for row in self.rows.values() if row.statistics is None]

    def _again(self, row: _Row) -> Step | None:
        if row.statistics is None:
            return Step.BULK
        return Step.QOM if self.via is Source.QOM else None

    def _is_held_unseen(self, row: _Row) -> bool:
        return row.statistics is None

    def _advance(self, row: _Row, call: Call, outcome: object, now: float) -> None:
        match outcome:
            case Configs():
                row.configs = outcome
            case DomainStatistics():
                self._take_statistics(row, outcome, now)
            case QomReading():
                row.qom = outcome
            case DomainNotFound():
                del self.rows[row.domain.uuid]
            case Busy() | None:
                self.try_again(row, call.step, now)
            case NotRunning() if call.step is not Step.XML:
                row.statistics = None
                self.try_again(row, Step.BULK, now)
            case NotSupported() if call.step is Step.BULK:
                self.add(Call(Step.SINGLE, (row.domain,)))
            case VirtballoonError() if call.step is Step.CHECK:
                self._take_empty_answer(row, outcome, now)
            case LibvirtFailure() if call.step is Step.QOM and row.empty_answers < _EMPTY_ANSWERS:
                # Its QEMU may have gone away under the call; libvirt's state says so.
                row.empty_answers += 1
                row.statistics = None
                self.try_again(row, Step.BULK, now)
            case VirtballoonError():
                row.error = outcome

    def _take_statistics(self, row: _Row, statistics: DomainStatistics, now: float) -> None:
        if row.statistics is not None:
            return
        row.unasked = statistics
        running = statistics.state is not State.SHUTOFF
        if running and statistics.figures is None:
            self.add(Call(Step.SINGLE, (row.domain,)))
        elif running and statistics.died:
            # Its QEMU went away under the call; soon libvirt will know that, too.
            self.try_again(row, Step.BULK, now)
        elif running and not statistics.asked:
            self.scan()
            self.add(Call(Step.CHECK, (row.domain,)))
        else:
            row.statistics = statistics
            row.attempts = 0
            self.release(row)

    def _take_empty_answer(self, row: _Row, error: VirtballoonError, now: float) -> None:
        """A domain has no figures, and its driver does not say what holds it."""
        if row.empty_answers < _EMPTY_ANSWERS:
            row.empty_answers += 1
            self.try_again(row, Step.BULK, now)
            return
        row.error = LibvirtFailure(
            "libvirt leaves out this domain's figures and does not say why",
            host=row.domain.connection.uri,
            domain=row.domain.name,
            code=error.code,
        )

    def _route_around(self, domains: Iterable[Domain]) -> None:
        for call in self.stuck_calls(set(domains)):
            if call.step is Step.BULK and call not in self._routed_around:
                self._routed_around.add(call)
                rows = [self.rows.get(domain.uuid) for domain in call.domains]
                unread = [row.domain for row in rows if row and row.statistics is None]
                rest = [domain for domain in unread if domain.uuid not in self._stuck]
                if rest:
                    self.add(Call(Step.BULK, tuple(rest)))

    def _is_done(self, row: _Row, now: float) -> bool:
        if row.configs is None and not self.xml_waits:
            # The XML can be had whatever holds the domain.
            return row.error is not None and not isinstance(row.error, Busy)
        if row.error is not None or row.is_incoming:
            return True
        if row.configs is None or row.statistics is None:
            return False
        running = row.statistics.state is not State.SHUTOFF
        if running and row.configs.live is None and not row.has_reread_xml:
            # It was started between the two calls.
            row.has_reread_xml = True
            row.configs = None
            self.try_again(row, Step.XML, now)
            return False
        if running and self.via is Source.QOM and row.qom is None:
            if not row.is_asked_for_qom:
                row.is_asked_for_qom = True
                self.add(Call(Step.QOM, (row.domain,)))
            return False
        return True

    def work(self, call: Call) -> Callable[[], Mapping[str, object]]:
        """What a call does."""
        domains = call.domains
        match call.step:
            case Step.XML:
                return partial(each, domains, read_configs)
            case Step.SCAN:
                return partial(each, domains, Domain.control)
            case Step.CHECK:
                return partial(each, domains, Domain.hold)
            case Step.SINGLE:
                return partial(each, domains, read_single)
            case Step.QOM:
                # It taints the guest: no plan for another source may come here.
                assert self.via is Source.QOM
                row = self.rows.get(domains[0].uuid)
                configs = row.configs if row is not None else None
                return partial(each, domains, partial(read_by_qom, configs=configs))
            case _:
                return partial(_bulk, domains)

    def report(self, row: _Row) -> DomainReport:
        """What was read of a domain that is done or given up."""
        configs = row.configs or Configs()
        xml = configs.in_force
        statistics = row.statistics or row.unasked
        if statistics is not None:
            state = statistics.state
        else:
            state = State.NOSTATE if configs.live or row.domain.active else State.SHUTOFF
        is_read = row.statistics is not None or row.is_incoming
        figures = (statistics.figures if statistics else None) or Figures()
        if not is_read:
            # Without asking its QEMU, libvirt knows its sizes.
            figures = Figures(
                current_bytes=figures.current_bytes, maximum_bytes=figures.maximum_bytes
            )
        balloon = xml.balloon
        if state is State.SHUTOFF:
            configs = configs._replace(live=None)
            # The rest is by its definition.
            figures = Figures(maximum_bytes=figures.maximum_bytes)
        elif xml.unplugged_bytes:
            figures = replace(figures, unplugged_bytes=xml.unplugged_bytes)
        interval = configs.interval
        read_at = row.statistics.read_at if row.statistics else 0.0
        if row.qom is not None:
            balloon, interval = row.qom.balloon, replace(interval, qemu=row.qom.interval)
            read_at = row.qom.read_at or read_at
            guest = row.qom.figures
            figures = replace(figures, stats=guest.stats, last_update=guest.last_update)
        report = DomainReport(
            name=row.domain.name,
            uuid=row.domain.uuid,
            id=configs.live.id if configs.live is not None else None,
            state=state,
            machine=xml.machine,
            balloon=balloon,
            interval=interval,
            source=self.via,
            figures=figures,
            read_at=read_at or time.time(),
            is_incoming=row.is_incoming,
            has_hugepages=xml.has_hugepages,
            is_pinned=xml.is_pinned,
            free_page_reporting=xml.free_page_reporting,
            labels=xml.labels,
            error=row.error,
        )
        return report.explained(row.domain.connection.uri)


def _bulk(domains: Sequence[Domain]) -> dict[str, object]:
    outcomes: dict[str, object] = dict(domains[0].connection.statistics(domains))
    # Libvirt passes over a domain that is gone; whether it is, its state tells without waiting.
    missing = [domain for domain in domains if domain.uuid not in outcomes]
    for uuid, outcome in each(missing, Domain.state).items():
        outcomes[uuid] = outcome if isinstance(outcome, VirtballoonError) else None
    return outcomes
