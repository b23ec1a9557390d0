"""Frames of the live view: they fit any window and any figures, and are clear without colours."""

from __future__ import annotations

import re
import threading
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from tests.unit.builders import MEMORY, NOW
from tests.unit.view_builders import (
    BIG,
    FULL,
    GIB,
    MUTE,
    OFF,
    guest,
    host,
    host_diagnosis,
    press,
)
from virtballoon.doctor.results import HostDiagnosis
from virtballoon.engine.calls import BackgroundCall
from virtballoon.errors import Busy
from virtballoon.model.clock import ClockOffset
from virtballoon.model.memory import Anomaly, Figures
from virtballoon.model.report import DomainReport
from virtballoon.model.statistics import MemoryStats
from virtballoon.model.verdict import Verdict
from virtballoon.watch import drawing
from virtballoon.watch.view import BINDINGS, Line, View

HOSTILE = "\x1b]0;x\x07 \u202e\r\n\t[bold]漢字 ❤️ 👨‍👩‍👧"
LYING = guest(
    "liar",
    figures=Figures(
        stats=MemoryStats(
            total_memory=2**64 - 2, available_memory=1, disk_caches=2**64 - 2, free_memory=0
        ),
        last_update=1_700_000_000,
        current_bytes=2**63,
        maximum_bytes=1,
    ),
)
ROWS = (FULL, BIG, OFF, MUTE, LYING, guest(HOSTILE), guest("held", error=Busy("held")))
DEAD = OSError("no answer within 10 s")


def view(*rows: DomainReport, **options: Any) -> View:
    labels = ["hv1", "qemu+ssh://root@a-long-name.example.org/system", "hv3"]
    shown = View(labels, **({"every": 2} | options))
    shown.update(0, host(rows or ROWS), NOW)
    shown.update(1, host(error=DEAD), NOW)
    return shown


def frame(shown: View, width: int = 80, *, now: float = NOW) -> drawing.Frame:
    return drawing.Frame(shown, now, width)


def plain(rows: list[drawing.Parts]) -> list[str]:
    return ["".join(part for part, _ in row).rstrip() for row in rows]


def lines(shown: View, width: int = 80, height: int = 24, **options: Any) -> list[str]:
    return plain(drawing.fitted(frame(shown, width, **options), height))


def line_of(name: str, shown: View, width: int = 80, **options: Any) -> str:
    (line,) = (x for x in lines(shown, width, **options) if x.strip().startswith(name))
    return line


@given(
    width=st.integers(0, 250),
    height=st.integers(0, 60),
    keys=st.lists(
        st.sampled_from([k for b in BINDINGS for k in b.keys] + list("ab漢")), max_size=8
    ),
)
def test_every_frame_fits(width: int, height: int, keys: list[str]) -> None:
    shown = view()
    press(shown, *keys)
    rows = drawing.fitted(frame(shown, width), height)

    assert len(rows) == height
    for row in rows:
        text = "".join(part for part, _ in row)
        assert cell_len(text) == width
        assert text.isprintable()


def test_usual_window() -> None:
    shown = view(FULL, OFF, MUTE)
    press(shown, "down")
    first, heading, *body = lines(shown)

    assert first.startswith(" virtballoon · by need · source: libvirt · 3 domains · 3 hosts")
    assert heading.split() == ["DOMAIN", "USED%", "USED", "MEMORY", "HISTORY", "AGE", "VERDICT"]
    assert [line.rstrip() for line in body[:7]] == [
        "hv1: ok, 3 domains, read 0 s ago",
        "▸ full            90%   900.0 MiB  [██░···     ]         █      3 s  fresh",
        "  off             93%    15.0 GiB  [█████░     ]                3 s  polling-off",
        "  mute              -           -  [╌╌╌╌╌╌     ]                  -  unanswered",
        "qemu+ssh://root@a-long-name.example.org/sys…: unreachable, no answer within 10 s",
        "hv3: not read yet",
        "",
    ]
    assert body[-1].startswith(" q quit · ? help")


def test_wide_window_has_every_size() -> None:
    heading = lines(view(FULL), 200)[1].split()
    assert heading == [
        *("DOMAIN", "USED%", "USED", "CACHE", "FREE", "TOTAL", "BALLOON", "MAXIMUM"),
        *("MEMORY", "HISTORY", "PRESSURE", "INTERVAL", "AGE", "VERDICT"),
    ]


