"""Sets the polling interval: plans the change of each domain, then applies it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import partial
from itertools import chain
from typing import NamedTuple, Self

from virtballoon.engine.limits import Deadline
from virtballoon.engine.scheduler import Scheduler
from virtballoon.engine.session import DEFAULT_TIMEOUT, HostSession
from virtballoon.engine.tasks import hold_of, run_per_domain
from virtballoon.errors import (
    DomainNotFound,
    Incoming,
    InvalidInterval,
    NoBalloon,
    NotRunning,
    TransientDomain,
    VirtballoonError,
)
from virtballoon.hypervisor import qmp
from virtballoon.hypervisor.connection import Target
from virtballoon.hypervisor.device import (
    BalloonDevice,
    Configs,
    balloon_device,
    locate,
    read_configs,
)
from virtballoon.hypervisor.domain import MAX_INTERVAL, AnyDomain, Control, Domain
from virtballoon.log import log_host
from virtballoon.model.outcome import HostChanges, IntervalChange, Outcome, Waited
from virtballoon.model.report import Interval, Unheard
from virtballoon.model.selection import Selected, means_all
from virtballoon.model.source import Source
from virtballoon.operations.reading import host_report, read_domains
from virtballoon.operations.waiting import WaitCallback, Watched, last_update_of, updates


@dataclass(frozen=True, slots=True)
class IntervalRequest:
    """What is to be set.

    Without ``live`` and ``config``: live where a domain runs, in its configuration where it does
    not.

    :ivar seconds: the interval, 0 for off
    :ivar live: set it until the domain stops
    :ivar config: write it to the persistent configuration
    :ivar where_off: leave every interval alone that is not 0
    :ivar via: how the live interval is set. Through libvirt the XML stays true; QOM bypasses it and
        marks the domain as tainted.
    :ivar dry_run: only give what would be set
    :raise InvalidInterval: when QEMU does not accept the interval
    """

    seconds: int
    _: KW_ONLY
    live: bool = False
    config: bool = False
    where_off: bool = False
    via: Source = Source.LIBVIRT
    dry_run: bool = False

    def __post_init__(self) -> None:
        check_interval(self.seconds, via=Source.LIBVIRT if self.config else self.via)

    @classmethod
    def of(cls, request: Self | int) -> Self:
        """A number of seconds is a request without further options."""
        return cls(request) if isinstance(request, int) else request

    def includes(self, domain: Domain) -> bool:
        """Whether a domain is meant where all are."""
        live = self.live or not self.config
        return (live and domain.active) or (self.config and domain.persistent)


def check_interval(seconds: int, *, via: Source = Source.LIBVIRT) -> int:
    """Return the interval if it is valid. libvirt's call takes a C int; QEMU's property is unsigned
    and has 32 bits.

    :raise InvalidInterval: below 0, too large, or not a whole number
    """
    most = qmp.MAX_INTERVAL if via is Source.QOM else MAX_INTERVAL
    if isinstance(seconds, bool) or not isinstance(seconds, int):
        raise InvalidInterval(f"a polling interval is a whole number of seconds, not {seconds!r}")
    if not 0 <= seconds <= most:
        raise InvalidInterval(f"a polling interval is 0 to {most} seconds, not {seconds}")
    return seconds


def set_intervals(
    target: Target,
    request: IntervalRequest | int,
    domains: Iterable[str] | None,
    *,
    wait: float | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    on_waiting: WaitCallback | None = None,
) -> HostChanges:
    """Set the polling interval of a host's domains.

    One domain's failure is that domain's outcome. If a name, UUID or pattern matches no domain,
    nothing is changed, and the result names it as unmatched.

    :param target: a read-write connection, which stays open; or a URI, or None for libvirt's
        default
    :param request: what to set; a number of seconds is enough
    :param domains: names, UUIDs and shell patterns; None for every running domain and, with
        ``config``, every persistent one. With a :class:`Where` among them, the domains are read
        first; one of which it is unknown whether it meets that has failed.
    :param wait: seconds to wait, beyond ``timeout``, until each domain whose live interval was set
        has been updated since; None for not waiting
    :param timeout: seconds for everything but waiting, from connecting on
    """
    request = IntervalRequest.of(request)
    done: list[_Done] = []
    waited: dict[str, Waited] = {}
    words = None if domains is None else tuple(domains)
    writes = not request.dry_run
    session = HostSession(target, words, via=request.via, writes=writes, timeout=timeout)
    with session, session.errors_kept():
        session.connect()
        if not session.selection.unmatched:
            every = means_all(words)
            chosen = [
                one
                for one in session.selection.domains
                if not every or request.includes(one.domain)
            ]
            if session.selection.conditions:
                chosen = _meeting(session, request, chosen, done)
            done.extend(
                _set_all(
                    session.scheduler, request, chosen, session.deadline, watch=wait is not None
                )
            )
            watched = [replace(each.watched, seconds=wait) for each in done if each.watched]
            batches = updates(
                session, watched, via=request.via, timeout=timeout, on_waiting=on_waiting
            )
            waited.update((each.uuid, each.waited) for each in chain.from_iterable(batches))
    changes = [each.change for each in done]
    if wait is not None:
        changes = [replace(c, waited=waited.get(c.uuid) or _not_waited(c)) for c in changes]
    result = session.result(
        HostChanges,
        complete=all(change.is_well for change in changes),
        domains=tuple(sorted(changes, key=lambda change: (change.name, change.uuid))),
    )
    return log_host(result)


def _meeting(
    session: HostSession,
    request: IntervalRequest,
    chosen: Sequence[Selected[Domain]],
    done: list[_Done],
) -> list[Selected[Domain]]:
    """Read these domains, and give those that meet the conditions of the selection. One of which
    that is unknown has failed."""
    exact = {one.domain.uuid: one.exact for one in chosen}
    reports = list(
        read_domains(session, {one.domain.uuid: one.domain for one in chosen}, via=request.via)
    )
    met = []
    for report in host_report(session, reports).domains:
        meets = session.selection.meets(report)
        if meets is None:
            change = _failed(report.name, report.uuid, report.error)
            done.append(_Done(change))
        elif meets and report.uuid in session.domains:
            domain = session.domains[report.uuid]
            met.append(Selected(domain=domain, exact=exact[report.uuid]))
    return met


def _failed(
    name: str, uuid: str, error: VirtballoonError | None, outcome: Outcome = Outcome.FAILED
) -> IntervalChange:
    """Of a domain in which nothing was set, and nothing is known to have been."""
    nothing = Interval()
    return IntervalChange(
        name=name,
        uuid=uuid,
        outcome=outcome,
        changed=False,
        before=nothing,
        after=nothing,
        error=error,
    )


def set_interval(
    domain: AnyDomain, request: IntervalRequest | int, *, timeout: float = DEFAULT_TIMEOUT
) -> IntervalChange:
    """Set the polling interval of one domain. Its connection stays open.

    What goes wrong is in the outcome and its error; of the live interval and the configuration, one
    may have been set.
    """
    chosen = Selected(domain=Domain.of(domain), exact=True)
    request, deadline = IntervalRequest.of(request), Deadline.after(timeout)
    scheduler = Scheduler(chosen.domain.connection, None)
    (done,) = _set_all(scheduler, request, [chosen], deadline, watch=False)
    return done.change


def _not_waited(change: IntervalChange) -> Waited:
    settled = change.outcome in {Outcome.CHANGED, Outcome.UNCHANGED}
    if settled and change.before.live is None:
        reason = Unheard.SHUTOFF
    elif settled and change.after.in_force == 0:
        reason = Unheard.POLLING_OFF
    else:
        reason = Unheard.NOT_SET
    return Waited(answered=None, reason=reason)


class _Done(NamedTuple):
    """What was done to one domain, and what its update is compared with if it is waited for."""

    change: IntervalChange
    watched: Watched | None = None


def _set_all(
    scheduler: Scheduler,
    request: IntervalRequest,
    chosen: Iterable[Selected[Domain]],
    deadline: Deadline,
    *,
    watch: bool,
) -> Iterator[_Done]:
    by_domain = {one.domain: one for one in chosen}
    watch = watch and request.seconds > 0
    tasks = {d: partial(_set_one, request, one, watch) for d, one in by_domain.items()}
    for domain, value, failure, in_flight in run_per_domain(scheduler, tasks, deadline):
        is_named = by_domain[domain].exact
        done = value if isinstance(value, _Done) else None
        error = failure if done is None else done.change.error
        if isinstance(error, DomainNotFound) and not is_named:
            # It vanished, and was not asked for by name.
            continue
        if done is not None:
            yield done
        elif error is not None:
            if in_flight:
                error.message += "; what was sent may still take effect"
            # A domain in migration brings its interval along, if it is set on the source.
            is_skipped = isinstance(error, Incoming) and not is_named
            outcome = Outcome.SKIPPED if is_skipped else Outcome.FAILED
            yield _Done(_failed(domain.name, domain.uuid, error, outcome))


def _set_one(
    request: IntervalRequest,
    chosen: Selected[Domain],
    watch: bool,  # noqa: FBT001 - bound by position
) -> _Done | Control:
    """Plan and apply the change of one domain; what holds the domain if something does."""
    domain = chosen.domain
    if domain.active and (hold := hold_of(domain)):
        return hold
    plan = _plan(request, chosen)
    if request.dry_run or plan.change.outcome in {Outcome.SKIPPED, Outcome.FAILED}:
        return _Done(plan.change)
    # The configuration is behind the same lock as the running domain.
    if plan.configs.live is not None and (hold := hold_of(domain)):
        return hold
    return _apply(plan, request.seconds, watch=watch and plan.live)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What setting the interval will do to one domain."""

    domain: Domain
    configs: Configs
    device: BalloonDevice | None
    # Which intervals are set.
    live: bool
    config: bool
    change: IntervalChange


