"""Runs a task for each of many domains, so that a domain that hangs delays no other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from virtballoon.engine.limits import Deadline, Limits, incoming
from virtballoon.engine.plan import Call, Plan, Row, Step
from virtballoon.engine.scheduler import Scheduler, each
from virtballoon.errors import NotRunning, NotSupported, VirtballoonError
from virtballoon.hypervisor.domain import Control, Domain


def hold_of(domain: Domain) -> Control | None:
    """What holds the domain, if anything, and if its driver says so."""
    try:
        control = domain.hold()
    except (NotRunning, NotSupported):
        return None
    return None if control.free else control


class TaskResult(NamedTuple):
    """What a domain's task returned or raised, or why it was not completed."""

    domain: Domain
    value: object = None
    error: VirtballoonError | None = None
    #: Whether a call is still under way, so that it may take effect later.
    in_flight: bool = False


class _Row(Row):
    outcome: object = None


class TaskPlan(Plan[_Row]):
    """One task for each of some domains, which finds out for itself whether the domain is held."""

    _scan_decides = False

    def __init__(
        self,
        tasks: Mapping[Domain, Callable[[], object]],
        *,
        limits: Limits,
        is_far: bool = False,
    ) -> None:
        super().__init__(map(_Row, tasks), limits=limits, is_far=is_far)
        self._tasks = tasks
        # Those that hang already count, before any is begun.
        self.scan()
        for row in self.rows.values():
            self.add(Call(Step.TASK, (row.domain,)))

    def _next_blocking(self, in_flight: Sequence[str]) -> Call | None:
        if self.limits.may_block(in_flight):
            return self._blocking.popleft()
        # One that is known to hang is not made to wait for it again.
        for call in self._blocking:
            if self.limits.is_hung(call.domains[0].uuid):
                self._blocking.remove(call)
                return call
        return None

    def _advance(self, row: _Row, call: Call, outcome: object, now: float) -> None:
        if call.step is Step.TASK:
            row.outcome = outcome
            self.release(row)
        elif not self.is_under_way(row):
            # Its driver does not say what holds it.
            self.try_again(row, Step.TASK, now)

    def _is_done(self, row: _Row, _now: float) -> bool:
        return row.outcome is not None or row.error is not None or row.is_incoming

    def _again(self, _row: _Row) -> Step:
        return Step.TASK

    def work(self, call: Call) -> Callable[[], Mapping[str, object]]:
        """What a call does."""
        if call.step is Step.TASK:
            return partial(each, call.domains, lambda domain: self._tasks[domain]())
        read = Domain.control if call.step is Step.SCAN else Domain.hold
        return partial(each, call.domains, read)


def run_per_domain(
    scheduler: Scheduler,
    tasks: Mapping[Domain, Callable[[], object]],
    deadline: Deadline,
) -> Iterator[TaskResult]:
    """Run a task for each domain, a few at a time, and yield each result as soon as it is there.

    A task that finds its domain held returns what holds it, and is run again until the domain has
    been held for ``HOLD_SECONDS``. One that takes long is checked for being blocked, and waited
    for no longer than that.
    """
    plan = TaskPlan(tasks, limits=scheduler.limits, is_far=scheduler.is_far(len(tasks)))
    for row in scheduler.run(plan, deadline):
        if isinstance(row.outcome, VirtballoonError):
            yield TaskResult(row.domain, error=row.outcome)
        elif row.outcome is not None:
            yield TaskResult(row.domain, row.outcome)
        else:
            error = row.error or incoming(row.domain)
            yield TaskResult(row.domain, error=error, in_flight=plan.is_under_way(row))
