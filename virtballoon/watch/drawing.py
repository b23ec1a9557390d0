"""The live view as lines of text. Pure: from a view, a size and the time."""

from __future__ import annotations

import os
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from virtballoon.model.report import DomainReport
from virtballoon.model.source import Source
from virtballoon.model.verdict import Verdict
from virtballoon.render import text
from virtballoon.render.columns import column, figures, is_size
from virtballoon.render.diagnosis import diagnosis_facts
from virtballoon.render.documents import timestamp
from virtballoon.render.table import STYLES
from virtballoon.watch.view import (
    BINDINGS,
    DomainLine,
    HostLine,
    Line,
    Screen,
    Units,
    View,
    age_seconds,
    is_outdated,
)

#: A line to show: its pieces, each with the column where it begins, so that a name that the
#: terminal draws wider or narrower than expected does not move what follows.
Row: TypeAlias = tuple[tuple[int, Text], ...]

#: The width of a frame that does not go to a terminal.
USUAL_WIDTH: Final = 80

#: The meaning of "fresh?".
_OUTDATED: Final = "fresh when read; the figures have become too old since"

_GAP: Final = 2
#: The colour of a used share, by its lower limit.
_LEVELS: Final = ((0.9, "bold red"), (0.75, "yellow"), (0.0, "green"))


@dataclass(frozen=True, slots=True)
class Glyphs:
    """What bars, histories and marks are drawn with.

    :ivar encoding: the terminal's encoding
    :ivar levels: the marks of a history, from 0 to 100 %
    """

    encoding: str
    used: str
    cache: str
    free: str
    own: str
    unknown: str
    levels: str
    gap: str
    selected: str
    ellipsis: str

    @classmethod
    def of(cls, encoding: str) -> Glyphs:
        """The characters that an encoding has, else ASCII."""
        blocks = cls(encoding, "█", "▓", "░", "·", "╌", "▁▂▃▄▅▆▇█", "·", "▸", "…")
        try:
            "".join((blocks.used, blocks.levels, blocks.unknown, blocks.selected)).encode(encoding)
        except (UnicodeEncodeError, LookupError):
            return cls(encoding, "#", "=", ".", ":", "?", "_.-:=+*#", " ", ">", "~")
        return blocks

    def safe(self, foreign: str) -> str:
        """Text from outside, made harmless and in characters that the terminal has."""
        shown = text.printable(foreign)
        return shown.encode(self.encoding, "backslashreplace").decode(self.encoding)


@dataclass(frozen=True, slots=True)
class Frame:
    """What is the same for every line of one frame.

    :ivar view: the view
    :ivar now: the time, epoch seconds
    :ivar width: the number of columns
    :ivar glyphs: what to draw with
    :ivar every: seconds from one reading of a host to the next; None if there is only one
    :ivar source: where the figures come from
    :ivar notice: a message to show
    """

    view: View
    now: float
    width: int
    glyphs: Glyphs
    every: float | None
    source: Source
    notice: str = ""


def whole(frame: Frame) -> list[Row]:
    """The whole list, for a frame that cannot be scrolled."""
    layout = _Layout.of(frame)
    return [_heading(layout, frame), *(_line(line, layout, frame) for line in frame.view.lines)]


def fitted(frame: Frame, height: int) -> list[Row]:
    """The frame for a window of this height, with as many lines."""
    room = max(0, height - 2)
    view = frame.view
    if view.screen is Screen.LIST:
        layout = _Layout.of(frame)
        body = [_heading(layout, frame)] if room > 1 else []
        shown = view.window(room - len(body)) if room else ()
        body += [_line(line, layout, frame) for line in shown]
    else:
        blocks = _help(frame) if view.screen is Screen.HELP else _details(frame)
        top = view.scrolled(len(blocks), room)
        body = [_row(_cut(line, frame.width, frame.glyphs)) for line in blocks[top : top + room]]
    body += [()] * (room - len(body))
    return [_row(_title(frame)), *body, _row(_foot(frame))][:height]


def plain(row: Row) -> Text:
    """A line as a piece of text."""
    line = Text()
    for start, piece in row:
        line.append(" " * (start - line.cell_len))
        line.append_text(piece)
    line.rstrip()
    return line


