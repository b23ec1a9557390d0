"""What the live view shows, and what its keys do. Pure: neither terminal nor host."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, StrEnum, auto
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from virtballoon.model.report import DomainReport, HostReport
from virtballoon.model.verdict import Verdict, fresh_seconds

if TYPE_CHECKING:
    from virtballoon.doctor.results import Diagnosis

#: A line: the number of its host, and the UUID of its domain, "" for the host itself.
LineKey: TypeAlias = tuple[int, str]

#: The number of updates kept of each domain.
HISTORY: Final = 64

_LONGEST_FILTER: Final = 80
#: More lines than there can be.
_BEYOND: Final = 1_000_000_000

E = TypeVar("E", bound=StrEnum)


class Order(StrEnum):
    """How the domains of a host are sorted.

    By need: the largest used share of the memory first, of fresh figures; then the other figures;
    then domains without figures. By use: the most used bytes first, fresh or not.
    """

    NEED = "need"
    USE = "use"
    NAME = "name"


class Units(StrEnum):
    """How sizes are shown."""

    HUMAN = "human"
    BYTES = "bytes"
    PERCENT = "percent"


class Screen(Enum):
    """What is shown: all lines, the details of one, or the help."""

    LIST = auto()
    DETAILS = auto()
    HELP = auto()


@dataclass(frozen=True, slots=True)
class HostLine:
    """A host.

    :ivar key: which line it is
    :ivar label: what to call it: its name in the configuration, else its URI
    :ivar report: its last report; None if there is none yet
    :ivar read_at: when that was received, epoch seconds
    :ivar is_complete: whether it is a whole reading, rather than what has been read so far
    """

    key: LineKey
    label: str
    report: HostReport | None
    read_at: float
    is_complete: bool


@dataclass(frozen=True, slots=True)
class DomainLine:
    """A domain.

    :ivar key: which line it is
    :ivar host: what to call its host
    :ivar report: its last report
    """

    key: LineKey
    host: str
    report: DomainReport


Line: TypeAlias = HostLine | DomainLine


def age_seconds(domain: DomainReport, now: float) -> float | None:
    """The age of a domain's figures now, which can be long after they were read.

    :param now: the time, epoch seconds
    """
    return None if domain.age_seconds is None else domain.age_seconds + now - domain.read_at


def is_outdated(domain: DomainReport, now: float) -> bool:
    """Whether figures that were fresh when they were read have become too old since.

    :param now: the time, epoch seconds
    """
    age, interval = age_seconds(domain, now), domain.interval.in_force
    is_old = age is not None and interval is not None and age > fresh_seconds(interval)
    return domain.verdict is Verdict.FRESH and is_old


@dataclass(slots=True)
class _Past:
    ratios: deque[float | None] = field(default_factory=lambda: deque(maxlen=HISTORY))
    last_update: int | None = None

    def add(self, domain: DomainReport | None) -> None:
        is_fresh = domain is not None and domain.verdict is Verdict.FRESH
        ratio = domain.usage.ratio if domain is not None and is_fresh else None
        if domain is None or ratio is None:
            if self.ratios and self.ratios[-1] is not None:
                self.ratios.append(None)
        elif domain.last_update != self.last_update:
            self.ratios.append(ratio)
            self.last_update = domain.last_update


class History:
    """The used share of each domain's memory, one value per update.

    Figures that do not move, because polling is off or the guest hangs, would be drawn as a flat
    line that nothing supports: they leave a gap.
    """

    def __init__(self) -> None:
        self._pasts: dict[int, dict[str, _Past]] = {}

    def add(self, index: int, report: HostReport) -> None:
        """Add a reading, and remove domains that do not exist any more.

        :param index: the number of the host
        """
        there = {domain.uuid: domain for domain in report.domains}
        pasts = self._pasts.get(index, {})
        # The domains of a host that does not answer may still exist.
        known = there.keys() if report.error is None else there.keys() | pasts.keys()
        self._pasts[index] = {uuid: pasts.get(uuid) or _Past() for uuid in known}
        for uuid, past in self._pasts[index].items():
            past.add(there.get(uuid))

    def of(self, key: LineKey) -> tuple[float | None, ...]:
        """The used share at each update, 0 to 1, the oldest first; None for a gap."""
        past = self._pasts.get(key[0], {}).get(key[1])
        return tuple(past.ratios) if past is not None else ()


class View:
    """The live view: what is known, what of it is shown, and in which order.

    :param labels: what to call each host
    :param order: how domains are sorted
    :param units: how sizes are shown
    :param only_unwell: whether to leave out the domains that are well

    :ivar history: what the domains have used lately
    :ivar screen: what is shown
    :ivar opened: the line whose details are shown
    :ivar selected: the selected line, if any
    :ivar filter: the text that shown lines must contain
    :ivar is_typing: whether keys are text for the filter
    :ivar is_paused: whether to read nothing more
    :ivar is_done: whether to quit
    :ivar to_diagnose: the domains that the doctor is to examine
    :ivar diagnoses: the doctor's diagnosis of a domain, or why there is none, and when
    :ivar redraw: whether to draw the whole screen again
    """

    def __init__(
        self,
        labels: Sequence[str],
        *,
        order: Order = Order.NEED,
        units: Units = Units.HUMAN,
        only_unwell: bool = False,
    ) -> None:
        self.order = order
        self.units = units
        self.only_unwell = only_unwell
        self.history = History()
        self.screen = Screen.LIST
        self.opened: LineKey = (0, "")
        self.selected: LineKey | None = None
        self.filter = ""
        self.is_typing = False
        self.is_paused = False
        self.is_done = False
        self.redraw = False
        self.to_diagnose: list[LineKey] = []
        self.diagnoses: dict[LineKey, tuple[Diagnosis | str, float]] = {}
        self._given = tuple(labels)
        self._reports: dict[int, HostReport] = {}
        self._complete: dict[int, HostReport] = {}
        self._read_at: dict[int, float] = {}
        self._lines: tuple[Line, ...] | None = None
        self._top = dict.fromkeys(Screen, 0)
        self._place = 0
        self._page = 1

    # What is known.

    def update(
        self, index: int, report: HostReport, now: float, *, is_complete: bool = True
    ) -> None:
        """Add a report.

        :param index: the number of its host
        :param now: the time, epoch seconds
        :param is_complete: whether it is a whole reading; else other domains stay as they were
        """
        if is_complete:
            self._complete[index] = report
        elif (former := self._reports.get(index)) is not None:
            domains = {each.uuid: each for each in (*former.domains, *report.domains)}
            report = replace(report, domains=tuple(domains.values()))
        self._reports[index] = report
        self._read_at[index] = now
        self._lines = None
        self.history.add(index, report)

    @property
    def reports(self) -> tuple[HostReport, ...]:
        """The last complete report of each host that has one, in the order of the hosts."""
        return tuple(self._complete[index] for index in sorted(self._complete))

    @property
    def hosts(self) -> int:
        """The number of hosts."""
        return len(self._given)

    @property
    def domains(self) -> int:
        """The number of domains read, shown or not."""
        return sum(len(report.domains) for report in self._reports.values())

    @property
    def shown(self) -> int:
        """The number of domains that the filter shows."""
        return sum(isinstance(line, DomainLine) for line in self.lines)

    def line(self, key: LineKey) -> Line | None:
        """A line, whether the filter shows it or not; None if it does not exist any more."""
        index, uuid = key
        if not uuid:
            return self._host(index)
        report = self._reports.get(index)
        for domain in report.domains if report is not None else ():
            if domain.uuid == uuid:
                return DomainLine(key, self._given[index], domain)
        return None

    def _host(self, index: int) -> HostLine:
        report = self._reports.get(index)
        return HostLine(
            (index, ""),
            self._given[index],
            report,
            self._read_at.get(index, 0.0),
            is_complete=report is self._complete.get(index),
        )

    # What of it is shown.

    @property
    def lines(self) -> tuple[Line, ...]:
        """The hosts, each followed by its domains, as far as the filter shows them. A host with an
        error is always shown."""
        if self._lines is None:
            lines: list[Line] = []
            for index in range(len(self._given)):
                lines += self._block(index)
            self._lines = tuple(lines)
        return self._lines

    def _block(self, index: int) -> list[Line]:
        host = self._host(index)
        domains = host.report.domains if host.report is not None else ()
        shown = [
            DomainLine((index, domain.uuid), host.label, domain)
            for domain in sorted(domains, key=_SORT_KEYS[self.order])
            if self._shows(domain, host.label)
        ]
        is_filtered = bool(self.filter) or self.only_unwell
        is_well = host.report is not None and host.report.error is None
        return [] if is_filtered and is_well and not shown else [host, *shown]

    def _shows(self, domain: DomainReport, label: str) -> bool:
        if self.only_unwell and domain.verdict.is_well:
            return False
        wanted = self.filter.casefold()
        return any(wanted in text.casefold() for text in (domain.name, domain.verdict, label))

    def window(self, height: int) -> tuple[Line, ...]:
        """The lines that fit, the selected one among them."""
        self._page = max(1, height - 1)
        place = self._selected_place()
        top = self._top[Screen.LIST]
        if place is not None:
            top = max(min(top, place), place - height + 1)
        top = self._top[Screen.LIST] = max(0, min(top, len(self.lines) - height))
        return self.lines[top : top + height]

    def scrolled(self, length: int, height: int) -> int:
        """The first line to show of the help or of details.

        :param length: the number of lines
        :param height: the number of lines that fit
        """
        self._page = max(1, height - 1)
        top = self._top[self.screen] = max(0, min(self._top[self.screen], length - height))
        return top

    def _selected_place(self) -> int | None:
        if self.selected is None or not self.lines:
            return None
        for place, line in enumerate(self.lines):
            if line.key == self.selected:
                self._place = place
                return place
        # It does not exist any more: select the line in its place.
        self._select(self._place)
        return self._place

    def _select(self, place: int) -> None:
        if self.lines:
            self._place = max(0, min(place, len(self.lines) - 1))
            self.selected = self.lines[self._place].key

    # What keys do.

    def press(self, key: str) -> None:
        """Do what a key does."""
        if self.is_typing and self._type(key):
            return
        if (binding := _BINDING_OF.get(key)) is not None:
            binding.run(self)

    def _type(self, key: str) -> bool:
        """Whether the key was text for the filter."""
        text = self.filter
        if key in {"enter", "esc"}:
            self.is_typing = False
            text = text if key == "enter" else ""
        elif key in {"backspace", "ctrl-u"}:
            text = text[:-1] if key == "backspace" else ""
        elif key == "space" or len(key) == 1:
            text = (text + (" " if key == "space" else key))[:_LONGEST_FILTER]
        else:
            return False
        self._filter_by(text)
        return True

    def _filter_by(self, text: str) -> None:
        self.filter = text
        self._lines = None

    def _open(self) -> None:
        if self.screen is not Screen.LIST or not self.lines:
            return
        if self._selected_place() is None:
            domains = (at for at, line in enumerate(self.lines) if isinstance(line, DomainLine))
            self._select(next(domains, 0))
        assert self.selected is not None
        self.opened = self.selected
        self._show(Screen.DETAILS)

    def _diagnose(self) -> None:
        is_domain = isinstance(self.line(self.opened), DomainLine)
        if self.screen is Screen.DETAILS and is_domain and self.opened not in self.to_diagnose:
            self.to_diagnose.append(self.opened)

    def _sort(self) -> None:
        self.order = _next(self.order)
        self._lines = None

    def _type_filter(self) -> None:
        self.is_typing = self.screen is Screen.LIST

    def _toggle_unwell(self) -> None:
        self.only_unwell = not self.only_unwell
        self._lines = None

    def _change_units(self) -> None:
        self.units = _next(self.units)

    def _pause(self) -> None:
        self.is_paused = not self.is_paused

    def _redraw_all(self) -> None:
        self.redraw = True

    def _back(self) -> None:
        if self.screen is not Screen.LIST:
            self._show(Screen.LIST)
        elif self.filter:
            self._filter_by("")
        else:
            self.selected = None

    def _quit(self) -> None:
        if self.screen is Screen.LIST:
            self.is_done = True
        else:
            self._show(Screen.LIST)

    def _show(self, screen: Screen) -> None:
        self.screen = screen
        if screen is not Screen.LIST:
            self._top[screen] = 0

    def _open_next(self, step: int) -> None:
        if self.screen is Screen.DETAILS:
            self.screen = Screen.LIST
            self._move(step)
            self._open()

    def _move(self, step: int) -> None:
        if self.screen is not Screen.LIST:
            self._move_to(self._top[self.screen] + step)
            return
        place = self._selected_place()
        if place is None:
            # The first key selects a line that is visible.
            place = self._top[Screen.LIST] - (1 if step == 1 else 0)
        self._select(place + step)

    def _move_to(self, place: int) -> None:
        if self.screen is Screen.LIST:
            self._select(place)
        else:
            self._top[self.screen] = max(0, place)


@dataclass(frozen=True, slots=True)
class Binding:
    """What a key does.

    :ivar keys: the keys' names, as :class:`virtballoon.watch.screen.Keys` gives them
    :ivar label: what to call them where keys are explained
    :ivar what: what they do, in words
    :ivar run: what they do
    """

    keys: tuple[str, ...]
    label: str
    what: str
    run: Callable[[View], None]


#: Every key of the live view.
BINDINGS: Final = (
    Binding(("up", "k"), "Up, k", "select the line above", lambda view: view._move(-1)),
    Binding(("down", "j"), "Down, j", "select the line below", lambda view: view._move(1)),
    Binding(("pgup", "b"), "Page Up, b", "go up by a page", lambda view: view._move(-view._page)),
    Binding(
        ("pgdn", "f"), "Page Down, f", "go down by a page", lambda view: view._move(view._page)
    ),
    Binding(("home", "g"), "Home, g", "go to the top", lambda view: view._move_to(0)),
    Binding(("end", "G"), "End, G", "go to the bottom", lambda view: view._move_to(_BEYOND)),
    Binding(("enter",), "Enter", "show the details of the selected domain or host", View._open),
    Binding(
        ("left",), "Left", "in details: go to the line above", lambda view: view._open_next(-1)
    ),
    Binding(
        ("right",), "Right", "in details: go to the line below", lambda view: view._open_next(1)
    ),
    Binding(("d",), "d", "in details of a domain: run doctor", View._diagnose),
    Binding(("s",), "s", "sort by the next of need, use and name", View._sort),
    Binding(("/",), "/", "filter by part of a name, verdict or host", View._type_filter),
    Binding(("!",), "!", "show only domains that are not well, or all again", View._toggle_unwell),
    Binding(("u",), "u", "show sizes human-readable, in bytes or in percent", View._change_units),
    Binding(("space", "p"), "Space, p", "pause reading, or continue", View._pause),
    Binding(("ctrl-l",), "Ctrl-L", "redraw the screen", View._redraw_all),
    Binding(("?", "h"), "?, h", "show the help", lambda view: view._show(Screen.HELP)),
    Binding(("esc", "backspace"), "Esc", "return to the list; there: end the filter", View._back),
    Binding(("q",), "q", "return to the list; there: quit", View._quit),
)

_BINDING_OF: Final = {key: binding for binding in BINDINGS for key in binding.keys}


def _by_need(domain: DomainReport) -> tuple[object, ...]:
    ratio = domain.usage.ratio
    is_fresh = domain.verdict is Verdict.FRESH
    return ratio is None, not is_fresh, -(ratio or 0), domain.name, domain.uuid


def _by_use(domain: DomainReport) -> tuple[object, ...]:
    used = domain.usage.used_bytes
    return used is None, -(used or 0), domain.name, domain.uuid


def _by_name(domain: DomainReport) -> tuple[object, ...]:
    return domain.name, domain.uuid


_SORT_KEYS: Final = {Order.NEED: _by_need, Order.USE: _by_use, Order.NAME: _by_name}


def _next(choice: E) -> E:
    choices = list(type(choice))
    return choices[(choices.index(choice) + 1) % len(choices)]
