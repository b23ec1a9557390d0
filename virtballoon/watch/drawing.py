"""The live view as lines of text. Pure: from a view, a size and the time."""

from __future__ import annotations

import os
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

from virtballoon.model.pressure import AVAILABLE_RATIO, FAULTS_PER_SECOND, SWAP_PER_SECOND
from virtballoon.model.report import DomainReport
from virtballoon.model.verdict import Verdict
from virtballoon.render import text
from virtballoon.render.columns import column, figure_name, figures
from virtballoon.render.diagnosis import diagnosis_facts
from virtballoon.render.documents import timestamp
from virtballoon.render.table import STYLES
from virtballoon.render.text import printable
from virtballoon.watch.view import (
    BINDINGS,
    Line,
    Order,
    Screen,
    View,
    WatchedHost,
    age_seconds,
    is_outdated,
)

#: The meaning of "fresh?".
_OUTDATED: Final = "fresh when read; the figures have become too old since"

_GAP: Final = 2
#: The colour of a used share, by its lower limit.
_LEVELS: Final = ((0.9, "bold red"), (0.75, "yellow"), (0.0, "green"))

#: The parts of a bar.
_USED, _CACHE, _FREE, _OWN, _UNKNOWN = "█▓░·╌"
#: The marks of a history, from 0 to 100 %, and that of a gap.
_MARKS: Final = "▁▂▃▄▅▆▇█"
_NO_MARK: Final = "·"
_SELECTED: Final = "▸ "

#: A line, or a part of it: texts, each with the words of :func:`virtballoon.render.text.styled`.
Parts: TypeAlias = Sequence[tuple[str, str]]


class Frame(NamedTuple):
    """What is the same for every line of one frame.

    :ivar now: the time, epoch seconds
    """

    view: View
    now: float
    width: int


def whole(frame: Frame) -> list[Parts]:
    """The whole list, for a frame that cannot be scrolled."""
    layout = _layout(frame)
    rows = [_heading(layout), *(_line(line, layout, frame) for line in frame.view.lines)]
    return [_fitted(row, frame.width) for row in rows]


def fitted(frame: Frame, height: int) -> list[Parts]:
    """The frame for a window of this height, with as many lines."""
    room = max(0, height - 2)
    view = frame.view
    if view.screen is Screen.LIST:
        layout = _layout(frame)
        body = [_heading(layout)] if room > 1 else []
        shown = view.window(view.lines, room - len(body))
        body += [_line(line, layout, frame) for line in shown]
    else:
        blocks = _help(frame) if view.screen is Screen.HELP else _details(frame)
        body = list(view.window(blocks, room))
    body += [()] * (room - len(body))
    rows = (_title(frame), *body, _foot(frame))
    return [_fitted(row, frame.width) for row in rows][:height]


def painted(row: Parts) -> list[tuple[int, str]]:
    """A line with escape sequences: its parts, each with the column where it begins, so that a name
    that the terminal draws wider or narrower than expected does not move what follows. NO_COLOR
    takes out the colours; bold, dim and reversed text stay."""
    pieces = []
    at = 0
    no_colour = bool(os.environ.get("NO_COLOR"))
    for part, style in row:
        words = {"bold", "dim", "reverse"} & set(style.split()) if no_colour else {style}
        if part.strip() or "reverse" in words:
            pieces.append((at, text.styled(part, " ".join(words), coloured=True)))
        at += text.width(part)
    return pieces


def _fitted(parts: Parts, width: int, *, flush_right: bool = False) -> Parts:
    """The parts, cut or padded to this width."""
    fitted = []
    for part, style in parts:
        # Of blanks, nothing is lost that an ellipsis should show.
        shown = part[: max(0, width)] if part.isspace() else text.cut(part, width)
        if shown:
            fitted.append((shown, style))
            width -= text.width(shown)
    blank = [(" " * width, "")] if width > 0 else []
    return [*blank, *fitted] if flush_right else [*fitted, *blank]


# The title and the foot.