def _plan(request: IntervalRequest, chosen: Selected[Domain]) -> _Plan:
    domain = chosen.domain
    configs = read_configs(domain)
    running = configs.live is not None
    is_either = request.live or request.config
    live = request.live if is_either else running
    config = request.config if is_either else not running
    balloon = configs.live.balloon if configs.live is not None else None
    is_qom = live and running and request.via is Source.QOM
    if is_qom:
        balloon = locate(domain.monitor(), balloon)
    device = balloon_device(domain, balloon, request.via) if balloon is not None else None
    before = after = configs.interval
    if is_qom and device is not None:
        before = after = replace(before, qemu=device.interval())
    error = _live_obstacle(configs, device) if live else None
    live = live and error is None
    obstacle = _config_obstacle(configs, request.seconds) if config else None
    config = config and obstacle is None
    error = error or obstacle
    if error is not None:
        error.host, error.domain = domain.connection.uri, domain.name
    outcome = Outcome.UNCHANGED
    if error is not None and chosen.exact:
        outcome = Outcome.FAILED
    elif not live and not config:
        outcome = Outcome.SKIPPED
    else:
        error = None
        if request.where_off:
            live = live and (before.live if before.qemu is None else before.qemu) == 0
            config = config and before.config == 0
        if live:
            after = replace(after, **{"qemu" if is_qom else "live": request.seconds})
        if config:
            after = replace(after, config=request.seconds)
        outcome = Outcome.UNCHANGED if after == before else Outcome.CHANGED
    change = IntervalChange(
        name=domain.name,
        uuid=domain.uuid,
        outcome=outcome,
        changed=after != before,
        before=before,
        after=after,
        error=error,
    )
    return _Plan(
        domain=domain, configs=configs, device=device, live=live, config=config, change=change
    )


