"""What counts as an answer, and how waiting is told."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, cast

import pytest

from tests.unit.builders import CHANGES, SCHEMA, VALIDATOR, document, report
from virtballoon.cli.finish import with_problems
from virtballoon.errors import Busy
from virtballoon.hypervisor.domain import Domain
from virtballoon.model.memory import Figures
from virtballoon.model.outcome import Waited
from virtballoon.model.report import DomainReport, Interval, Unheard
from virtballoon.model.verdict import State
from virtballoon.operations.waiting import Watched
from virtballoon.render import text

WEB1 = cast("Domain", report())
NOW = 1_700_000_000


def row(last_update: int | None, **facts: Any) -> DomainReport:
    return report(figures=Figures(last_update=last_update), read_at=NOW + 3.0, **facts)


def judged(before: int | None, now: DomainReport, *, is_over: bool = False) -> Waited | None:
    watched = Watched(domain=WEB1, id=7, last_update=before, since=time.monotonic())
    return watched.result(now, is_over=is_over)


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (NOW - 5, NOW),
        (0, NOW),
        # The host's clock was set back; by ours, this one lies in the future.
        (NOW, NOW - 3600),
        (NOW, NOW + 3600),
    ],
)
def test_another_update_is_an_answer(before: int, now: int) -> None:
    waited = judged(before, row(now))
    assert waited is not None
    assert (waited.answered, waited.reason) == (True, None)


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (NOW, NOW),
        (0, 0),
        # It was reset, and has not answered since.
        (NOW, 0),
        # The first one that is read is what the next is compared with.
        (None, NOW),
        (None, 0),
    ],
)
def test_the_same_or_none_is_not(before: int | None, now: int) -> None:
    assert judged(before, row(now)) is None
    waited = judged(before, row(now), is_over=True)
    assert waited is not None
    assert (waited.answered, waited.reason) == (False, Unheard.NO_ANSWER)
    first = Watched(domain=WEB1, since=0.0).seen(row(now))
    assert (first.id, first.last_update) == (7, now)


@pytest.mark.parametrize(
    ("facts", "answered", "reason"),
    [
        ({"state": State.PAUSED}, None, Unheard.SUSPENDED),
        ({"interval": Interval(live=0)}, None, Unheard.POLLING_OFF),
        ({"state": State.SHUTOFF, "id": None}, None, Unheard.SHUTOFF),
        ({"balloon": None}, None, Unheard.NO_DEVICE),
        ({"error": Busy("held", host="h", domain="d")}, False, Unheard.BUSY),
        ({"id": 8}, False, Unheard.RESTARTED),
    ],
)
def test_reasons_to_stop_waiting(
    facts: dict[str, Any], answered: bool | None, reason: Unheard
) -> None:
    waited = judged(NOW, row(NOW, **facts))
    assert waited is not None
    assert (waited.answered, waited.reason) == (answered, reason)
    assert (waited.seconds is None) == (answered is None)


def test_answer_of_another_qemu_is_ignored() -> None:
    waited = judged(NOW - 9, row(NOW, id=8))
    assert waited is not None
    assert waited.reason is Unheard.RESTARTED


def test_a_change_that_was_waited_for() -> None:
    answered = Waited(answered=True, seconds=0.44)
    silent = Waited(answered=False, seconds=25.0, reason=Unheard.NO_ANSWER)
    first, second = CHANGES.domains
    waits = [answered, silent, Waited(answered=None, reason=Unheard.SUSPENDED)]
    host = replace(CHANGES, domains=tuple(replace(first, waited=waited) for waited in waits))
    whole = document(host)
    VALIDATOR.validate(whole)
    assert [domain["waited"] for domain in whole["hosts"][0]["domains"]] == [
        {"answered": True, "seconds": 0.4, "reason": None},
        {"answered": False, "seconds": 25.0, "reason": "no-answer"},
        {"answered": None, "seconds": None, "reason": "suspended"},
    ]
    assert "waited" not in document(CHANGES)["hosts"][0]["domains"][0]
    assert [text.waiting(waited) for waited in waits] == [
        "after 0.4 s",
        "no answer (25 s)",
        "suspended",
    ]
    (shown,) = with_problems([replace(host, domains=(*host.domains, second))])
    assert [change.waited for change in shown.domains] == [silent, None]


def test_schema_has_every_reason() -> None:
    enum = SCHEMA["$defs"]["waited"]["properties"]["reason"]["enum"]
    assert enum == [*Unheard, None]
