"""Tables: whole and plain in a pipe, cut and coloured on a terminal."""

from __future__ import annotations

import io
import os
import re
from dataclasses import replace
from typing import TYPE_CHECKING, TextIO

import pytest

from tests.process import read_until, terminal
from tests.unit.builders import CHANGES, HELD, HOST, MEMORY, READ, UNREACHED, report
from virtballoon.model.memory import Anomaly, Figures
from virtballoon.model.report import DomainReport, Interval
from virtballoon.model.statistics import MemoryStats
from virtballoon.model.verdict import State
from virtballoon.render import columns, documents, text
from virtballoon.render.table import changes_table, groups_table, list_table, stats_blocks, totals

if TYPE_CHECKING:
    from collections.abc import Callable

ESCAPE = "\x1b"
CODES = re.compile(r"\x1b\[[0-9;]*m")
NOW = 1_700_000_000
LONG = "a-rather-long-name-" * 20
HOSTILE = "\x1b[31mred\x1b[0m [bold]x[/bold] :smile: \u202e\r\n\t"


@pytest.fixture(autouse=True)
def _terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("NO_COLOR", "COLUMNS", "LINES", "FORCE_COLOR", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)


def show(
    *rows: DomainReport,
    keys: tuple[str, ...] = columns.DEFAULT,
    exact: bool = False,
    with_host: bool = False,
) -> Callable[[TextIO], None]:
    """Printing a list."""
    shown = [columns.column(key) for key in keys]
    pairs = [(READ, row) for row in rows]
    return lambda stream: list_table(pairs, shown, exact=exact, with_host=with_host, stream=stream)


def stats(
    stream: TextIO, *rows: DomainReport, exact: bool = False, with_host: bool = False
) -> None:
    pairs = [(READ, row) for row in rows]
    stats_blocks(pairs, exact=exact, with_host=with_host, stream=stream)


def in_a_pipe(show: Callable[[TextIO], None]) -> list[str]:
    stream = io.StringIO()
    show(stream)
    assert stream.getvalue().endswith("\n")
    return stream.getvalue().split("\n")[:-1]


def on_a_terminal(show: Callable[[TextIO], None], width: int = 80) -> list[str]:
    ours, theirs = terminal(width)
    try:
        with os.fdopen(theirs, "w", encoding="utf-8") as stream:
            show(stream)
        text = read_until(ours)
    finally:
        os.close(ours)
    assert text.endswith("\r\n")
    return text.split("\r\n")[:-1]


def bare(lines: list[str]) -> list[str]:
    """Lines without their colours."""
    return [CODES.sub("", line) for line in lines]


def test_a_list_in_a_pipe() -> None:
    off = report(
        name="off",
        id=None,
        state=State.SHUTOFF,
        balloon=None,
        interval=Interval(config=0),
        figures=Figures(),
    )

    assert in_a_pipe(show(report(), off)) == [
        "DOMAIN  INTERVAL  AGE      USED  USED%     TOTAL    BALLOON  VERDICT",
        "web1        10 s  3 s  20.6 MiB    22%  92.7 MiB  128.0 MiB  fresh",
        "off            -    -         -      -         -          -  shutoff",
    ]


def test_a_pipe_never_cuts() -> None:
    lines = in_a_pipe(show(report(name=LONG), keys=columns.WIDE, with_host=True))

    assert lines[1].startswith(LONG)
    assert lines[1].endswith(HOST)
    assert len(lines) == 2


@pytest.mark.parametrize("printed", ["list", "stats", "changes"])
def test_a_pipe_has_no_codes_and_no_trailing_spaces(printed: str) -> None:
    shows: dict[str, Callable[[TextIO], None]] = {
        "list": show(report(), HELD, keys=columns.WIDE),
        "stats": lambda stream: stats(stream, report(), HELD),
        "changes": lambda stream: changes_table(
            [CHANGES], with_qemu=True, with_host=False, stream=stream
        ),
    }
    lines = in_a_pipe(shows[printed])

    assert not any(ESCAPE in line for line in lines)
    assert lines == [line.rstrip() for line in lines]
    assert len(lines) > 2


