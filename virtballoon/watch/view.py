"""What the live view shows, and what its keys do to it. Pure: neither terminal nor host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum, StrEnum, auto
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from virtballoon.model.report import DomainReport, HostReport
from virtballoon.model.verdict import Verdict, judge
from virtballoon.watch.history import History

if TYPE_CHECKING:
    from virtballoon.doctor.results import Diagnosis

#: A line: the number of its host, and the UUID of its guest, "" for the host's own.
LineKey: TypeAlias = tuple[int, str]

#: More is no filter that anyone would type.
_LONGEST_FILTER: Final = 80

#: More lines than there can be.
_BEYOND: Final = 1_000_000_000

E = TypeVar("E", bound=StrEnum)


class Order(StrEnum):
    """By what the guests of a host are sorted.

    By need: the largest used share of the memory first, as far as figures can be trusted; then
    those with figures that cannot; then those without. By use: the most used bytes first, whatever
    the figures are worth.
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
    """What is looked at: all lines, one of them, or the help."""

    LIST = auto()
    LINE = auto()
    HELP = auto()


class Action(Enum):
    """What a key does."""

    UP = auto()
    DOWN = auto()
    PAGE_UP = auto()
    PAGE_DOWN = auto()
    TOP = auto()
    BOTTOM = auto()
    LOOK = auto()
    LOOK_ABOVE = auto()
    LOOK_BELOW = auto()
    DOCTOR = auto()
    SORT = auto()
    FILTER = auto()
    UNWELL = auto()
    UNITS = auto()
    PAUSE = auto()
    REDRAW = auto()
    HELP = auto()
    BACK = auto()
    QUIT = auto()


@dataclass(frozen=True, slots=True)
class Binding:
    """A key, or several that do the same.

    :ivar action: what it does
    :ivar keys: their names, as :class:`virtballoon.watch.screen.Keys` gives them
    :ivar label: what they are called where keys are explained
    :ivar what: what it does, for people
    """

    action: Action
    keys: tuple[str, ...]
    label: str
    what: str


#: Every key of the live view.
BINDINGS: Final = (
    Binding(Action.UP, ("up", "k"), "Up, k", "select the line above"),
    Binding(Action.DOWN, ("down", "j"), "Down, j", "select the line below"),
    Binding(Action.PAGE_UP, ("pgup", "b"), "Page Up, b", "go up by a page"),
    Binding(Action.PAGE_DOWN, ("pgdn", "f"), "Page Down, f", "go down by a page"),
    Binding(Action.TOP, ("home", "g"), "Home, g", "go to the top"),
    Binding(Action.BOTTOM, ("end", "G"), "End, G", "go to the bottom"),
    Binding(Action.LOOK, ("enter",), "Enter", "look into the selected guest or host"),
    Binding(Action.LOOK_ABOVE, ("left",), "Left", "while looking into one: go to the one above"),
    Binding(Action.LOOK_BELOW, ("right",), "Right", "while looking into one: go to the one below"),
    Binding(Action.DOCTOR, ("d",), "d", "while looking into a guest: ask the doctor about it"),
    Binding(Action.SORT, ("s",), "s", "sort by the next of need, use and name"),
    Binding(Action.FILTER, ("/",), "/", "filter by a part of a name, a verdict or a host"),
    Binding(Action.UNWELL, ("!",), "!", "show only guests that are not well, or all again"),
    Binding(Action.UNITS, ("u",), "u", "show sizes for people, in bytes or in percent"),
    Binding(Action.PAUSE, ("space", "p"), "Space, p", "read nothing more, or go on"),
    Binding(Action.REDRAW, ("ctrl-l",), "Ctrl-L", "draw the screen anew"),
    Binding(Action.HELP, ("?", "h"), "?, h", "show the help"),
    Binding(Action.BACK, ("esc", "backspace"), "Esc", "go back to the list; there: end the filter"),
    Binding(Action.QUIT, ("q",), "q", "go back to the list; there: quit"),
)

_ACTION_OF: Final = {key: binding.action for binding in BINDINGS for key in binding.keys}


@dataclass(frozen=True, slots=True)
class HostLine:
    """A host.

    :ivar key: which line it is
    :ivar label: what to call it: a name of the configuration, else its URI
    :ivar report: its last report; None while there is none
    :ivar read_at: when that came, epoch seconds
    :ivar is_complete: whether it is all of a reading, rather than what there is so far
    """

    key: LineKey
    label: str
    report: HostReport | None
    read_at: float
    is_complete: bool


@dataclass(frozen=True, slots=True)
class GuestLine:
    """A guest, as it was last read.

    :ivar key: which line it is
    :ivar host: what to call its host
    :ivar row: the reading
    """

    key: LineKey
    host: str
    row: DomainReport


Line: TypeAlias = HostLine | GuestLine


def age_seconds(row: DomainReport, now: float) -> float | None:
    """How old a guest's figures are by now, which may be long after they were read.

    :param now: the time, epoch seconds
    """
    return None if row.age_seconds is None else row.age_seconds + now - row.read_at