def _live_obstacle(configs: Configs, device: BalloonDevice | None) -> VirtballoonError | None:
    if configs.live is None:
        hint = "--config sets it for the next start"
        return NotRunning("it does not run, so it has no live interval", hint=hint)
    return NoBalloon("it has no balloon device") if device is None else None


def _config_obstacle(configs: Configs, seconds: int) -> VirtballoonError | None:
    if configs.config is None:
        hint = "--live sets it until it stops"
        return TransientDomain("it is transient, so it has no persistent configuration", hint=hint)
    if configs.config.balloon is None:
        return NoBalloon("its configuration has no balloon device")
    if seconds > MAX_INTERVAL:
        return InvalidInterval(f"a configuration takes 0 to {MAX_INTERVAL} seconds")
    return None


def _apply(plan: _Plan, seconds: int, *, watch: bool) -> _Done:
    # Even where it is so already: that repairs a QEMU that differs.
    domain, device, before = plan.domain, plan.device, plan.change.before
    watched: Watched | None = None
    try:
        # From 0 the guest is polled at once, so that its answer may be there as soon as the
        # interval is set. From any other, an update in between belongs to the interval before.
        update = last_update_of(device) if watch and before.in_force == 0 and device else None
        if plan.live and device is not None:
            device.set_interval(seconds)
        if plan.config:
            domain.set_period(seconds, config=True)
        if watch and device is not None and plan.configs.live is not None:
            since = time.monotonic()
            update = last_update_of(device) if update is None else update
            number = plan.configs.live.id
            watched = Watched(domain=domain, id=number, last_update=update, since=since)
    except VirtballoonError as error:
        after = _reread(plan)
        return _Done(
            replace(
                plan.change,
                outcome=Outcome.FAILED,
                changed=after != before,
                after=after,
                error=error,
            )
        )
    return _Done(plan.change, watched)


def _reread(plan: _Plan) -> Interval:
    """What the intervals are after a failure, as far as they can be read."""
    try:
        after = read_configs(plan.domain).interval
        if plan.change.before.qemu is not None and plan.device is not None:
            after = replace(after, qemu=plan.device.interval())
    except VirtballoonError:
        return plan.change.before
    return after