class Painter:
    """Turns lines into escape sequences, in the colours that the terminal has. NO_COLOR takes out
    the colours; bold, dim and reversed text stay."""

    def __init__(self) -> None:
        self._console = Console(
            force_terminal=True,
            no_color=bool(os.environ.get("NO_COLOR")),
            markup=False,
            emoji=False,
            highlight=False,
        )

    def painted(self, line: Text) -> str:
        """A line, or a piece of one."""
        with self._console.capture() as capture:
            self._console.print(line, end="", soft_wrap=True)
        return capture.get()


def _row(line: Text) -> Row:
    return ((0, line),)


def _cut(line: Text, width: int, glyphs: Glyphs) -> Text:
    """The line, cut to this width."""
    if line.cell_len <= width:
        return line
    line = line.copy()
    line.truncate(max(0, width - len(glyphs.ellipsis)), overflow="crop")
    line.append(glyphs.ellipsis[:width])
    return line


def _aligned(cell: Text, width: int, glyphs: Glyphs, *, flush_right: bool = False) -> Text:
    """The cell, cut or filled to this width."""
    cell = _cut(cell, width, glyphs).copy()
    cell.align("right" if flush_right else "left", width)
    return cell


# The title and the foot.


def _bar_of_words(left: Sequence[str], right: str, frame: Frame) -> Text:
    """A line across the window, with as many of the words as fit."""
    width = frame.width
    line = ""
    for word in left:
        longer = f"{line}{' · ' if line else ' '}{word}"
        if cell_len(longer) + cell_len(right) + _GAP > width:
            break
        line = longer
    if not line:
        line, right = f" {left[0]}", ""
    padding = " " * (width - cell_len(line) - cell_len(right) - 1)
    separator = " · " if frame.glyphs.ellipsis == "…" else " | "
    shown = f"{line}{padding}{right} ".replace(" · ", separator)
    return _cut(Text(shown, style="reverse"), width, frame.glyphs)


def _title(frame: Frame) -> Text:
    view = frame.view
    facts = ["virtballoon"]
    if view.is_paused:
        facts.append("PAUSED")
    if view.filter and not view.is_typing:
        facts.append(f"filter: {frame.glyphs.safe(view.filter)}")
    if view.only_unwell:
        facts.append("not well")
    facts.append(f"by {view.order.value}")
    facts.append(f"source: {frame.source.value}")
    of_all = f"{view.shown} of " if view.shown != view.domains else ""
    facts.append(f"{of_all}{text.counted(view.domains, 'domain')}")
    if view.hosts > 1:
        facts.append(text.counted(view.hosts, "host"))
    if frame.every is not None:
        facts.append(f"every {frame.every:g} s")
    return _bar_of_words(facts, time.strftime("%H:%M:%S", time.localtime(frame.now)), frame)


def _foot(frame: Frame) -> Text:
    view = frame.view
    if view.is_typing:
        line = Text(f" filter: {frame.glyphs.safe(view.filter)}")
        line.append(" ", style="reverse").append("  Enter: keep it, Esc: end it", style="dim")
        return _cut(line, frame.width, frame.glyphs)
    hints = ["q back", "u units", "? help", "Space pause"]
    if view.screen is Screen.LIST:
        hints = ["q quit", "? help", "s sort", "/ filter", "u units", "Space pause"]
        hints += ["! not well", "Enter details"]
    elif view.screen is Screen.DETAILS:
        hints += ["d doctor", "Left, Right next"]
    if frame.notice:
        hints.insert(0, frame.glyphs.safe(frame.notice))
    return _bar_of_words(hints, "", frame)


