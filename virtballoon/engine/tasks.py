"""Runs an errand for each of many domains, so that a guest that hangs holds up nobody else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from virtballoon.engine.calls import Calls
from virtballoon.engine.reader import IN_FLIGHT, MOST_HELD
from virtballoon.errors import MONITOR_HELD, Busy, NotRunning, NotSupported
from virtballoon.hypervisor.connection import Control, Domain

_RETRY_SECONDS: Final = 0.2
#: So many are looked at at a time, which none can hold up.
_LOOKS: Final = 20

#: Stands for an errand that was begun and has no answer.
SENT: Final = object()
#: Stands for one that was not begun, so as not to use up what the daemon has.
BARRED: Final = object()


def hold_of(domain: Domain) -> Control | None:
    """How the domain is held, if it is, and if its driver tells."""
    try:
        control = domain.control()
    except (NotRunning, NotSupported):
        return None
    if control.free and domain.is_migrating():
        return Control(free=False, seconds=0, waiting=False)
    return None if control.free else control


def run(
    errands: Mapping[str, Callable[[], object]],
    looks: Mapping[str, Callable[[], object]],
    deadline: float,
    nudge: Callable[[], object] | None,
    *,
    most: int = IN_FLIGHT,
) -> Iterator[tuple[str, object]]:
    """Run an errand for each domain, a few at a time, and yield what each returned or raised of
    ours.

    Before that, a look at each counts those that hang already: each keeps one of the daemon's
    workers, of which some are to be left. An errand that finds the guest's monitor held is run
    again until the deadline; what has no answer by then gives ``SENT`` if it is still out,
    ``BARRED`` if it was never begun, else None.

    :param most: how many errands are under way at a time: fewer where calls that wait for hung
        guests are out already
    """
    calls: Calls[str] = Calls(nudge, accompanied=most < IN_FLIGHT)
    waiting = [(0.0, uuid) for uuid in errands]
    unanswered = set(errands)
    hung: set[str] = set()
    looking = list(looks)
    try:
        while (looking or calls.in_flight) and time.monotonic() < deadline:
            for uuid in looking[: _LOOKS - len(calls.in_flight)]:
                looking.remove(uuid)
                calls.submit(uuid, looks[uuid])
            answer = calls.wait(deadline - time.monotonic())
            if answer is not None and isinstance(answer.value, Control) and answer.value.hangs:
                hung.add(answer.key)
        while unanswered and (now := time.monotonic()) < deadline:
            for entry in [entry for entry in waiting if entry[0] <= now]:
                # Whoever is known to hang is only looked at until he goes on.
                may_hang = len(hung | calls.in_flight.keys()) < MOST_HELD or entry[1] in hung
                if len(calls.in_flight) < most and may_hang:
                    waiting.remove(entry)
                    calls.submit(entry[1], errands[entry[1]])
            later = [at for at, _ in waiting if at > now]
            answer = calls.wait(min([deadline, *later]) - time.monotonic())
            if answer is None:
                continue
            if isinstance(answer.value, Control):
                (hung.add if answer.value.hangs else hung.discard)(answer.key)
                waiting.append((time.monotonic() + _RETRY_SECONDS, answer.key))
                continue
            unanswered.remove(answer.key)
            yield answer.key, answer.error or answer.value
    finally:
        calls.close()
    never = BARRED if len(hung) >= MOST_HELD else None
    for uuid in unanswered:
        yield uuid, SENT if uuid in calls.in_flight else None if uuid in hung else never


def unanswered_error(domain: Domain, why: object) -> Busy:
    """What to say of a domain whose errand :func:`run` had no answer for."""
    host = domain.connection.uri
    if why is BARRED:
        message = "not asked, since too many other guests of this host hang"
        return Busy(message, host=host, domain=domain.name)
    return Busy(
        "no answer in time" + ("; what was sent may still take effect" if why is SENT else ""),
        host=host,
        domain=domain.name,
        hint=MONITOR_HELD,
    )
