"""Turns polling on for domains where it is off, in a process that keeps running."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

from virtballoon.engine.session import DEFAULT_TIMEOUT
from virtballoon.hypervisor.connection import Target
from virtballoon.log import get_logger
from virtballoon.model.outcome import HostChanges
from virtballoon.model.report import HostReport
from virtballoon.model.verdict import Verdict
from virtballoon.operations.setting import IntervalRequest, check_interval, set_intervals

_log: Final = get_logger(__name__)

#: How long a host is left alone after it could not be written to.
_PAUSE_SECONDS: Final = 60.0


class IntervalEnsurer:
    """Sets the live interval of running domains whose polling is off, through libvirt.

    Each domain is tried once per run of it, whatever the result. If the host itself fails, because
    libvirt is being restarted, for example, no domain counts as tried, and the host is left alone
    for a minute. It needs write access.

    :param timeout: seconds for each host
    :param on_result: called in some thread with the result on one host
    :raise InvalidInterval: if QEMU does not accept the interval
    """

    def __init__(
        self,
        seconds: int,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        on_result: Callable[[HostChanges], object] | None = None,
        pause: float = _PAUSE_SECONDS,
    ) -> None:
        self._seconds = check_interval(seconds)
        self._timeout = timeout
        self._on_result = on_result
        self._pause = pause
        self._running = threading.Lock()
        self._tried: set[tuple[str, str, int | None]] = set()
        self._paused_until: dict[str, float] = {}

    def ensure(self, targets: Mapping[str, Target], reports: Mapping[str, HostReport]) -> None:
        """Turn polling on where these reports, by the hosts' names, say that it is off."""
        # The next reading may end before this has.
        if not self._running.acquire(blocking=False):
            return
        try:
            for name, report in reports.items():
                self._ensure_on(name, targets[name], report)
        except Exception:
            _log.exception("setting the interval failed")
        finally:
            self._running.release()

    def _ensure_on(self, name: str, target: Target, report: HostReport) -> None:
        if report.error is None:
            there = {domain.uuid for domain in report.domains}
            self._tried = {run for run in self._tried if run[0] != name or run[1] in there}
        if time.monotonic() < self._paused_until.get(name, 0.0):
            return
        unpolled = {
            # Each run of a domain has its own ID.
            (name, domain.uuid, domain.id)
            for domain in report.domains
            if domain.verdict is Verdict.POLLING_OFF and domain.id is not None
            # libvirt does not know a balloon from <qemu:commandline>.
            if domain.balloon is not None and domain.balloon.model is not None
        }
        wanted = unpolled - self._tried
        self._tried |= wanted
        # A name wins over a UUID, and a domain's name can be another one's UUID.
        names = {domain.name for domain in report.domains}
        uuids = [uuid for _, uuid, _ in sorted(wanted, key=str) if uuid not in names]
        while uuids:
            request = IntervalRequest(self._seconds, live=True, where_off=True)
            host = set_intervals(target, request, uuids, timeout=self._timeout)
            if host.error is not None and not host.domains:
                self._tried -= {run for run in wanted if run[1] in uuids}
                self._paused_until[name] = time.monotonic() + self._pause
            if self._on_result is not None:
                self._on_result(host)
            # A domain that no longer exists must not keep others from being set.
            uuids = [uuid for uuid in uuids if uuid not in host.unmatched] if host.unmatched else []
