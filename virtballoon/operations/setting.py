"""Sets the polling interval: first the plan, what is and what will be, then the doing."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

from virtballoon.engine.limits import Deadline
from virtballoon.engine.scheduler import Scheduler
from virtballoon.engine.session import DEFAULT_TIMEOUT, HostSession
from virtballoon.engine.tasks import NoAnswer, hold_of, run_per_domain
from virtballoon.errors import (
    DomainNotFound,
    Incoming,
    InvalidInterval,
    NoBalloon,
    NotRunning,
    TransientDomain,
    VirtballoonError,
)
from virtballoon.hypervisor import connection as libvirt_limits
from virtballoon.hypervisor import qmp
from virtballoon.hypervisor.connection import AnyDomain, Control, Domain, Target
from virtballoon.hypervisor.device import Configs, locate, read_configs
from virtballoon.log import log_host
from virtballoon.model.balloon import Balloon
from virtballoon.model.outcome import HostChanges, IntervalChange, Outcome, Waited
from virtballoon.model.report import Interval, Unheard
from virtballoon.model.selection import Selected
from virtballoon.model.source import Source
from virtballoon.operations.waiting import Awaited, Onlooker, answers, read_last_update


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalPlan:
    """What setting the interval will do to one domain.

    :ivar domain: the domain
    :ivar seconds: the polling interval to set, 0 for off
    :ivar via: which way a live interval is set
    :ivar live: whether it is set in the running guest
    :ivar config: whether it is written to the persistent configuration
    :ivar before: the intervals as they are
    :ivar id: libvirt's number of the running domain, or None
    :ivar qom_path: where QEMU has the balloon, if it was found
    :ivar outcome: what is to come of it; skipped and failed ones are left alone
    :ivar error: why it is skipped or has failed already
    """

    domain: Domain
    name: str
    seconds: int
    via: Source
    live: bool
    config: bool
    before: Interval
    id: int | None = None
    qom_path: str | None = None
    outcome: Outcome = Outcome.UNCHANGED
    error: VirtballoonError | None = None

    @property
    def after(self) -> Interval:
        """The intervals as they will be."""
        if self.outcome in {Outcome.SKIPPED, Outcome.FAILED}:
            return self.before
        after = self.before
        if self.live and self.via is Source.QOM:
            after = replace(after, qemu=self.seconds)
        elif self.live:
            after = replace(after, live=self.seconds)
        return replace(after, config=self.seconds) if self.config else after

    @property
    def change(self) -> IntervalChange:
        """The outcome to be expected."""
        return IntervalChange(
            name=self.name,
            uuid=self.domain.uuid,
            outcome=self.outcome,
            changed=self.after != self.before,
            before=self.before,
            after=self.after,
            error=self.error,
        )


def check_interval(seconds: int, *, via: Source = Source.LIBVIRT) -> int:
    """A polling interval that QEMU takes, in seconds; 0 turns polling off.

    Libvirt's call has a C int; QEMU's property is unsigned and has 32 bits.

    :raise InvalidInterval: below 0, too large, or no whole number
    """
    most = qmp.MAX_INTERVAL if via is Source.QOM else libvirt_limits.MAX_INTERVAL
    if isinstance(seconds, bool) or not isinstance(seconds, int):
        raise InvalidInterval(f"a polling interval is a whole number of seconds, not {seconds!r}")
    if not 0 <= seconds <= most:
        raise InvalidInterval(f"a polling interval is 0 to {most} seconds, not {seconds}")
    return seconds


def set_intervals(
    target: Target,
    seconds: int,
    domains: Iterable[str] | None,
    *,
    live: bool = False,
    config: bool = False,
    where_off: bool = False,
    via: Source = Source.LIBVIRT,
    dry_run: bool = False,
    wait: float | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    note: Onlooker | None = None,
) -> HostChanges:
    """Set the polling interval of a host's domains.

    Without ``live`` and ``config``: live where a domain runs, in its configuration where it does
    not. One domain's failure is that domain's outcome. If a name, UUID or pattern matches no
    domain, nothing is changed, and the report names it as unmatched.

    :param target: a read-write connection, which stays open; or a URI, or None for libvirt's
        default
    :param seconds: the polling interval, 0 for off
    :param domains: names, UUIDs and shell patterns; None for every running domain and, with
        ``config``, every persistent one
    :param live: set it in the running guest
    :param config: write it to the persistent configuration
    :param where_off: leave every interval alone that is not 0
    :param via: which way the live interval is set. Through libvirt the XML stays true; QOM
        bypasses it and marks the guest as tainted.
    :param dry_run: only say what would be
    :param wait: for how many seconds, beyond ``timeout``, to wait until each guest whose live
        interval was set has answered since; :func:`patience` is a sensible time. None for not at
        all.
    :param timeout: seconds for everything but waiting, from connecting on
    :param note: called, in this thread, with the host's URI and the names of those still awaited
    :raise InvalidInterval: when QEMU takes no such interval; nothing was done
    """
    check_interval(seconds, via=Source.LIBVIRT if config else via)
    changes: list[IntervalChange] = []
    awaited: dict[str, Awaited] = {}
    waited: dict[str, Waited] = {}
    # What would be takes no more than reading, except that QOM always needs to write.
    readonly = dry_run and via is Source.LIBVIRT
    session = HostSession(target, domains, via=via, readonly=readonly, timeout=timeout)
    with session, session.errors_kept():
        session.connect()
        if not session.selection.unmatched:
            wish = _Wish(
                seconds,
                live=live,
                config=config,
                where_off=where_off,
                via=via,
                every=domains is None,
                awaited=awaited if wait is not None and seconds > 0 else None,
            )
            meant = [s for s in session.selection.domains if wish.concerns(s.domain)]
            changes.extend(
                _carry_out(
                    session.scheduler, wish, meant, dry_run=dry_run, deadline=session.deadline
                )
            )
            heard = answers(
                session, list(awaited.values()), seconds=wait, via=via, timeout=timeout, note=note
            )
            waited.update((answer.uuid, answer.waited) for answer in chain.from_iterable(heard))
    if wait is not None:
        changes = [replace(c, waited=waited.get(c.uuid) or _not_waited(c)) for c in changes]
    report = session.result(
        HostChanges,
        domains=tuple(sorted(changes, key=lambda change: (change.name, change.uuid))),
        complete=all(change.is_well for change in changes),
    )
    return log_host(report)


def _not_waited(change: IntervalChange) -> Waited:
    settled = change.outcome in {Outcome.CHANGED, Outcome.UNCHANGED}
    if settled and change.before.live is None:
        reason = Unheard.SHUTOFF
    elif settled and change.after.in_force == 0:
        reason = Unheard.POLLING_OFF
    else:
        reason = Unheard.NOT_SET
    return Waited(answered=None, reason=reason)


def set_interval(
    domain: AnyDomain,
    seconds: int,
    *,
    live: bool = False,
    config: bool = False,
    where_off: bool = False,
    via: Source = Source.LIBVIRT,
    dry_run: bool = False,
    timeout: float = DEFAULT_TIMEOUT,
) -> IntervalChange:
    """Set the polling interval of one domain that the caller has at hand.

    Arguments are those of :func:`set_intervals`. What goes wrong is in the outcome and its error;
    of both live and configuration, one can have succeeded.

    :raise InvalidInterval: when QEMU takes no such interval; nothing was done
    """
    check_interval(seconds, via=Source.LIBVIRT if config else via)
    meant = Selected(domain=Domain.of(domain), exact=True)
    wish = _Wish(seconds, live=live, config=config, where_off=where_off, via=via, every=False)
    scheduler = Scheduler(meant.domain.connection, None)
    try:
        (change,) = _carry_out(
            scheduler, wish, [meant], dry_run=dry_run, deadline=Deadline.after(timeout)
        )
    finally:
        scheduler.close()
    return change


@dataclass(frozen=True, slots=True)
class _Wish:
    """What the caller wants.

    :ivar awaited: filled with the guests that are to answer; None if that is not wanted
    """

    seconds: int
    live: bool
    config: bool
    where_off: bool
    via: Source
    every: bool
    awaited: dict[str, Awaited] | None = None

    def concerns(self, domain: Domain) -> bool:
        """Whether a domain that the selection found is meant."""
        if not self.every:
            return True
        live = self.live or not self.config
        return (live and domain.active) or (self.config and domain.persistent)

    def plan(self, meant: Selected[Domain]) -> IntervalPlan | Control:
        """What is to be done to one domain; how its monitor is held if that stands in the way.

        :raise VirtballoonError: when it cannot be read
        """
        domain = meant.domain
        if domain.active and (hold := hold_of(domain)):
            return hold
        configs = read_configs(domain)
        running = configs.live is not None
        either = self.live or self.config
        plan = IntervalPlan(
            domain=domain,
            name=configs.name,
            seconds=self.seconds,
            via=self.via,
            live=self.live if either else running,
            config=self.config if either else not running,
            before=configs.interval,
            id=configs.id,
        )
        balloon = configs.live.balloon if configs.live is not None else None
        if plan.live and running and self.via is Source.QOM:
            monitor = domain.monitor()
            balloon = locate(monitor, balloon)
            if balloon is not None and balloon.qom_path is not None:
                qemu = monitor.polling_interval(balloon.qom_path)
                before = replace(plan.before, qemu=qemu)
                plan = replace(plan, before=before, qom_path=balloon.qom_path)
        plan = _settled(plan, configs, balloon, exact=meant.exact)
        return _only_where_off(plan) if self.where_off else plan


def _only_where_off(plan: IntervalPlan) -> IntervalPlan:
    """The plan without what is polled already."""
    if plan.outcome in {Outcome.SKIPPED, Outcome.FAILED}:
        return plan
    live_now = plan.before.live if plan.before.qemu is None else plan.before.qemu
    plan = replace(
        plan,
        live=plan.live and live_now == 0,
        config=plan.config and plan.before.config == 0,
    )
    outcome = Outcome.CHANGED if plan.after != plan.before else Outcome.UNCHANGED
    return replace(plan, outcome=outcome)


def _settled(
    plan: IntervalPlan, configs: Configs, balloon: Balloon | None, *, exact: bool
) -> IntervalPlan:
    """The plan without what cannot be done: a failure for a domain that was named, else
    passed over."""
    host, name = plan.domain.connection.uri, plan.name
    obstacles: list[VirtballoonError] = []
    if plan.live and configs.live is None:
        plan = replace(plan, live=False)
        obstacles.append(
            NotRunning(
                "it does not run, so it has no live interval",
                hint="--config sets it for the next start",
                host=host,
                domain=name,
            )
        )
    elif plan.live and balloon is None:
        plan = replace(plan, live=False)
        obstacles.append(NoBalloon("it has no balloon device", host=host, domain=name))
    if plan.config and configs.config is None:
        plan = replace(plan, config=False)
        obstacles.append(
            TransientDomain(
                "it is transient, so it has no persistent configuration",
                hint="--live sets it until it stops",
                host=host,
                domain=name,
            )
        )
    elif plan.config and configs.config is not None and configs.config.balloon is None:
        plan = replace(plan, config=False)
        obstacles.append(
            NoBalloon("its configuration has no balloon device", host=host, domain=name)
        )
    if plan.config and plan.seconds > libvirt_limits.MAX_INTERVAL:
        obstacles.append(
            InvalidInterval(
                f"a configuration takes 0 to {libvirt_limits.MAX_INTERVAL} seconds,"
                f" not {plan.seconds}",
                host=host,
                domain=name,
            )
        )
        plan = replace(plan, config=False)
    if obstacles and exact:
        return replace(plan, outcome=Outcome.FAILED, error=obstacles[0])
    if not plan.live and not plan.config:
        return replace(plan, outcome=Outcome.SKIPPED, error=obstacles[0] if obstacles else None)
    outcome = Outcome.CHANGED if plan.after != plan.before else Outcome.UNCHANGED
    return replace(plan, outcome=outcome)


def _carry_out(
    scheduler: Scheduler,
    wish: _Wish,
    meant: Iterable[Selected[Domain]],
    *,
    dry_run: bool,
    deadline: Deadline,
) -> Iterator[IntervalChange]:
    by_domain = {selected.domain: selected for selected in meant}
    tasks = {domain: partial(_errand, wish, each, dry_run) for domain, each in by_domain.items()}
    for domain, outcome in run_per_domain(scheduler, tasks, deadline):
        selected = by_domain[domain]
        error: object = outcome
        if isinstance(outcome, IntervalChange):
            error = outcome.error
        elif isinstance(outcome, NoAnswer):
            error = outcome.error
            if outcome.in_flight:
                outcome.error.message += "; what was sent may still take effect"
        if isinstance(error, DomainNotFound) and not selected.exact:
            # It vanished; nobody asked for this one by name.
            continue
        if isinstance(outcome, IntervalChange):
            yield outcome
        elif isinstance(error, VirtballoonError):
            # A domain in migration takes its interval along, if it is set on the source.
            passed_over = isinstance(error, Incoming) and not selected.exact
            failed = _failed(selected.domain, error)
            yield replace(failed, outcome=Outcome.SKIPPED) if passed_over else failed


def _errand(
    wish: _Wish,
    meant: Selected[Domain],
    dry_run: bool,  # noqa: FBT001 - bound by position
) -> IntervalChange | Control:
    """All that is done to one domain: look, and change it unless there is nothing to change."""
    plan = wish.plan(meant)
    if isinstance(plan, Control):
        return plan
    if dry_run or plan.outcome in {Outcome.SKIPPED, Outcome.FAILED}:
        return plan.change
    return _apply(plan, wish.awaited)


def _apply(plan: IntervalPlan, awaited: dict[str, Awaited] | None) -> IntervalChange | Control:
    """Do what is planned for one domain, even where it is so already: sending it again repairs a
    QEMU that differs, and writes a configuration that could not be saved before."""
    domain = plan.domain
    live = plan.live
    try:
        # The configuration, too, is behind the lock of whoever holds the guest.
        if plan.before.live is not None and (live or plan.config) and (hold := hold_of(domain)):
            return hold
        was_off = plan.before.in_force == 0
        ask = live and awaited is not None
        # From 0 the guest is asked at once, so that its answer may be there as soon as the
        # interval is set. From any other, what comes in between answers the one before.
        last_update = read_last_update(domain, plan.qom_path) if ask and was_off else None
        if live and plan.qom_path is not None:
            domain.monitor().set_polling_interval(plan.qom_path, plan.seconds)
            live = False
        if live or plan.config:
            domain.set_period(plan.seconds, live=live, config=plan.config)
        if ask and awaited is not None:
            since = time.monotonic()
            if last_update is None:
                last_update = read_last_update(domain, plan.qom_path)
            awaited[domain.uuid] = Awaited(
                domain=domain, id=plan.id, last_update=last_update, since=since
            )
    except VirtballoonError as error:
        after = _reread(plan)
        return replace(
            plan.change,
            outcome=Outcome.FAILED,
            changed=after != plan.before,
            after=after,
            error=error,
        )
    return plan.change


def _reread(plan: IntervalPlan) -> Interval:
    """What the intervals are after a failure, as far as that can still be told."""
    try:
        after = read_configs(plan.domain).interval
        if plan.qom_path is not None:
            qemu = plan.domain.monitor().polling_interval(plan.qom_path)
            after = replace(after, qemu=qemu)
    except VirtballoonError:
        return plan.before
    return after


def _failed(domain: Domain, error: VirtballoonError) -> IntervalChange:
    return IntervalChange(
        name=domain.name,
        uuid=domain.uuid,
        outcome=Outcome.FAILED,
        changed=False,
        before=Interval(),
        after=Interval(),
        error=error,
    )