@pytest.mark.parametrize("width", range(20, 90))
def test_no_figure_without_its_age_and_verdict(width: int) -> None:
    heading = lines(view(FULL), width)[1].split()
    if {"USED%", "USED", "MEMORY"} & set(heading):
        assert {"AGE", "VERDICT"} <= set(heading)


def test_units() -> None:
    shown = view(FULL)
    press(shown, "u")
    assert str(FULL.usage.used_bytes) in line_of("full", shown, 90)
    press(shown, "u")
    assert "900.0 MiB" in line_of("full", shown, 90)


def test_bar() -> None:
    stats = MemoryStats(
        total_memory=6 * GIB, available_memory=4 * GIB, free_memory=GIB, disk_caches=2 * GIB
    )

    def bar(stats: MemoryStats, **sizes: int) -> str:
        known = {"current_bytes": 8 * GIB, "maximum_bytes": 10 * GIB} | sizes
        figures = Figures(stats=stats, last_update=1_700_000_000, **known)
        return line_of("g", view(guest("g", figures=figures)), 79)[35:47]

    assert bar(stats) == "[██▓▓░░··  ]"
    # Without "available", the used memory includes the cache.
    old = MemoryStats(total_memory=6 * GIB, free_memory=GIB, disk_caches=2 * GIB)
    assert bar(old) == "[█████░··  ]"
    assert bar(MemoryStats()) == "[╌╌╌╌╌╌╌╌  ]"
    # The balloon is in the total, and not in the bar.
    inside = MemoryStats(total_memory=9 * GIB, available_memory=2 * GIB, disk_caches=GIB)
    assert bar(inside, current_bytes=6 * GIB) == "[███▓░·    ]"
    # More than there is room for stays within the bar.
    assert bar(stats, current_bytes=4 * GIB, maximum_bytes=4 * GIB) == "[█████▓▓▓▓▓]"
    assert bar(stats, current_bytes=0, maximum_bytes=GIB) == "[          ]"


def test_old_figures_look_old_without_colours() -> None:
    shown = view(FULL)
    assert line_of("full", shown, now=NOW + 60).split()[-2:] == ["min", "fresh?"]
    rows = drawing.fitted(frame(shown, now=NOW + 60), 24)
    assert all("dim" in style for part, style in rows[3] if part.strip())
    assert not any("reverse" in style for _, style in rows[3])