def _bar_of_words(left: Sequence[str], right: str, frame: Frame) -> Parts:
    """A line across the window, with as many of the words as fit."""
    room = frame.width - text.width(right) - _GAP
    line = f" {left[0]}"
    if text.width(line) > room:
        right = ""
    for word in left[1:]:
        longer = f"{line} · {word}"
        if text.width(longer) > room:
            break
        line = longer
    padding = " " * (frame.width - text.width(line) - text.width(right) - 1)
    return [(f"{line}{padding}{right} ", "reverse")]


def _title(frame: Frame) -> Parts:
    view = frame.view
    facts = ["virtballoon"]
    if view.is_paused:
        facts.append("PAUSED")
    if view.filter and not view.is_typing:
        facts.append(f"filter: {printable(view.filter)}")
    if view.only_unwell:
        facts.append("not well")
    facts += [f"by {view.order.value}", f"source: {view.source.value}"]
    domains = sum(len(host.domains) for host in view.hosts)
    of_all = f"{view.shown} of " if view.shown != domains else ""
    facts.append(f"{of_all}{text.counted(domains, 'domain')}")
    if len(view.hosts) > 1:
        facts.append(text.counted(len(view.hosts), "host"))
    facts.append(f"every {view.every:g} s")
    return _bar_of_words(facts, time.strftime("%H:%M:%S", time.localtime(frame.now)), frame)


def _foot(frame: Frame) -> Parts:
    view = frame.view
    if view.is_typing:
        typed = (f" filter: {printable(view.filter)}", "")
        return [typed, (" ", "reverse"), ("  Enter: keep it, Esc: end it", "dim")]
    hints = ["q back", "u units", "? help", "Space pause"]
    if view.screen is Screen.LIST:
        hints = ["q quit", "? help", "s sort", "/ filter", "u units", "Space pause"]
        hints += ["! not well", "Enter details"]
    elif view.screen is Screen.DETAILS:
        hints += ["d doctor", "Left, Right next"]
    if view.notice:
        hints.insert(0, printable(view.notice))
    return _bar_of_words(hints, "", frame)


# The list.


_SIZES: Final = {
    "USED": column("used_bytes"),
    "CACHE": column("stats.disk_caches"),
    "FREE": column("stats.free_memory"),
    "TOTAL": column("stats.total_memory"),
    "BALLOON": column("current_bytes"),
    "MAXIMUM": column("maximum_bytes"),
}
#: The columns in their order, and the least width of each.
_LEAST: Final = {
    "DOMAIN": 12,
    "USED%": 5,
    **dict.fromkeys(_SIZES, 10),
    "MEMORY": 12,
    "HISTORY": 8,
    "PRESSURE": 8,
    "INTERVAL": 8,
    "AGE": 7,
    "VERDICT": 11,
}
_LEAST_EXACT: Final = _LEAST | dict.fromkeys(_SIZES, 14)
_FLUSH_LEFT: Final = frozenset({"DOMAIN", "MEMORY", "VERDICT"})

#: Which columns there are if there is no room for all; first the name, and no figure without its
#: verdict and age.
_CLAIMS: Final = (
    *("DOMAIN", "VERDICT", "AGE", "USED%", "MEMORY", "USED", "HISTORY"),
    *("PRESSURE", "TOTAL", "INTERVAL", "BALLOON", "MAXIMUM", "CACHE", "FREE"),
)
#: Which ones grow into the room that is left, one after another, and to which width.
_GROWTH: Final = (
    *(("DOMAIN", 24), ("MEMORY", 24), ("HISTORY", 16)),
    *(("DOMAIN", 40), ("MEMORY", 42), ("HISTORY", 34)),
)


#: The columns that there is room for, each with its width.
_Layout: TypeAlias = Mapping[str, int]


def _layout(frame: Frame) -> _Layout:
    known = _LEAST_EXACT if frame.view.exact else _LEAST
    names = (text.width(printable(x.domain.name)) for x in frame.view.lines if x.domain)
    longest = max(names, default=0)
    widths: dict[str, int] = {}
    room = frame.width - len(_SELECTED) + _GAP
    # What is sorted by is shown.
    first = ["PRESSURE"] if frame.view.order is Order.PRESSURE else []
    for title in dict.fromkeys((*_CLAIMS[:3], *first, *_CLAIMS[3:])):
        # One reading has neither a history nor rates.
        is_known = title not in {"HISTORY", "PRESSURE"} or frame.view.every is not None
        if is_known and (not widths or known[title] + _GAP <= room):
            widths[title] = known[title]
            room -= known[title] + _GAP
        elif "AGE" not in widths:
            break
    for title, most in _GROWTH:
        if title in widths:
            wanted = min(most, longest) if title == "DOMAIN" else most
            grown = max(0, min(room, wanted - widths[title]))
            widths[title] += grown
            room -= grown
    return {title: widths[title] for title in known if title in widths}


