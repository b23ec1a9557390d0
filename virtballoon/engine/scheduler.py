"""Makes the calls of plans on one connection, for one plan after another."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, TypeVar

from virtballoon.engine.calls import BackgroundCall, Calls
from virtballoon.engine.limits import Deadline, Limits
from virtballoon.engine.plan import Call, Plan, R, Step
from virtballoon.errors import VirtballoonError
from virtballoon.hypervisor.connection import Connection, Link
from virtballoon.hypervisor.domain import Domain

#: Where a round trip takes longer than this, and one for each domain longer than that, a round trip
#: is what a call costs.
_FAR_SECONDS: Final = 0.01
_FAR_SECONDS_IN_ALL: Final = 0.4

T = TypeVar("T")


class Scheduler:
    """The calls that are under way on one connection. Belongs to one thread.

    :param link: the way to the host; None where it is not known
    :param limits: what is known of held domains; a program that reads again and again keeps it
    """

    def __init__(
        self, connection: Connection, link: Link | None, limits: Limits | None = None
    ) -> None:
        self.connection = connection
        self.link = link
        self.limits = limits if limits is not None else Limits()
        # Any other call on the connection has libvirt's client send one that it kept back.
        self._calls: Calls[Call] = Calls(connection.link)

    def is_far(self, domains: int) -> bool:
        """Whether a round trip is what a call costs, for this number of domains."""
        away = self.link.round_trip_seconds if self.link is not None else 0.0
        return away > _FAR_SECONDS and away * domains > _FAR_SECONDS_IN_ALL

    @property
    def is_blocked(self) -> bool:
        """Whether calls have not returned that a domain can hold up, or the one for the host."""
        return any(
            (call.may_block or call.step in {Step.XML, Step.HOST}) and not begun.has_ended
            for call, begun in self._calls.in_flight.items()
        )

    def begin(self, work: Callable[[], T]) -> BackgroundCall[T]:
        """Make a call for the host itself, next to those of plans, which leave it its place."""
        return self._calls.submit(Call(Step.HOST, ()), work)

    def wait_for(self, call: BackgroundCall[T], until: float) -> bool:
        """Wait until a call of :meth:`begin` has ended, or until this time; whether it has."""
        while not call.has_ended and (left := until - time.monotonic()) > 0:
            self._calls.wait(left)
        return call.has_ended

    def run(self, plan: Plan[R], deadline: Deadline) -> Iterator[R]:
        """Carry out a plan, and yield each domain when it is done or given up. The time that the
        caller takes over a domain does not count.

        :raise ConnectionLost: when the connection breaks; :meth:`Plan.give_up` has the others
        """
        own: set[Call] = set()
        while plan.rows and plan.lost is None:
            now = time.monotonic()
            if now < deadline.at:
                left_behind = sum(call not in own for call in self._calls.in_flight)
                for call in plan.start(now, left_behind):
                    own.add(call)
                    self._calls.submit(call, plan.work(call))
                if plan.is_over:
                    break
            # When the time is up, what has been answered still counts.
            ended = self._calls.wait(min(deadline.at, plan.next_event()) - now)
            if ended is None and time.monotonic() >= deadline.at:
                break
            if ended is None or ended[0] not in own:
                continue
            call, answer = ended
            own.remove(call)
            try:
                outcomes: Mapping[str, object] = answer.result()
            except VirtballoonError as error:
                outcomes = dict.fromkeys((domain.uuid for domain in call.domains), error)
            done = plan.take(call, outcomes, time.monotonic())
            with deadline.stopped():
                yield from done
        if plan.lost is not None:
            raise plan.lost
        yield from plan.give_up(time.monotonic())


def each(domains: Iterable[Domain], read: Callable[[Domain], object]) -> dict[str, object]:
    """What reading each domain gives or raises, by UUID."""
    outcomes: dict[str, object] = {}
    for domain in domains:
        try:
            outcomes[domain.uuid] = read(domain)
        except VirtballoonError as error:
            outcomes[domain.uuid] = error
    return outcomes