def test_a_list_of_nothing_is_its_heading() -> None:
    assert in_a_pipe(show()) == ["DOMAIN  INTERVAL  AGE  USED  USED%  TOTAL  BALLOON  VERDICT"]


def test_exact_sizes() -> None:
    keys = ("name", "used_bytes", "stats.swap_in", "stats.major_faults", "stats.new_figure")

    assert in_a_pipe(show(report(), keys=keys, exact=True)) == [
        "DOMAIN      USED  SWAP IN  MAJOR FAULTS  NEW FIGURE",
        "web1    21573632        0             -           7",
    ]
    assert in_a_pipe(show(report(), keys=keys))[1].split("  ")[-1].strip() == "7"


@pytest.mark.parametrize("rest", [4096, 2**20])
def test_only_all_of_it_is_100_percent(rest: int) -> None:
    # A host has guests with so much memory that one page of it is nothing in four digits.
    total = 2**44
    stats = MemoryStats(total_memory=total, available_memory=rest)
    full = report(figures=Figures(stats=stats, last_update=1_700_000_000))

    assert full.usage.ratio is not None
    assert full.usage.ratio < 1
    assert columns.column("used_ratio").cell(full, exact=False) == "99%"


def test_a_column_by_any_of_its_names() -> None:
    for word, key in {
        "name": "name",
        "used": "used_bytes",
        "USED-BYTES": "used_bytes",
        "age": "age_seconds",
        " rss ": "rss_bytes",
        "swap_in": "stats.swap_in",
        "stats.swap-in": "stats.swap_in",
        "total_memory": "stats.total_memory",
        "interval": "interval.in_force",
        "live": "interval.live",
        "interval.qemu": "interval.qemu",
        "qom_path": "balloon.qom_path",
        "stats.new_figure": "stats.new_figure",
        "message": "error.message",
    }.items():
        found = columns.find(word)
        assert found is not None, word
        assert found.key == key
    for word in ("", " ", "nothing", "stats", "balloon", "name,uuid", "*"):
        assert columns.find(word) is None, word


def test_every_column_has_a_title_and_is_found_by_its_key() -> None:
    for key in (*documents.domain_columns(), *columns.DEFAULT, *columns.WIDE):
        column = columns.find(key)
        assert column is not None
        assert column.key == key
        assert column.title == column.title.upper() != ""


def test_a_hostile_name_does_nothing() -> None:
    row = report(name=HOSTILE)
    shown = r"\x1b[31mred\x1b[0m [bold]x[/bold] :smile: \u202e\r\n\t"

    assert in_a_pipe(show(row, keys=("name", "verdict")))[1] == f"{shown}  fresh"
    blocks = in_a_pipe(lambda stream: stats(stream, row))
    assert blocks[0].startswith(f"{shown}: fresh, ")
    terminal = on_a_terminal(show(row, keys=("name", "verdict")))[1]
    assert shown in bare([terminal])[0]
    assert "\x1b[31m" not in terminal


def test_wide_characters_keep_the_columns_straight() -> None:
    lines = in_a_pipe(show(report(name="漢字🎈"), report(name="web123"), keys=("name", "verdict")))

    assert lines == ["DOMAIN  VERDICT", "漢字🎈  fresh", "web123  fresh"]


def test_hosts_stand_behind_where_there_are_several() -> None:
    assert in_a_pipe(show(report(), keys=("name", "verdict"), with_host=True)) == [
        "DOMAIN  VERDICT  HOST",
        f"web1    fresh    {HOST}",
    ]


@pytest.mark.parametrize("width", [30, 60, 100, 200])
def test_a_terminal_cuts_to_its_width(width: int) -> None:
    lines = bare(on_a_terminal(show(report(name=LONG), HELD), width))

    assert len(lines) == 3
    assert max(map(len, lines)) <= width
    assert "…" in lines[1]
    if width >= 80:
        # The name is cut first, so that the figures stay.
        assert lines[1].endswith("fresh")
        assert max(map(len, lines)) > width - 5


def test_a_wide_terminal_cuts_nothing() -> None:
    show_it = show(report(name=LONG), HELD)

    assert bare(on_a_terminal(show_it, 500)) == in_a_pipe(show_it)