# The list.


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of the list.

    :ivar title: its heading
    :ivar least: its least width
    :ivar cell: what it shows of a domain in this width
    :ivar is_number: whether it is flush right
    """

    title: str
    least: int
    cell: Callable[[DomainLine, int, Frame], Text]
    is_number: bool = False


#: No figure is shown without these.
_REQUIRED: Final = frozenset({"VERDICT", "AGE"})
#: Which columns come first if there is no room for all; the name always does.
_CLAIMS: Final = (
    *("VERDICT", "AGE", "USED%", "MEMORY", "USED", "HISTORY"),
    *("TOTAL", "INTERVAL", "BALLOON", "MAXIMUM", "CACHE", "FREE"),
)
#: Which ones grow into the room that is left, one after another, and to which width.
_DOMAIN: Final = "DOMAIN"
_GROWTH: Final = (
    *((_DOMAIN, 24), ("MEMORY", 24), ("HISTORY", 16)),
    *((_DOMAIN, 40), ("MEMORY", 42), ("HISTORY", 34)),
)
_NARROWEST_NAME: Final = 12


def _columns(units: Units) -> tuple[_Column, ...]:
    """Every column but the name, in their order."""
    width = {Units.HUMAN: 10, Units.BYTES: 14, Units.PERCENT: 8}[units]

    def size(title: str, key: str) -> _Column:
        def cell(line: DomainLine, _width: int, _frame: Frame) -> Text:
            return Text(_amount(line.report, key, units))

        return _Column(title, width, cell, is_number=True)

    return (
        _Column("USED%", 5, _used_share, is_number=True),
        size("USED", "used_bytes"),
        size("CACHE", "stats.disk_caches"),
        size("FREE", "stats.free_memory"),
        size("TOTAL", "stats.total_memory"),
        size("BALLOON", "current_bytes"),
        size("MAXIMUM", "maximum_bytes"),
        _Column("MEMORY", 12, _memory),
        _Column("HISTORY", 8, _history, is_number=True),
        _Column("INTERVAL", 8, _interval, is_number=True),
        _Column("AGE", 7, _age, is_number=True),
        _Column("VERDICT", 11, _verdict),
    )


@dataclass(frozen=True, slots=True)
class _Layout:
    """The columns that there is room for, each with its width.

    :ivar indent: the width of the mark of a selected line
    :ivar name: the width of the names
    """

    indent: int
    name: int
    columns: tuple[tuple[_Column, int], ...]

    @classmethod
    def of(cls, frame: Frame) -> _Layout:
        lines = frame.view.lines
        names = (frame.glyphs.safe(x.report.name) for x in lines if isinstance(x, DomainLine))
        longest = max(map(cell_len, names), default=0)
        known = {kind.title: kind for kind in _columns(frame.view.units)}
        if frame.view.units is Units.PERCENT:
            # They would repeat USED%, or be 100 %.
            del known["USED"], known["MAXIMUM"]
        if frame.every is None:
            # A single reading has no history.
            del known["HISTORY"]
        indent = len(frame.glyphs.selected) + 1
        widths = {_DOMAIN: _NARROWEST_NAME}
        room = frame.width - indent - _NARROWEST_NAME
        for title in _CLAIMS:
            if title not in _REQUIRED and not widths.keys() >= _REQUIRED:
                break
            if title in known and known[title].least + _GAP <= room:
                widths[title] = known[title].least
                room -= known[title].least + _GAP
        for title, most in _GROWTH:
            if title in widths:
                wanted = min(most, longest) if title == _DOMAIN else most
                grown = max(0, min(room, wanted - widths[title]))
                widths[title] += grown
                room -= grown
        columns = [(kind, widths[title]) for title, kind in known.items() if title in widths]
        return cls(indent, widths[_DOMAIN], tuple(columns))


def _heading(layout: _Layout, frame: Frame) -> Row:
    shares = {"CACHE", "FREE", "TOTAL", "BALLOON"} if frame.view.units is Units.PERCENT else set()
    titles = [f"{c.title}%" if c.title in shares else c.title for c, _ in layout.columns]
    return _laid_out(Text(_DOMAIN), [Text(title) for title in titles], layout, frame, style="bold")


def _laid_out(
    name: Text, cells: Sequence[Text], layout: _Layout, frame: Frame, *, style: str, mark: str = ""
) -> Row:
    """A line of the list: the name, then the cells, whatever the name's width."""
    first = Text(mark.ljust(layout.indent))
    first.append_text(_aligned(name, layout.name, frame.glyphs))
    rest = Text()
    for (kind, width), cell in zip(layout.columns, cells, strict=True):
        rest.append(" " * _GAP)
        rest.append_text(_aligned(cell, width, frame.glyphs, flush_right=kind.is_number))
    if mark:
        # On a reversed line, colours would be background colours.
        first, rest = Text(first.plain), Text(rest.plain)
    first.stylize(style)
    rest.stylize(style)
    start = layout.indent + layout.name
    return (0, _cut(first, frame.width, frame.glyphs)), *([(start, rest)] if cells else [])