def is_outdated(row: DomainReport, now: float) -> bool:
    """Whether figures that were fresh when they were read have grown too old since.

    :param now: the time, epoch seconds
    """
    return row.verdict is Verdict.FRESH and Verdict.FRESH is not judge(
        state=row.state,
        has_balloon=row.balloon is not None,
        interval=row.interval.in_force,
        last_update=row.last_update,
        age_seconds=age_seconds(row, now),
        is_empty=row.stats.is_empty,
    )


class View:
    """The live view: what is known, what of it is shown, and in which order.

    :param labels: what to call each host; None for what libvirt takes by default
    :param order: by what guests are sorted
    :param units: how sizes are shown
    :param only_unwell: whether guests that are well are left out

    :ivar history: what the guests have used lately
    :ivar screen: what is looked at
    :ivar looked_at: the line that is looked into
    :ivar selected: the line that the keys have chosen, if any
    :ivar filter: the text that what is shown must have
    :ivar is_typing: whether keys are text for the filter
    :ivar is_paused: whether nothing more is to be read
    :ivar is_done: whether to quit
    :ivar asked: the guests that the doctor is to be asked about
    :ivar diagnoses: what the doctor said of a guest, or why it said nothing, and when
    :ivar redraw: whether the screen is to be drawn anew
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
        self.looked_at: LineKey = (0, "")
        self.selected: LineKey | None = None
        self.filter = ""
        self.is_typing = False
        self.is_paused = False
        self.is_done = False
        self.redraw = False
        self.asked: list[LineKey] = []
        self.diagnoses: dict[LineKey, tuple[Diagnosis | str, float]] = {}
        self._given = tuple(labels)
        self._reports: dict[int, HostReport] = {}
        self._complete: dict[int, HostReport] = {}
        self._read_at: dict[int, float] = {}
        self._known: dict[int, frozenset[str]] = {}
        self._lines: tuple[Line, ...] | None = None
        self._top = dict.fromkeys(Screen, 0)
        self._place = 0
        self._page = 1

    # What is known.

    def update(
        self, index: int, report: HostReport, now: float, *, is_complete: bool = True
    ) -> None:
        """Take a report.

        :param index: the number of its host
        :param now: the time, epoch seconds
        :param is_complete: whether it is all of a reading; else its other guests stay as they were
        """
        if is_complete:
            self._complete[index] = report
        elif (former := self._reports.get(index)) is not None:
            rows = {row.uuid: row for row in (*former.domains, *report.domains)}
            report = replace(report, domains=tuple(rows.values()))
        self._reports[index] = report
        self._read_at[index] = now
        self._lines = None
        there = {row.uuid: row for row in report.domains}
        # The guests of a host that does not answer may be there still.
        known = self._known.get(index, frozenset()) if report.error is not None else frozenset()
        self._known[index] = known | there.keys()
        for uuid in self._known[index]:
            self.history.add((index, uuid), there.get(uuid))
        self.history.keep({(i, uuid) for i, uuids in self._known.items() for uuid in uuids})

    @property
    def reports(self) -> tuple[HostReport, ...]:
        """The last complete report of each host that has one, in the order of the hosts."""
        return tuple(self._complete[index] for index in sorted(self._complete))

    @property
    def hosts(self) -> int:
        """How many hosts there are."""
        return len(self._given)

    @property
    def guests(self) -> int:
        """How many guests were read, shown or not."""
        return sum(len(report.domains) for report in self._reports.values())

    @property
    def shown(self) -> int:
        """How many guests the filter shows."""
        return sum(isinstance(line, GuestLine) for line in self.lines)

    def line(self, key: LineKey) -> Line | None:
        """A line, whether the filter shows it or not; None when it is gone."""
        index, uuid = key
        if not uuid:
            return self._host(index)
        report = self._reports.get(index)
        for row in report.domains if report is not None else ():
            if row.uuid == uuid:
                return GuestLine(key, self._label(index), row)
        return None

    def _label(self, index: int) -> str:
        return self._given[index]

    def _host(self, index: int) -> HostLine:
        report = self._reports.get(index)
        return HostLine(
            (index, ""),
            self._label(index),
            report,
            self._read_at.get(index, 0.0),
            is_complete=report is self._complete.get(index),
        )

    # What of it is shown.

    @property
    def lines(self) -> tuple[Line, ...]:
        """The hosts, each with its guests behind it, as far as the filter shows them. A host that
        is not well is always there."""
        if self._lines is None:
            lines: list[Line] = []
            for index in range(len(self._given)):
                lines += self._block(index)
            self._lines = tuple(lines)
        return self._lines

    def _block(self, index: int) -> list[Line]:
        host = self._host(index)
        rows = host.report.domains if host.report is not None else ()
        label = host.label
        guests = [
            GuestLine((index, row.uuid), label, row)
            for row in sorted(rows, key=_SORTED_BY[self.order])
            if self._shows(row, label)
        ]
        is_filtered = bool(self.filter) or self.only_unwell
        is_well = host.report is not None and host.report.error is None
        return [] if is_filtered and is_well and not guests else [host, *guests]

    def _shows(self, row: DomainReport, label: str) -> bool:
        if self.only_unwell and row.verdict.is_well:
            return False
        wanted = self.filter.casefold()
        return any(wanted in text.casefold() for text in (row.name, row.verdict.value, label))

    def window(self, height: int) -> tuple[Line, ...]:
        """The lines that fit, among them the selected one."""
        self._page = max(1, height - 1)
        place = self._selected_place()
        top = self._top[Screen.LIST]
        if place is not None:
            top = max(min(top, place), place - height + 1)
        top = self._top[Screen.LIST] = max(0, min(top, len(self.lines) - height))
        return self.lines[top : top + height]

    def scrolled(self, length: int, height: int) -> int:
        """The first line to show of a help or of what is looked into.

        :param length: how many lines there are
        :param height: how many of them fit
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
        # It is gone: whatever has its place is as good.
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
        action = _ACTION_OF.get(key)
        if action is not None:
            self._perform(action)

    def _type(self, key: str) -> bool:
        """Whether the key was meant for the filter."""
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

    def _perform(self, action: Action) -> None:
        perform: dict[Action, Callable[[], None]] = {
            Action.UP: lambda: self._move(-1),
            Action.DOWN: lambda: self._move(1),
            Action.PAGE_UP: lambda: self._move(-self._page),
            Action.PAGE_DOWN: lambda: self._move(self._page),
            Action.TOP: lambda: self._move_to(0),
            Action.BOTTOM: lambda: self._move_to(_BEYOND),
            Action.LOOK: self._look,
            Action.LOOK_ABOVE: lambda: self._look_beside(-1),
            Action.LOOK_BELOW: lambda: self._look_beside(1),
            Action.DOCTOR: self._ask_doctor,
            Action.SORT: self._sort,
            Action.FILTER: self._filter,
            Action.UNWELL: self._toggle_unwell,
            Action.UNITS: self._convert,
            Action.PAUSE: self._pause,
            Action.REDRAW: self._redraw,
            Action.HELP: lambda: self._show(Screen.HELP),
            Action.BACK: lambda: self._leave(quits=False),
            Action.QUIT: lambda: self._leave(quits=True),
        }
        perform[action]()

    def _ask_doctor(self) -> None:
        is_guest = isinstance(self.line(self.looked_at), GuestLine)
        if self.screen is Screen.LINE and is_guest and self.looked_at not in self.asked:
            self.asked.append(self.looked_at)

    def _sort(self) -> None:
        self.order = _next(self.order)
        self._lines = None

    def _filter(self) -> None:
        self.is_typing = self.screen is Screen.LIST

    def _toggle_unwell(self) -> None:
        self.only_unwell = not self.only_unwell
        self._lines = None

    def _convert(self) -> None:
        self.units = _next(self.units)

    def _pause(self) -> None:
        self.is_paused = not self.is_paused

    def _redraw(self) -> None:
        self.redraw = True

    def _leave(self, *, quits: bool) -> None:
        if self.screen is not Screen.LIST:
            self._show(Screen.LIST)
        elif quits:
            self.is_done = True
        elif self.filter:
            self._filter_by("")
        else:
            self.selected = None

    def _show(self, screen: Screen) -> None:
        self.screen = screen
        if screen is not Screen.LIST:
            self._top[screen] = 0

    def _look(self) -> None:
        if self.screen is not Screen.LIST or not self.lines:
            return
        if self._selected_place() is None:
            guests = (at for at, line in enumerate(self.lines) if isinstance(line, GuestLine))
            self._select(next(guests, 0))
        assert self.selected is not None
        self.looked_at = self.selected
        self._show(Screen.LINE)

    def _look_beside(self, step: int) -> None:
        if self.screen is Screen.LINE:
            self.screen = Screen.LIST
            self._move(step)
            self._look()

    def _move(self, step: int) -> None:
        if self.screen is not Screen.LIST:
            self._move_to(self._top[self.screen] + step)
            return
        place = self._selected_place()
        if place is None:
            # The first key selects what is in sight.
            place = self._top[Screen.LIST] - (1 if step == 1 else 0)
        self._select(place + step)

    def _move_to(self, place: int) -> None:
        if self.screen is Screen.LIST:
            self._select(place)
        else:
            self._top[self.screen] = max(0, place)


def _by_need(row: DomainReport) -> tuple[object, ...]:
    ratio = row.usage.ratio
    is_trusted = row.verdict is Verdict.FRESH
    return ratio is None, not is_trusted, -(ratio or 0), row.name, row.uuid


def _by_use(row: DomainReport) -> tuple[object, ...]:
    used = row.usage.used_bytes
    return used is None, -(used or 0), row.name, row.uuid


def _by_name(row: DomainReport) -> tuple[object, ...]:
    return row.name, row.uuid


_SORTED_BY: Final = {Order.NEED: _by_need, Order.USE: _by_use, Order.NAME: _by_name}


def _next(choice: E) -> E:
    choices = list(type(choice))
    return choices[(choices.index(choice) + 1) % len(choices)]