def test_a_terminal_has_colours() -> None:
    lines = on_a_terminal(show(report(), HELD))

    assert f"{ESCAPE}[1m" in lines[0]
    assert f"{ESCAPE}[32mfresh" in lines[1]
    assert f"{ESCAPE}[31mbusy" in lines[2]


@pytest.mark.parametrize("value", ["1", "0", "yes"])
def test_no_color_holds(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("NO_COLOR", value)
    show_it = show(report(), HELD)

    assert ESCAPE not in "".join(on_a_terminal(show_it))
    assert on_a_terminal(show_it) == in_a_pipe(show_it)


def test_empty_no_color_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "")

    assert ESCAPE in "".join(on_a_terminal(show(report())))


def test_a_dumb_terminal_has_no_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")

    assert ESCAPE not in "".join(on_a_terminal(show(report())))


def test_forced_colours_do_not_reach_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")

    assert ESCAPE not in "".join(in_a_pipe(show(report())))


def test_every_statistic_has_a_line() -> None:
    lines = in_a_pipe(lambda stream: stats(stream, report(), HELD, exact=True))

    assert lines[0] == "web1: fresh, from libvirt, interval 10 s, 3 s old"
    facts = dict(line.split() for line in lines[1 : lines.index("")])
    assert facts["swap_in"] == "0"
    assert facts["major_faults"] == "-"
    assert facts["total_memory"] == "97222656"
    assert facts["new_figure"] == "7"
    assert facts["used"] == "21573632"
    assert facts["rss"] == "218316800"
    assert lines[lines.index("") + 1].startswith("web1: busy, ")


def test_anomalies() -> None:
    absurd = report(
        figures=Figures(stats=MemoryStats(total_memory=0, free_memory=1), last_update=NOW)
    )
    lines = in_a_pipe(lambda stream: stats(stream, absurd))

    assert lines[-2:] == [
        f"  total-zero: {Anomaly.TOTAL_ZERO.text}",
        f"  free-above-total: {Anomaly.FREE_ABOVE_TOTAL.text}",
    ]
    assert in_a_pipe(show(absurd, report(), keys=("name", "anomalies"))) == [
        "DOMAIN  ANOMALIES",
        "web1    total-zero, free-above-total",
        "web1    -",
    ]


def test_statistics_name_the_host_where_there_are_several() -> None:
    lines = in_a_pipe(lambda stream: stats(stream, report(), with_host=True))

    assert lines[0].endswith(HOST)


def test_changes() -> None:
    assert in_a_pipe(
        lambda stream: changes_table([CHANGES], with_qemu=False, with_host=False, stream=stream)
    ) == [
        "DOMAIN  OUTCOME  LIVE         CONFIG",
        "web1    changed  off -> 10 s  -",
        "bare    failed   off          off",
    ]


def test_changes_on_several_hosts() -> None:
    lines = in_a_pipe(
        lambda stream: changes_table(
            [CHANGES, CHANGES], with_qemu=True, with_host=True, stream=stream
        )
    )

    assert lines[0].split() == ["DOMAIN", "OUTCOME", "LIVE", "CONFIG", "QEMU", "HOST"]
    assert [line.endswith(HOST) for line in lines[1:]] == [True] * 4


def test_columns_of_labels() -> None:
    title = columns.find("title")
    assert title is not None
    assert (title.key, title.title, title.is_number) == ("labels.title", "TITLE", False)
    name = columns.find("name")
    assert name is not None
    assert name.key == "name"
    shop = report(labels={"title": "shop\u202e"})
    assert title.cell(shop, exact=False) == "shop\\u202e"
    assert title.cell(report(), exact=False) == "-"


def titled(*rows: DomainReport, wide: bool = False) -> Callable[[TextIO], None]:
    pairs = [(READ, row) for row in rows]
    shown = columns.usual(rows, wide=wide)
    return lambda stream: list_table(pairs, shown, exact=False, with_host=False, stream=stream)


NOVA = report(name="instance-0000000e", labels={"name": "shop-web-1", "project": "acme"})


