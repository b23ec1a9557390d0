"""The live view without a terminal: what is known, what is shown, and what keys do."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tests.unit.builders import NOW
from tests.unit.view_builders import (
    BIG,
    FULL,
    GIB,
    MUTE,
    OFF,
    UPDATE,
    guest,
    host,
    host_diagnosis,
    press,
)
from virtballoon.doctor.results import HostDiagnosis
from virtballoon.engine.calls import BackgroundCall
from virtballoon.errors import Busy
from virtballoon.model.report import DomainReport
from virtballoon.watch.view import (
    BINDINGS,
    HISTORY,
    Line,
    LineKey,
    Order,
    Screen,
    View,
    age_seconds,
    is_outdated,
)


def view(*rows: DomainReport, **options: Any) -> View:
    shown = View(["hv1"], **options)
    shown.update(0, host(rows or (MUTE, OFF, BIG, FULL)), NOW)
    return shown


def names(shown: View) -> list[str]:
    return [x.domain.name if x.domain else x.host.label for x in shown.lines]


# The order.


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        # Figures that are not fresh come after those that are.
        (Order.NEED, ["full", "big", "off", "mute"]),
        (Order.USE, ["off", "big", "full", "mute"]),
        (Order.NAME, ["big", "full", "mute", "off"]),
    ],
)
def test_orders(order: Order, expected: list[str]) -> None:
    assert names(view(order=order)) == ["hv1", *expected]


def test_s_changes_the_order() -> None:
    shown = view()
    orders = []
    for _ in Order:
        press(shown, "s")
        orders.append(shown.order)

    assert orders == [Order.USE, Order.NAME, Order.PRESSURE, Order.NEED]
    assert names(shown) == ["hv1", "full", "big", "off", "mute"]


def test_hosts_keep_their_order_and_domains() -> None:
    shown = View(["hv2", "hv3", "hv1"])
    shown.update(2, host([FULL]), NOW)
    assert names(shown) == ["hv2", "hv3", "hv1", "full"]

    shown.update(1, host([BIG]), NOW)
    assert names(shown) == ["hv2", "hv3", "big", "hv1", "full"]
    assert shown.shown == len(shown.reports) == 2


def test_incomplete_reading_keeps_other_domains() -> None:
    shown = view(FULL, BIG)
    newer = guest("full", used=GIB // 2, last_update=UPDATE + 2)
    shown.update(0, host([newer]), NOW, is_complete=False)

    (watched,) = shown.hosts
    assert watched.report is not watched.complete
    assert names(shown) == ["hv1", "full", "big"]
    assert shown.lines[1].domain == newer.since(FULL.sample)
    assert watched.history(FULL.uuid) == (0.9, 0.5)
    assert shown.reports[0].domains == (FULL, BIG), "the last one that was complete"

    shown.update(0, host([newer]), NOW)
    assert names(shown) == ["hv1", "full"]


# The filter.


def test_typing_a_filter() -> None:
    shown = view()
    press(shown, "/", *"Q!FU", "backspace", "backspace", "ctrl-u", *"FU")
    assert (shown.is_typing, shown.filter, names(shown)) == (True, "FU", ["hv1", "full"])

    press(shown, "enter", "q")
    assert (shown.is_typing, shown.is_done) == (False, True), "q is a key again"

    press(shown, "esc")
    assert (shown.filter, len(shown.lines)) == ("", 5)


def test_filter_matches_names_verdicts_and_hosts() -> None:
    shown = View(["hv1", "hv2", "dead"])
    shown.update(0, host([FULL, OFF]), NOW)
    shown.update(1, host([BIG]), NOW)
    shown.update(2, host(error=OSError("no way")), NOW)
    press(shown, "/", *"polling", "enter")
    assert names(shown) == ["hv1", "off", "dead"]

    press(shown, "esc", "/", *"hv2")
    assert names(shown) == ["hv2", "big", "dead"]

    press(shown, "esc")
    assert not shown.is_typing
    assert len(shown.lines) == 6


def test_only_unwell_domains() -> None:
    shown = view()
    press(shown, "!")
    assert names(shown) == ["hv1", "off", "mute"]
    press(shown, "!")
    assert len(shown.lines) == 5
    assert names(view(FULL, only_unwell=True)) == []


# Moving.


def test_selection_follows_its_domain() -> None:
    shown = view()
    press(shown, "down", "down")
    assert shown.selected == (0, "uuid-big")

    press(shown, "s", "s")
    assert shown.order is Order.NAME
    shown.update(0, host([BIG, FULL]), NOW)
    assert shown.selected == (0, "uuid-big")
    press(shown, "up")
    assert shown.selected == (0, "")


def test_selection_when_its_domain_is_removed() -> None:
    shown = view()
    press(shown, "end")
    assert shown.selected == (0, "uuid-mute")
    shown.window(shown.lines, 10)
    shown.update(0, host([FULL, BIG]), NOW)
    shown.window(shown.lines, 10)
    assert shown.selected == (0, "uuid-big")
    shown.update(0, host(error=OSError("down")), NOW)
    shown.window(shown.lines, 10)
    assert shown.selected == (0, "")


def test_window_contains_the_selected_line() -> None:
    shown = view(*(guest(f"g{number:03}") for number in range(400)), order=Order.NAME)

    def keys(height: int) -> list[str]:
        return [line.key[1] for line in shown.window(shown.lines, height)]

    assert len(keys(20)) == 20
    press(shown, "pgdn", "pgdn")
    assert shown.selected[1] == keys(20)[-1] == "uuid-g037"

    press(shown, "end")
    assert keys(3) == ["uuid-g397", "uuid-g398", "uuid-g399"]
    press(shown, "home")
    assert keys(3)[0] == ""
    assert len(keys(1)) == 1


def test_details_of_a_domain_and_its_neighbours() -> None:
    shown = view()
    press(shown, "down", "enter")
    assert (shown.screen, shown.opened) == (Screen.DETAILS, (0, "uuid-full"))
    press(shown, "right", "right")
    assert shown.opened == (0, "uuid-off")
    press(shown, "left")
    assert (shown.screen, shown.opened) == (Screen.DETAILS, (0, "uuid-big"))
    found = shown.line(shown.opened)
    assert found is not None
    assert found.domain is BIG

    shown.update(0, host([FULL]), NOW)
    assert shown.line(shown.opened) is None
    press(shown, "down", "down")
    assert shown.window("abc", 2) == "bc", "not beyond the last line"
    press(shown, "q")
    assert (shown.screen, shown.is_done) == (Screen.LIST, False)


def test_doctor_runs_once_per_domain() -> None:
    shown = view()
    started: list[LineKey] = []
    go_on = threading.Event()

    def start(key: LineKey) -> BackgroundCall[HostDiagnosis]:
        started.append(key)
        return BackgroundCall(lambda: (go_on.wait(), host_diagnosis())[1])

    shown.start_doctor = start
    press(shown, "d", "down", "enter", "d", "d")
    assert started == [(0, "uuid-full")]
    press(shown, "left", "d")
    assert shown.opened == (0, "")
    assert len(started) == 1, "a host is not a domain"
    go_on.set()


def test_keys_without_domains() -> None:
    shown = View(["hv1"])
    press(shown, "up", "down", "pgdn", "end", "/", "x", "enter", "enter", "left")
    assert shown.screen is Screen.DETAILS
    assert shown.line(shown.opened) == Line(shown.hosts[0])


def test_help_pause_units_redraw() -> None:
    shown = view()
    press(shown, "?", "/")
    assert (shown.screen, shown.is_typing) == (Screen.HELP, False)
    press(shown, "q", "space", "u", "ctrl-l")
    assert (shown.screen, shown.is_paused, shown.exact) == (Screen.LIST, True, True)
    assert shown.redraw
    press(shown, "p", "u", "nonsense")
    assert (shown.is_paused, shown.exact) == (False, False)


def test_keys_are_unique() -> None:
    keys = [key for binding in BINDINGS for key in binding.keys]
    assert len(keys) == len(set(keys))
    for key in keys:
        # Whatever is on the screen.
        for before in ([], ["?"], ["enter"], ["/"]):
            press(view(), *before, key)


# Ages and history.


def test_age_grows_after_the_reading() -> None:
    assert age_seconds(FULL, UPDATE + 20) == 20
    assert age_seconds(MUTE, UPDATE) is None
    # Two intervals of 10 s and 5 s.
    assert not is_outdated(FULL, UPDATE + 25)
    assert is_outdated(FULL, UPDATE + 26)
    assert not is_outdated(OFF, UPDATE + 10_000), "they were not fresh"


def test_history_has_a_value_per_update_and_gaps() -> None:
    (watched,) = View(["hv1"]).hosts

    def add(*rows: DomainReport) -> None:
        report = host(rows) if rows else host(error=OSError("down"))
        watched.update(report, NOW, is_complete=True)

    half, full = guest("a", used=GIB // 2), guest("a", used=GIB, last_update=UPDATE + 2)
    for row in (half, half, full, guest("a", error=Busy("held"))):
        add(row, OFF)
    add()
    add(full, OFF)
    add(guest("a", used=GIB // 4, last_update=UPDATE + 4), OFF)

    assert watched.history("uuid-a") == (0.5, 1.0, None, 0.25)
    assert watched.history(OFF.uuid) == watched.history("unknown") == ()
    for second in range(3 * HISTORY):
        add(guest("a", last_update=UPDATE + 10 + second % 100))
    assert len(watched.history("uuid-a")) == HISTORY
    add(OFF)
    assert watched.history("uuid-a") == ()


def test_history_survives_an_unreachable_host() -> None:
    shown = view(FULL, BIG)
    (watched,) = shown.hosts
    shown.update(0, host(error=OSError("restarting")), NOW)
    assert watched.history(FULL.uuid) == (0.9, None)

    shown.update(0, host([guest("full", used=GIB // 2, last_update=UPDATE + 2)]), NOW)
    assert watched.history(FULL.uuid) == (0.9, None, 0.5)
    assert watched.history(BIG.uuid) == ()