def _heading(layout: _Layout) -> Parts:
    return _cells(layout, lambda title, _width: [(title, "bold")])


def _cells(layout: _Layout, cell: Callable[[str, int], Parts]) -> Parts:
    row: list[tuple[str, str]] = []
    for title, width in layout.items():
        row.append((" " * (_GAP if row else len(_SELECTED)), ""))
        row += _fitted(cell(title, width), width, flush_right=title not in _FLUSH_LEFT)
    return row


def _line(line: Line, layout: _Layout, frame: Frame) -> Parts:
    view, domain = frame.view, line.domain
    is_selected = view.every is not None and line.key == view.selected
    if domain is None:
        at = len(_SELECTED) if is_selected else 0
        row = [(" " * at, ""), *_host(line.host, frame, frame.width - at)]
    else:
        row = list(_cells(layout, lambda title, width: _cell(title, line, domain, width, frame)))
        if not _is_fresh(domain, frame):
            row = [(part, f"{style} dim") for part, style in row]
    if not is_selected:
        return row
    # Reversed from the first column to the last; colours would be those of the background.
    row = [(_SELECTED, ""), *row[1:]]
    return [(part, "reverse") for part, _ in _fitted(row, frame.width)]


def _host(host: WatchedHost, frame: Frame, width: int) -> Parts:
    """What a host's line says: its status, and the error if there is one."""
    report = host.report
    parts = [(": ", "")]
    if report is None:
        parts.append(("not read yet", "dim"))
    elif report is not host.complete:
        parts.append((f"still reading, {text.counted(len(host.domains), 'domain')} so far", "dim"))
    else:
        parts.append((report.status.value, STYLES.get(report.status.value, "")))
        if report.error is not None:
            hint = f" ({report.error.hint})" if report.error.hint else ""
            parts.append((f", {printable(report.error.message + hint)}", ""))
        else:
            domains = text.counted(len(report.domains), "domain")
            parts.append((f", {domains}, read {_ago(host.read_at, frame)}", "dim"))
            if report.clock is not None and report.clock_problem is not None:
                parts.append((f", clock off by {report.clock.seconds:+.0f} s", "yellow"))
            if report.memory is not None:
                parts.append((f", {text.host_memory(report.memory)}", "dim"))
    # A long URI leaves room for what follows.
    room = max(width * 2 // 5, width - sum(text.width(part) for part, _ in parts))
    return [(text.cut(printable(host.label), room), "bold"), *parts]


def _ago(then: float, frame: Frame) -> str:
    return f"{text.duration(max(0.0, frame.now - then))} ago"


def _is_fresh(row: DomainReport, frame: Frame) -> bool:
    return row.verdict is Verdict.FRESH and not is_outdated(row, frame.now)


def _level(row: DomainReport, frame: Frame) -> str:
    """The colour of a used share; none if the figures are not fresh."""
    ratio = row.usage.ratio
    if ratio is None or not _is_fresh(row, frame):
        return ""
    return next((style for least, style in _LEVELS if ratio >= least), "")


def _verdict(row: DomainReport, frame: Frame) -> tuple[str, str]:
    word = row.verdict.value
    return (f"{word}?", "yellow") if is_outdated(row, frame.now) else (word, STYLES[word])


def _pressure(row: DomainReport, frame: Frame) -> tuple[str, str]:
    """Whether the guest is short of memory now."""
    is_short = row.pressure.is_short if _is_fresh(row, frame) else None
    return ("yes", "bold red") if is_short else (text.ABSENT if is_short is None else "no", "")


def _cell(title: str, line: Line, row: DomainReport, width: int, frame: Frame) -> Parts:
    """What a column shows of a domain in this width."""
    match title:
        case "DOMAIN":
            return [(printable(row.name), "")]
        case "USED%":
            return [(text.percent(row.usage.ratio), _level(row, frame))]
        case "MEMORY":
            return _memory(row, width, frame)
        case "HISTORY":
            return [(_history(line, row, width), "")]
        case "PRESSURE":
            return [_pressure(row, frame)]
        case "INTERVAL":
            interval = row.interval.in_force if row.balloon is not None else None
            return [(text.seconds(interval), "")]
        case "AGE":
            return [(text.duration(age_seconds(row, frame.now), units=1), "")]
        case "VERDICT":
            return [_verdict(row, frame)]
    return [(_SIZES[title].cell(row, exact=frame.view.exact), "")]


def _memory(row: DomainReport, width: int, frame: Frame) -> Parts:
    """A bar as long as the maximum, filled up to what the balloon leaves the guest, and that
    divided by its use."""
    current = row.figures.current_bytes
    full = max(row.figures.maximum_bytes or 0, current or 0)
    if not full or current is None:
        return [(text.ABSENT, "")]
    cells = width - 2
    bar = [("[", "")]
    at = 0
    for upto, glyph, style in _uses(row, current, frame):
        end = max(at, round(min(upto, current) / full * cells))
        bar.append((glyph * (end - at), style))
        at = end
    return [*bar, (f"{' ' * (cells - at)}]", "")]


def _uses(row: DomainReport, current: int, frame: Frame) -> Iterator[tuple[int, str, str]]:
    """The parts of a bar: where each ends, in bytes, and how it is drawn."""
    total, used = row.usage.total_bytes, row.usage.used_bytes
    if used is None or total is None:
        yield current, _UNKNOWN, ""
        return
    yield used, _USED, _level(row, frame)
    # Without "available", the used memory includes the cache.
    if row.usage.formula is not None and row.usage.formula.leaves_out_caches:
        yield used + min(row.stats.disk_caches or 0, total - used), _CACHE, "blue"
    yield total, _FREE, ""
    yield current, _OWN, ""


def _history(line: Line, row: DomainReport, width: int) -> str:
    last = len(_MARKS) - 1
    ratios = line.host.history(row.uuid)[-width:] if width > 0 else ()
    return "".join(
        _NO_MARK if r is None else _MARKS[min(int(r * (last + 1)), last)] for r in ratios
    )


# Details.


def _details(frame: Frame) -> list[Parts]:
    line = frame.view.line(frame.view.opened)
    if line is None:
        gone = "This domain does not exist any more, or its host does not answer."
        return [[], [(gone, "")]]
    if line.domain is None:
        return _host_details(line.host, frame)
    sections = (
        _about(line, line.domain, frame),
        _doctor(line, frame),
        _use(line, line.domain, frame),
        _figures(line.domain, frame),
    )
    return [row for section in sections if section for row in (*section, [])]


def _host_details(host: WatchedHost, frame: Frame) -> list[Parts]:
    report = host.report
    rows: list[Parts] = [_host(host, frame, frame.width), []]
    if report is None:
        return rows
    facts = [
        ("uri", report.uri),
        ("hostname", report.hostname),
        ("reading took", f"{report.elapsed_seconds:.2f} s"),
        ("clock", report.clock_problem),
        ("error", report.error.message if report.error is not None else None),
        ("what to do", report.error.hint if report.error is not None else None),
    ]
    return rows + _facts(facts, frame)


def _doctor(line: Line, frame: Frame) -> list[Parts]:
    """The doctor's diagnosis, if there is one."""
    call = frame.view.diagnoses.get(line.key)
    if call is None:
        return []
    if not call.has_ended:
        return [[("doctor is running", "dim")]]
    host = call.result()
    if not host.domains:
        message = str(host.error) if host.error is not None else "no such domain any more"
        return _facts([("doctor", message)], frame)
    diagnosis = host.domains[0]
    heading = [(f"doctor, {_ago(diagnosis.read_at, frame)}", "bold")]
    return [heading, *_facts(diagnosis_facts(diagnosis), frame)]


def _about(line: Line, row: DomainReport, frame: Frame) -> list[Parts]:
    """How reliable the figures are, where they come from, and whose they are."""
    title = [(printable(row.name), "bold"), (f" on {printable(line.host.label)}", "")]
    meaning = _OUTDATED if is_outdated(row, frame.now) else row.verdict.explanation
    age = f"{text.duration(age_seconds(row, frame.now))}, from {text.source(row.source)}"
    error, balloon, interval = row.error, row.balloon, row.interval
    device = [balloon.model, balloon.alias, balloon.qom_path] if balloon is not None else []
    asked = [("live", interval.live), ("config", interval.config), ("saved", interval.saved)]
    asked.append(("QEMU", interval.qemu))
    facts = [
        (_verdict(row, frame)[0], meaning),
        ("error", error.message if error is not None else None),
        ("what to do", error.hint if error is not None else None),
        *((anomaly.value, anomaly.text) for anomaly in row.anomalies),
        ("pressure", f"{_pressure(row, frame)[0]}: {row.pressure.text}"),
        ("age", f"{age}, of {timestamp(row.last_update) or text.ABSENT}"),
        ("interval", ", ".join(f"{who} {text.seconds(value)}" for who, value in asked)),
        ("balloon", " ".join(filter(None, device)) or "none"),
        ("excluded", "by the configuration" if row.excluded else None),
        ("state", f"{row.state.value}, id {text.ABSENT if row.id is None else row.id}, {row.uuid}"),
    ]
    return [title, *_facts(facts, frame)]


def _use(line: Line, row: DomainReport, frame: Frame) -> list[Parts]:
    """The bar and the history, longer than in the list."""
    room = frame.width - 9
    return [
        [("memory   ", ""), *_memory(row, min(62, room), frame)],
        [("history  ", ""), (_history(line, row, room), "")],
    ]


def _facts(facts: Iterable[tuple[str, str | None]], frame: Frame) -> list[Parts]:
    """One or more lines for each fact that is known, wrapped after its name."""
    known = [(name, value) for name, value in facts if value is not None]
    indent = max((len(name) for name, _ in known), default=0) + _GAP
    rows: list[Parts] = []
    for name, value in known:
        width = max(frame.width - indent, 16)
        first, *others = textwrap.wrap(printable(value), width) or [""]
        rows.append([(name.ljust(indent), "dim"), (first, "")])
        rows += [[(" " * indent + part, "")] for part in others]
    return rows


def _figures(row: DomainReport, frame: Frame) -> list[Parts]:
    """All figures, in as many columns as there is room for."""
    keys = figures(row)
    height = -(-len(keys) // max(1, min(3, frame.width // 39)))
    rows: list[Parts] = []
    for at in range(height):
        shown: list[tuple[str, str]] = []
        for key in keys[at::height]:
            value = column(key).cell(row, exact=frame.view.exact)
            shown += _fitted([(figure_name(key), "dim")], 17)
            shown += _fitted([(f" {value:>13}", "")], 22)
        rows.append(shown)
    return rows


# The help.


def _help(frame: Frame) -> list[Parts]:
    parts = ((_USED, "used"), (_CACHE, "cache"), (_FREE, "free"), (_OWN, "its kernel"))
    legend = ", ".join(f"{glyph} {what}" for glyph, what in (*parts, (_UNKNOWN, "unknown")))
    facts = [
        ("MEMORY", f"{legend}; blank: taken by the balloon from the maximum"),
        (
            "HISTORY",
            f"the used share at the guest's last updates, from {_MARKS[0]} for 0 "
            f"to {_MARKS[-1]} for 100 %; gaps where the figures were not fresh",
        ),
        (
            "PRESSURE",
            "whether the guest was short of memory between its last two updates: less than "
            f"{AVAILABLE_RATIO:.0%} available, and more than {FAULTS_PER_SECOND:g} major faults/s "
            f"or {SWAP_PER_SECOND / 1024**2:g} MiB/s swap; or OOM kills (--via qom)",
        ),
        ("AGE", "the age of the figures now; dim ones are not fresh"),
        ("fresh?", _OUTDATED),
        *((verdict.value, verdict.explanation) for verdict in Verdict),
    ]
    keys = _facts([(binding.label, binding.what) for binding in BINDINGS], frame)
    return [*keys, [], *_facts(facts, frame)]