def test_details_of_a_domain_are_complete() -> None:
    stats = MemoryStats.from_qemu(
        {"stat-total-memory": GIB, "stat-available-memory": GIB // 4, "stat-new-figure": 7}
    )
    row = guest(
        "held", figures=Figures(stats=stats, last_update=1_700_000_000), error=Busy("no", hint="do")
    )
    shown = view(row)
    press(shown, "down", "enter")
    text = "\n".join(lines(shown, 80, 60))

    for name, value in stats.as_dict().items():
        assert re.search(rf"\b{name} +{'-' if value is None else ''}", text)
    for fact in (
        *(
            "held on hv1\nbusy  ",
            "new_figure",
            "live 10 s, config 10 s, saved -, QEMU -",
        ),
        *("error       no", "what to do  do", "from libvirt, of 2023-11-14T22:13:20Z"),
        *("virtio balloon0 /machine/peripheral/balloon0", row.uuid, "768.0 MiB"),
        "used_ratio                  75%",
    ):
        assert fact in text
    # Anomalies are shown.
    odd = view(guest("odd", total=GIB, used=-GIB))
    press(odd, "down", "enter")
    assert Anomaly.AVAILABLE_ABOVE_TOTAL.text in "\n".join(lines(odd, 90, 60))
    # In a small window, keys reach everything.
    small = "\n".join(lines(shown, 40, 10))
    press(shown, "end")
    assert lines(shown, 40, 10)[1:-1] != small.splitlines()[1:-1]


def test_figures_stay_in_their_columns() -> None:
    shown = view(LYING)
    press(shown, "down", "enter", "u")
    rows = [line for line in lines(shown, 80, 60) if line.startswith(("free_mem", "total_mem"))]
    assert [line[38:40] for line in rows] == [" d", " u"]
    # Where only blanks are cut off, nothing is missing.
    assert "swap_in                       -" in lines(shown, 35, 60)


def test_diagnosis_has_its_age() -> None:
    shown = view(FULL)
    results = [host_diagnosis(FULL), host_diagnosis(error=DEAD)]
    go_on = threading.Event()

    def examine() -> HostDiagnosis:
        go_on.wait()
        return results.pop(0)

    shown.start_doctor = lambda _key: BackgroundCall(examine)
    press(shown, "down", "enter", "d")
    assert "doctor is running" in lines(shown)
    go_on.set()
    for line in ("doctor, 5 s ago", "doctor  no answer within 10 s"):
        shown.diagnoses[0, FULL.uuid].wait()
        assert line in lines(shown, now=FULL.read_at + 5)
        press(shown, "d")


def test_details_of_a_host_have_its_whole_error() -> None:
    shown = view(FULL)
    press(shown, "down", "down", "enter")
    text = "\n".join(lines(shown, 60, 30))
    assert "error         no answer within 10 s" in text
    assert "uri           qemu:///system" in text


def test_clock_of_a_host() -> None:
    shown = View(["hv1"], every=2)
    shown.update(0, replace(host([FULL]), clock=ClockOffset(-90, -90)), NOW)
    assert "hv1: ok, 1 domain, read 0 s ago, clock off by -90 s" in lines(shown)[2]
    press(shown, "home", "enter")
    assert "seems to be 90 s behind" in " ".join("".join(lines(shown, 200)).split())


def test_memory_of_a_host() -> None:
    shown = View(["hv1"], every=2)
    shown.update(0, replace(host([FULL]), memory=MEMORY), NOW)
    assert "read 0 s ago, guests have 24.0 GiB (37%, at most 50%)" in lines(shown)[2]
    assert lines(shown, 200)[2].rstrip().endswith("3 unknown, 30.0 GiB of 64.0 GiB available")


def test_domain_that_the_configuration_excludes() -> None:
    shown = view(replace(OFF, excluded=True))
    press(shown, "!")
    assert "0 of 1 domain" in lines(shown)[0]
    press(shown, "!", "home", "down", "enter")
    assert "excluded     by the configuration" in "\n".join(lines(shown, 80, 40))


def test_help_has_every_key_and_verdict() -> None:
    shown = view()
    press(shown, "?")
    text = "\n".join(lines(shown, 100, 80))
    for binding in BINDINGS:
        assert re.search(rf"^{re.escape(binding.label)}  +{re.escape(binding.what)}$", text, re.M)
    for verdict in Verdict:
        assert re.search(rf"^{verdict.value}  ", text, re.MULTILINE)


def test_draws_only_visible_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = view(*(guest(f"g{number:03}") for number in range(400)))
    drawn: list[str] = []
    line = drawing._line

    def draw(shown: Line, layout: drawing._Layout, frame: drawing.Frame) -> drawing.Parts:
        drawn.append(shown.key[1])
        return line(shown, layout, frame)

    monkeypatch.setattr(drawing, "_line", draw)
    press(shown, "end")
    lines(shown, 80, 24)
    assert len(drawn) == 21


def test_single_frame_is_whole_and_has_no_history() -> None:
    shown = view(*(guest(f"g{number:03}") for number in range(400)), every=None)
    rows = plain(drawing.whole(frame(shown)))
    assert len(rows) == 1 + 3 + 400
    assert "HISTORY" not in rows[0]


def test_escape_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    shown = view(guest("漢字 👨", used=GIB))
    name, share, *_ = drawing.painted(drawing.fitted(frame(shown), 24)[3])
    # What follows the name has its own column, however wide the terminal draws the name.
    assert name == (2, "漢字 👨")
    assert share == (17, "\x1b[1;31m100%\x1b[0m")

    monkeypatch.setenv("NO_COLOR", "1")
    share = drawing.painted(drawing.fitted(frame(shown), 24)[3])[1]
    assert share == (17, "\x1b[1m100%\x1b[0m")
    press(shown, "down")
    row = drawing.fitted(frame(shown), 24)[3]
    assert all(piece.startswith("\x1b[7m") for _, piece in drawing.painted(row))
    assert sum(cell_len(part) for part, style in row if style == "reverse") == 80