def test_list_with_titles() -> None:
    rows = (NOVA, report(), report(name="db", labels={"title": "Shop\n", "name": "x"}))
    assert in_a_pipe(titled(*rows)) == [
        "DOMAIN             TITLE       INTERVAL  AGE      USED  USED%     TOTAL    BALLOON  "
        "VERDICT",
        "instance-0000000e  shop-web-1      10 s  3 s  20.6 MiB    22%  92.7 MiB  128.0 MiB  fresh",
        "web1               -               10 s  3 s  20.6 MiB    22%  92.7 MiB  128.0 MiB  fresh",
        "db                 Shop\\n          10 s  3 s  20.6 MiB    22%  92.7 MiB  128.0 MiB  "
        "fresh",
    ]
    assert bare(on_a_terminal(titled(*rows), width=90)) == [
        "DOMAIN             TITLE       INTERVAL  AGE      USED  USED%    BALLOON  VERDICT",
        "instance-0000000e  shop-web-1      10 s  3 s  20.6 MiB    22%  128.0 MiB  fresh",
        "web1               -               10 s  3 s  20.6 MiB    22%  128.0 MiB  fresh",
        "db                 Shop\\n          10 s  3 s  20.6 MiB    22%  128.0 MiB  fresh",
    ]


def test_list_without_titles_has_no_such_column() -> None:
    labelled = report(labels={"project": "acme"})
    assert "TITLE" not in in_a_pipe(titled(labelled))[0]
    assert in_a_pipe(titled(labelled, NOVA, wide=True))[0].split()[-2:] == ["NAME", "PROJECT"]


@pytest.mark.parametrize("title", ["x", "web shop", "a-rather-long-title " * 10, "🎈" * 200])
def test_list_with_titles_fits_80_columns(title: str) -> None:
    long = report(name="instance-0000000e", labels={"title": title})
    lines = bare(on_a_terminal(titled(long, report())))
    assert all(text.width(line) <= 80 for line in lines)
    assert lines[0].endswith("VERDICT")
    assert lines[1].startswith("instance-0000000e  " + title[:4].rstrip())
    assert lines[1].endswith("fresh")


def test_narrow_terminal_with_titles() -> None:
    long = report(name=LONG, labels={"title": LONG})
    lines = bare(on_a_terminal(titled(long), width=20))
    assert all(text.width(line) <= 20 for line in lines)


def test_groups() -> None:
    rows = [report(labels={"project": "a\u202ecme"}), report(), HELD]
    project = columns.column("labels.project")
    stream = io.StringIO()
    records = documents.group_records(rows, project.value)
    groups_table(records, project, exact=False, with_header=True, stream=stream)
    assert stream.getvalue().splitlines() == [
        "PROJECT     DOMAINS    CURRENT                   USED  UNKNOWN",
        "a\\u202ecme        1  128.0 MiB               20.6 MiB        0",
        "-                 2  256.0 MiB  20.6 MiB to 148.6 MiB        1",
    ]


def test_totals_of_hosts_that_were_read_whole() -> None:
    known = {"used_min_bytes": 1, "used_max_bytes": 1, "unknown_domains": 0}
    hosts = [
        replace(READ, hostname="hv\u202e1", memory=MEMORY),
        UNREACHED,
        replace(READ, memory=None),
        # Some domains only.
        replace(READ, memory=replace(MEMORY, unknown_domains=None, current_bytes=None)),
        replace(READ, memory=replace(MEMORY, available_bytes=None, **known)),
        replace(READ, memory=replace(MEMORY, current_bytes=None, used_max_bytes=None)),
    ]
    stream = io.StringIO()
    totals(hosts, stream=stream)
    left = "30.0 GiB of 64.0 GiB available"
    have = "guests have 24.0 GiB (37%, at most 50%) and use"
    assert stream.getvalue().splitlines() == [
        f"total on hv\\u202e1: {have} 10.0 GiB to 14.0 GiB, 3 unknown, {left}",
        f"total on hv1: {have} 1 B, - of 64.0 GiB available",
        f"total on hv1: 3 unknown, {left}",
    ]
