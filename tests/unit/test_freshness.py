"""Whose figures are new enough, who is asked, and how that is told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.unit.test_documents import HOST, READ, SCHEMA, VALIDATOR, document, report
from virtballoon.cli import quiet
from virtballoon.errors import ReadOnly
from virtballoon.log import log_host
from virtballoon.model.memory import Figures
from virtballoon.model.report import DomainReport, Interval, Refresh, Unheard
from virtballoon.model.statistics import MemoryStats
from virtballoon.model.verdict import State
from virtballoon.operations import refreshing as freshness
from virtballoon.render import documents, formats, text

NOW = 1_700_000_000


def row(age: int | None, *, interval: int = 10, **facts: Any) -> DomainReport:
    update = 0 if age is None else NOW - age
    figures = Figures(stats=MemoryStats(swap_in=0), last_update=update)
    return report(figures=figures, interval=Interval(live=interval), now=float(NOW), **facts)


@pytest.mark.parametrize(
    ("old", "may_be_newer", "has_to_be_asked"),
    [
        (row(5), False, False),
        (row(6), True, False),
        (row(6, interval=0), True, True),
        (row(None, interval=0), True, True),
        # It answers by itself in 4 seconds; in 10; in 11, which is more than is waited.
        (row(6, interval=10), True, False),
        (row(6, interval=16), True, False),
        (row(6, interval=17), True, True),
        # A little late; and so late that QEMU may not poll it at all.
        (row(24, interval=10), True, False),
        (row(26, interval=10), True, True),
        # It has never answered, though it is polled.
        (row(None), True, False),
        # By this clock its figures are of tomorrow; it answers who knows when.
        (row(-86400), True, True),
        (row(-2), False, False),
        (row(60, state=State.PAUSED), False, False),
        (row(60, balloon=None), False, False),
        (row(60, state=State.SHUTOFF, id=None), False, False),
    ],
)
def test_who_is_asked(old: DomainReport, may_be_newer: bool, has_to_be_asked: bool) -> None:
    assert freshness._may_be_newer(old, 5) == may_be_newer
    if may_be_newer:
        assert freshness._has_to_be_asked(old, 10) == has_to_be_asked


REFRESHES = (
    Refresh(fresh=True),
    Refresh(fresh=True, asked=True, seconds=0.26, restored=True),
    Refresh(fresh=False, asked=True, seconds=10.0, reason=Unheard.NO_ANSWER, restored=True),
    Refresh(fresh=True, asked=True, seconds=1.0, restored=False, error=ReadOnly("no", host=HOST)),
    Refresh(fresh=None, reason=Unheard.SHUTOFF),
)


def test_documents_with_refresh() -> None:
    rows = tuple(replace(row(0), refresh=refresh) for refresh in REFRESHES)
    whole = document(replace(READ, domains=rows))
    VALIDATOR.validate(whole)
    found = [domain["refresh"] for domain in whole["hosts"][0]["domains"]]
    assert found[1] == {
        "fresh": True,
        "asked": True,
        "seconds": 0.3,
        "reason": None,
        "restored": True,
        "error": None,
    }
    assert found[3]["error"]["message"] == "no"
    flat = formats.flattened(documents.domain_record(rows[3]))
    assert [key for key in flat if key.startswith("refresh.")] == [
        c for c in documents.domain_columns(refresh=True) if c.startswith("refresh.")
    ]
    reasons = SCHEMA["$defs"]["refresh"]["properties"]["reason"]["enum"]
    assert set(reasons) == {*Unheard, None} - {Unheard.NOT_SET}
    assert [text.refreshed(refresh) for refresh in REFRESHES] == [
        "fresh enough",
        "asked, and answered after 0.3 s",
        "not fresh: no answer (10 s)",
        "asked, and answered after 1.0 s",
        "not fresh: not running",
    ]
    # Quiet about all but what is not as new as wanted, or was not put back.
    (shown,) = quiet.exceptions([replace(READ, domains=rows)])
    assert [one.refresh for one in shown.domains] == [REFRESHES[2], REFRESHES[3]]


def test_what_is_not_well_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    rows = tuple(replace(row(0), refresh=refresh) for refresh in REFRESHES)
    log_host(replace(READ, domains=rows))
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(warnings) == 2
    assert warnings[0].endswith("its figures are older than was wanted: no-answer")
    assert warnings[1].endswith(": no")