def _line(line: Line, layout: _Layout, frame: Frame) -> Row:
    is_selected = line.key == frame.view.selected
    mark = frame.glyphs.selected if is_selected else ""
    style = "reverse" if is_selected else ""
    if isinstance(line, HostLine):
        shown = Text(mark.ljust(layout.indent) if mark else "")
        shown.append_text(_host(line, frame, frame.width - len(shown)))
        shown = _cut(Text(shown.plain) if mark else shown, frame.width, frame.glyphs)
        shown.stylize(style)
        return _row(shown)
    cells = [kind.cell(line, width, frame) for kind, width in layout.columns]
    if not _is_fresh(line.report, frame):
        style = f"{style} dim".strip()
    name = Text(frame.glyphs.safe(line.report.name))
    return _laid_out(name, cells, layout, frame, style=style, mark=mark)


def _host(line: HostLine, frame: Frame, width: int) -> Text:
    """What a host's line says: its status, and the error if there is one."""
    report = line.report
    rest = Text(": ")
    if report is None:
        rest.append("not read yet", "dim")
    elif not line.is_complete:
        rest.append(f"still reading, {text.counted(len(report.domains), 'domain')} so far", "dim")
    else:
        rest.append(report.status.value, STYLES.get(report.status.value))
        if report.error is not None:
            hint = f" ({report.error.hint})" if report.error.hint else ""
            rest.append(f", {frame.glyphs.safe(report.error.message + hint)}")
        else:
            read = text.duration(max(0.0, frame.now - line.read_at))
            domains = text.counted(len(report.domains), "domain")
            rest.append(f", {domains}, read {read} ago", "dim")
            if report.clock is not None and report.clock_problem is not None:
                rest.append(f", clock off by {report.clock.seconds:+.0f} s", "yellow")
    # A long URI leaves room for what follows.
    name = Text().append(frame.glyphs.safe(line.label), "bold")
    name = _cut(name, max(width * 2 // 5, width - rest.cell_len), frame.glyphs)
    return _cut(name.append_text(rest), width, frame.glyphs)


def _is_fresh(row: DomainReport, frame: Frame) -> bool:
    return row.verdict is Verdict.FRESH and not is_outdated(row, frame.now)


def _level(row: DomainReport, frame: Frame) -> str:
    """The colour of a used share; none if the figures are not fresh."""
    ratio = row.usage.ratio
    if ratio is None or not _is_fresh(row, frame):
        return ""
    return next((style for least, style in _LEVELS if ratio >= least), "")


def _used_share(line: DomainLine, _width: int, frame: Frame) -> Text:
    return Text().append(text.percent(line.report.usage.ratio), _level(line.report, frame))


def _amount(row: DomainReport, key: str, units: Units) -> str:
    """A size; in percent, of the guest's total, and the balloon's of the maximum."""
    if units is not Units.PERCENT:
        return column(key).cell(row, exact=units is Units.BYTES)
    of_maximum = key in {"stats.total_memory", "current_bytes", "maximum_bytes"}
    total = row.usage.total_bytes or row.stats.total_memory
    whole = row.figures.maximum_bytes if of_maximum else total
    part = column(key).value(row)
    return text.percent(part / whole if part is not None and whole else None)


def _age(line: DomainLine, _width: int, frame: Frame) -> Text:
    return Text(text.duration(age_seconds(line.report, frame.now), units=1))


def _interval(line: DomainLine, _width: int, _frame: Frame) -> Text:
    row = line.report
    return Text(text.seconds(row.interval.in_force if row.balloon is not None else None))


def _verdict(line: DomainLine, _width: int, frame: Frame) -> Text:
    word = line.report.verdict.value
    if is_outdated(line.report, frame.now):
        return Text().append(f"{word}?", "yellow")
    return Text().append(word, STYLES.get(word))


def _memory(line: DomainLine, width: int, frame: Frame) -> Text:
    """A bar as long as the maximum, filled up to what the balloon leaves the guest, and that
    divided by its use."""
    row = line.report
    current = row.figures.current_bytes
    full = max(row.figures.maximum_bytes or 0, current or 0)
    if not full or current is None:
        return Text(text.ABSENT)
    cells = width - 2
    bar = Text("[")
    at = 0
    for upto, glyph, style in _parts(row, current, frame):
        end = max(at, round(min(upto, current) / full * cells))
        bar.append(glyph * (end - at), style)
        at = end
    return bar.append(" " * (cells - at)).append("]")


def _parts(row: DomainReport, current: int, frame: Frame) -> Iterator[tuple[int, str, str]]:
    """The parts of a bar: where each ends, in bytes, and how it is drawn."""
    glyphs = frame.glyphs
    total, used = row.usage.total_bytes, row.usage.used_bytes
    if used is None or total is None:
        yield current, glyphs.unknown, ""
        return
    yield used, glyphs.used, _level(row, frame)
    # Without "available", the used memory includes the cache.
    if row.usage.formula is not None and row.usage.formula.leaves_out_caches:
        yield used + min(row.stats.disk_caches or 0, total - used), glyphs.cache, "blue"
    yield total, glyphs.free, ""
    yield current, glyphs.own, ""


def _history(line: DomainLine, width: int, frame: Frame) -> Text:
    marks = frame.view.history.of(line.key)[-width:]
    return Text(_drawn(marks, frame.glyphs).rjust(width))


def _drawn(marks: Sequence[float | None], glyphs: Glyphs) -> str:
    levels = glyphs.levels
    return "".join(
        glyphs.gap if mark is None else levels[min(int(mark * len(levels)), len(levels) - 1)]
        for mark in marks
    )


# Details.


def _details(frame: Frame) -> list[Text]:
    line = frame.view.line(frame.view.opened)
    if line is None:
        return [Text(), Text("This domain does not exist any more, or its host does not answer.")]
    return (
        _host_details(line, frame) if isinstance(line, HostLine) else _domain_details(line, frame)
    )


def _host_details(line: HostLine, frame: Frame) -> list[Text]:
    report = line.report
    lines = [_host(line, frame, frame.width), Text()]
    if report is None:
        return lines
    facts = [
        ("uri", report.uri),
        ("hostname", report.hostname),
        ("status", report.status.value),
        ("reading took", f"{report.elapsed_seconds:.2f} s"),
        ("read", f"{text.duration(max(0.0, frame.now - line.read_at))} ago"),
        ("domains", str(len(report.domains))),
        ("clock", report.clock_problem),
        ("error", report.error.message if report.error is not None else None),
        ("what to do", report.error.hint if report.error is not None else None),
    ]
    return lines + _facts(facts, frame)


def _domain_details(line: DomainLine, frame: Frame) -> list[Text]:
    sections = (
        _about(line, frame),
        _doctor(line, frame),
        _use(line, frame),
        _figures(line, frame),
    )
    return [shown for section in sections if section for shown in (*section, Text())]


def _doctor(line: DomainLine, frame: Frame) -> list[Text]:
    """The doctor's diagnosis, if there is one."""
    if line.key in frame.view.to_diagnose:
        return [Text("doctor is running", "dim")]
    if line.key not in frame.view.diagnoses:
        return []
    found, at = frame.view.diagnoses[line.key]
    heading = f"doctor, {text.duration(max(0.0, frame.now - at))} ago"
    facts = [("error", found)] if isinstance(found, str) else diagnosis_facts(found)
    return [Text(heading, "bold"), *_facts(list(facts), frame)]


def _about(line: DomainLine, frame: Frame) -> list[Text]:
    """How reliable the figures are, where they come from, and whose they are."""
    row, glyphs = line.report, frame.glyphs
    title = Text().append(glyphs.safe(row.name), "bold").append(f" on {glyphs.safe(line.host)}")
    meaning = _OUTDATED if is_outdated(row, frame.now) else row.verdict.explanation
    age = f"{text.duration(age_seconds(row, frame.now))}, from {text.source(row.source)}"
    error, balloon, interval = row.error, row.balloon, row.interval
    device = [balloon.model, balloon.alias, balloon.qom_path] if balloon is not None else []
    asked = [("live", interval.live), ("config", interval.config), ("saved", interval.saved)]
    asked.append(("QEMU", interval.qemu))
    facts = [
        (_verdict(line, 0, frame).plain, meaning),
        ("error", error.message if error is not None else None),
        ("what to do", error.hint if error is not None else None),
        *((anomaly.value, anomaly.text) for anomaly in row.anomalies),
        ("age", f"{age}, of {timestamp(row.last_update) or text.ABSENT}"),
        ("interval", ", ".join(f"{who} {text.seconds(value)}" for who, value in asked)),
        ("balloon", " ".join(filter(None, device)) or "none"),
        ("state", f"{row.state.value}, id {text.ABSENT if row.id is None else row.id}, {row.uuid}"),
    ]
    return [title, *_facts(facts, frame)]


def _use(line: DomainLine, frame: Frame) -> list[Text]:
    """The bar and the history, longer than in the list."""
    room = frame.width - 9
    past = frame.view.history.of(line.key)[-max(1, room) :]
    return [
        Text("memory   ").append_text(_memory(line, min(62, room), frame)),
        Text(f"history  {_drawn(past, frame.glyphs)}"),
    ]


def _facts(facts: Sequence[tuple[str, str | None]], frame: Frame) -> list[Text]:
    """One or more lines for each fact that is known, wrapped after its name."""
    known = [(name, value) for name, value in facts if value is not None]
    indent = max((len(name) for name, _ in known), default=0) + _GAP
    lines = []
    for name, value in known:
        width = max(frame.width - indent, 16)
        for index, part in enumerate(textwrap.wrap(frame.glyphs.safe(value), width) or [""]):
            head = Text(name if not index else "", "dim")
            head.pad_right(indent - head.cell_len)
            lines.append(Text().append_text(head).append(part))
    return lines


def _figures(line: DomainLine, frame: Frame) -> list[Text]:
    """All figures, in as many columns as there is room for."""
    row, units = line.report, frame.view.units
    cells = []
    for key in figures(row):
        name = key.removeprefix("stats.").removesuffix("_bytes")
        value = _amount(row, key, units if is_size(key) else Units.HUMAN)
        cells.append(
            Text().append(frame.glyphs.safe(name).ljust(17), "dim").append(value.rjust(14))
        )
    per_line = max(1, min(3, frame.width // 39))
    height = -(-len(cells) // per_line)
    lines = []
    for at in range(height):
        shown = Text()
        for cell in cells[at::height]:
            shown.append_text(_aligned(cell, 39, frame.glyphs))
        shown.rstrip()
        lines.append(shown)
    return lines


# The help.


def _help(frame: Frame) -> list[Text]:
    glyphs = frame.glyphs
    parts = (
        *((glyphs.used, "used"), (glyphs.cache, "cache"), (glyphs.free, "free")),
        *((glyphs.own, "its kernel"), (glyphs.unknown, "unknown")),
    )
    legend = ", ".join(f"{glyph} {what}" for glyph, what in parts)
    none, everything = glyphs.levels[0], glyphs.levels[-1]
    return [
        *_facts([(binding.label, binding.what) for binding in BINDINGS], frame),
        Text(),
        *_facts(
            [
                ("MEMORY", f"{legend}; blank: taken by the balloon from the maximum"),
                (
                    "HISTORY",
                    f"the used share at the guest's last updates, from {none} for 0 "
                    f"to {everything} for 100 %; gaps where the figures were not fresh",
                ),
                ("AGE", "the age of the figures now; dim ones are not fresh"),
                (
                    "by need",
                    "the largest used share first, of fresh figures; then the other figures; "
                    "then domains without figures",
                ),
                ("by use", "the most used bytes first, fresh or not"),
                ("fresh?", _OUTDATED),
                *((verdict.value, verdict.explanation) for verdict in Verdict),
            ],
            frame,
        ),
    ]
