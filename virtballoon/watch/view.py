"""What the live view shows, and what its keys do. Pure: neither terminal nor host."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, StrEnum, auto
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from virtballoon.doctor.results import HostDiagnosis
from virtballoon.engine.calls import BackgroundCall
from virtballoon.model.rates import NoRate
from virtballoon.model.report import DomainReport, HostReport, unmatched_everywhere
from virtballoon.model.source import Source
from virtballoon.model.verdict import Verdict, fresh_seconds

#: A line: the number of its host, and the UUID of its domain, "" for the host itself.
LineKey: TypeAlias = tuple[int, str]

#: A domain's last updates: when, and the used share of its memory; None for a gap.
Updates: TypeAlias = tuple[tuple[int | None, float | None], ...]

#: The number of updates kept of each domain.
HISTORY: Final = 64

_LONGEST_FILTER: Final = 80
#: More lines than there can be.
_BEYOND: Final = 1_000_000_000

T = TypeVar("T")


class Order(StrEnum):
    """How the domains of a host are sorted.

    By need: the largest used share of the memory first, of fresh figures; then the other figures;
    then domains without figures. By use: the most used bytes first, fresh or not. By pressure:
    those that are short of memory first, then those with the least available share.
    """

    NEED = "need"
    USE = "use"
    NAME = "name"
    PRESSURE = "pressure"


class Screen(Enum):
    """What is shown: all lines, the details of one, or the help."""

    LIST = auto()
    DETAILS = auto()
    HELP = auto()


@dataclass(slots=True, eq=False)
class WatchedHost:
    """A host, and what has been read of it.

    :ivar complete: its last report that is a whole reading, rather than what has been read so far
    :ivar read_at: when the last report was received, epoch seconds
    """

    index: int
    label: str
    report: HostReport | None = None
    complete: HostReport | None = None
    read_at: float = 0.0
    _updates: dict[str, Updates] = field(default_factory=dict)

    @property
    def domains(self) -> tuple[DomainReport, ...]:
        """Its domains; none if it has not been read."""
        return self.report.domains if self.report is not None else ()

    def update(self, report: HostReport, now: float, *, is_complete: bool) -> None:
        """Add a report."""
        former = {each.uuid: each for each in self.domains}
        rated = (_rated(each, former.get(each.uuid)) for each in report.domains)
        report = replace(report, domains=tuple(rated))
        if is_complete:
            self.complete = report
        else:
            domains = {each.uuid: each for each in (*self.domains, *report.domains)}
            report = replace(report, domains=tuple(domains.values()))
        self.report, self.read_at = report, now
        # The domains of a host that does not answer may still exist.
        kept = self._updates if report.error is not None else {}
        there = {domain.uuid: domain for domain in report.domains}
        self._updates = {
            uuid: _extended(self._updates.get(uuid, ()), there.get(uuid))
            for uuid in there.keys() | kept.keys()
        }

    def history(self, uuid: str) -> tuple[float | None, ...]:
        """The used share of a domain's memory at its last updates, 0 to 1, the oldest first.

        Figures that do not move, because polling is off or the guest hangs, would be drawn as a
        flat line that nothing supports: they leave a gap, which is None.
        """
        return tuple(ratio for _, ratio in self._updates.get(uuid, ()))


def _rated(domain: DomainReport, former: DomainReport | None) -> DomainReport:
    """A report with rates between the last two updates."""
    if former is None:
        return domain
    rated = domain.since(former.sample)
    is_same = rated.rates is not None and rated.rates.reason is NoRate.NOT_UPDATED
    return replace(domain, rates=former.rates) if is_same else rated


def _extended(past: Updates, domain: DomainReport | None) -> Updates:
    last = past[-1] if past else (None, None)
    new: tuple[int | None, float | None] = (last[0], None)
    if domain is not None and domain.verdict is Verdict.FRESH and domain.usage.ratio is not None:
        new = last if domain.last_update == last[0] else (domain.last_update, domain.usage.ratio)
    return past if new == last else (*past, new)[-HISTORY:]


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the list: a host, or one of its domains."""

    host: WatchedHost
    domain: DomainReport | None = None

    @property
    def key(self) -> LineKey:
        """Which line it is, whatever its place."""
        return self.host.index, self.domain.uuid if self.domain is not None else ""


def age_seconds(domain: DomainReport, now: float) -> float | None:
    """The age of a domain's figures now, which can be long after they were read."""
    return None if domain.age_seconds is None else domain.age_seconds + now - domain.read_at


def is_outdated(domain: DomainReport, now: float) -> bool:
    """Whether figures that were fresh when they were read have become too old since."""
    age, interval = age_seconds(domain, now), domain.interval.in_force
    is_old = age is not None and interval is not None and age > fresh_seconds(interval)
    return domain.verdict is Verdict.FRESH and is_old


class View:
    """The live view: what is known, what of it is shown, and in which order.

    :param labels: what to call each host
    :param source: where the figures come from
    :param every: seconds from one reading of a host to the next; None if there is only one
    :param exact: whether sizes are in bytes
    :param only_unwell: whether to leave out the domains that are well

    :ivar opened: the line whose details are shown
    :ivar filter: the text that shown lines must contain
    :ivar is_typing: whether keys are text for the filter
    :ivar start_doctor: starts the doctor on a domain, by its line
    """

    def __init__(
        self,
        labels: Sequence[str],
        *,
        source: Source = Source.LIBVIRT,
        every: float | None = None,
        order: Order = Order.NEED,
        exact: bool = False,
        only_unwell: bool = False,
    ) -> None:
        self.source = source
        self.every = every
        self.hosts = tuple(WatchedHost(index, label) for index, label in enumerate(labels))
        self.order = order
        self.exact = exact
        self.only_unwell = only_unwell
        self.screen = Screen.LIST
        self.opened: LineKey = (0, "")
        self.selected: LineKey = (0, "")
        self.filter = ""
        self.is_typing = False
        self.is_paused = False
        self.is_done = False
        self.redraw = False
        self.start_doctor: Callable[[LineKey], BackgroundCall[HostDiagnosis]] | None = None
        self.diagnoses: dict[LineKey, BackgroundCall[HostDiagnosis]] = {}
        self._lines: tuple[Line, ...] | None = None
        self._tops = dict.fromkeys(Screen, 0)
        self._place = 0
        self._page = 1

    # What is known.

    def update(
        self, index: int, report: HostReport, now: float, *, is_complete: bool = True
    ) -> None:
        """Add a report of a host. If it is not a whole reading, other domains stay as they were."""
        self.hosts[index].update(report, now, is_complete=is_complete)
        self._lines = None

    @property
    def reports(self) -> tuple[HostReport, ...]:
        """The last complete report of each host that has one, in the order of the hosts."""
        return tuple(host.complete for host in self.hosts if host.complete is not None)

    @property
    def notice(self) -> str:
        """The words that match no domain, once every host has been read."""
        unmatched = unmatched_everywhere(self.reports)
        if not unmatched or len(self.reports) < len(self.hosts):
            return ""
        return f"no domain matches {', '.join(map(repr, unmatched))}"

    @property
    def shown(self) -> int:
        """The number of domains that the filter shows."""
        return sum(line.domain is not None for line in self.lines)

    def line(self, key: LineKey) -> Line | None:
        """A line, whether the filter shows it or not; None if it does not exist any more."""
        index, uuid = key
        host = self.hosts[index]
        lines = (Line(host, domain) for domain in host.domains if domain.uuid == uuid)
        return next(lines, None) if uuid else Line(host)

    # What of it is shown.

    @property
    def lines(self) -> tuple[Line, ...]:
        """The hosts, each followed by its domains, as far as the filter shows them. A host with an
        error is always shown."""
        if self._lines is None:
            self._lines = tuple(line for host in self.hosts for line in self._block(host))
        return self._lines

    def _block(self, host: WatchedHost) -> list[Line]:
        key = _SORT_KEYS[self.order]
        domains = sorted(host.domains, key=lambda row: (key(row), row.name, row.uuid))
        shown = [Line(host, domain) for domain in domains if self._shows(domain, host.label)]
        is_filtered = bool(self.filter) or self.only_unwell
        is_well = host.report is not None and host.report.error is None
        return [] if is_filtered and is_well and not shown else [Line(host), *shown]

    def _shows(self, domain: DomainReport, label: str) -> bool:
        if self.only_unwell and domain.is_well:
            return False
        wanted = self.filter.casefold()
        return any(wanted in text.casefold() for text in (domain.name, domain.verdict, label))

    def window(self, lines: Sequence[T], height: int) -> Sequence[T]:
        """The lines of the screen that fit; of the list, the selected one is among them."""
        self._page = max(1, height - 1)
        top = self._tops[self.screen]
        if self.screen is Screen.LIST:
            place = self._selected_place()
            top = max(min(top, place), place - height + 1)
        top = self._tops[self.screen] = max(0, min(top, len(lines) - height))
        return lines[top : top + height]

    def _selected_place(self) -> int:
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
        if self.screen is Screen.LIST and self.lines:
            self._selected_place()
            self.opened = self.selected
            self._show(Screen.DETAILS)

    def _open_next(self, step: int) -> None:
        if self.screen is Screen.DETAILS:
            self.screen = Screen.LIST
            self._move(step)
            self._open()

    def _diagnose(self) -> None:
        line = self.line(self.opened) if self.screen is Screen.DETAILS else None
        former = self.diagnoses.get(self.opened)
        is_running = former is not None and not former.has_ended
        if line is None or line.domain is None or self.start_doctor is None or is_running:
            return
        self.diagnoses[line.key] = self.start_doctor(line.key)

    def _sort(self) -> None:
        orders = list(Order)
        self.order = orders[(orders.index(self.order) + 1) % len(orders)]
        self._lines = None

    def _type_filter(self) -> None:
        self.is_typing = self.screen is Screen.LIST

    def _toggle_unwell(self) -> None:
        self.only_unwell = not self.only_unwell
        self._lines = None

    def _change_units(self) -> None:
        self.exact = not self.exact

    def _pause(self) -> None:
        self.is_paused = not self.is_paused

    def _redraw_all(self) -> None:
        self.redraw = True

    def _back(self) -> None:
        if self.screen is Screen.LIST:
            self._filter_by("")
        self.screen = Screen.LIST

    def _quit(self) -> None:
        self.is_done = self.screen is Screen.LIST
        self.screen = Screen.LIST

    def _show(self, screen: Screen) -> None:
        self.screen = screen
        self._tops[screen] = 0

    def _move(self, step: int) -> None:
        is_list = self.screen is Screen.LIST
        self._move_to(step + (self._selected_place() if is_list else self._tops[self.screen]))

    def _move_to(self, place: int) -> None:
        if self.screen is Screen.LIST:
            self._select(place)
        else:
            self._tops[self.screen] = place


class Binding(NamedTuple):
    """What some keys do, which have the names that :func:`virtballoon.watch.screen.keys_of`
    gives them."""

    keys: tuple[str, ...]
    label: str
    what: str
    run: Callable[[View], None]


#: Every key of the live view.
BINDINGS: Final = (
    Binding(("up", "k"), "Up, k", "select the line above", lambda view: view._move(-1)),
    Binding(("down", "j"), "Down, j", "select the line below", lambda view: view._move(1)),
    Binding(("pgup", "b"), "Page Up, b", "go up by a page", lambda view: view._move(-view._page)),
    Binding(("pgdn", "f"), "Page Down, f", "go down by a page", lambda v: v._move(v._page)),
    Binding(("home", "g"), "Home, g", "go to the top", lambda view: view._move_to(0)),
    Binding(("end", "G"), "End, G", "go to the bottom", lambda view: view._move_to(_BEYOND)),
    Binding(("enter",), "Enter", "show the details of the selected domain or host", View._open),
    Binding(("left",), "Left", "in details: go to the line above", lambda v: v._open_next(-1)),
    Binding(("right",), "Right", "in details: go to the line below", lambda v: v._open_next(1)),
    Binding(("d",), "d", "in details of a domain: run doctor", View._diagnose),
    Binding(("s",), "s", "sort by the next of need, use, name and pressure", View._sort),
    Binding(("/",), "/", "filter by part of a name, verdict or host", View._type_filter),
    Binding(("!",), "!", "show only domains that are not well, or all again", View._toggle_unwell),
    Binding(("u",), "u", "show sizes human-readable, or in bytes", View._change_units),
    Binding(("space", "p"), "Space, p", "pause reading, or continue", View._pause),
    Binding(("ctrl-l",), "Ctrl-L", "redraw the screen", View._redraw_all),
    Binding(("?", "h"), "?, h", "show the help", lambda view: view._show(Screen.HELP)),
    Binding(("esc", "backspace"), "Esc", "return to the list; there: end the filter", View._back),
    Binding(("q",), "q", "return to the list; there: quit", View._quit),
)

_BINDING_OF: Final = {key: binding for binding in BINDINGS for key in binding.keys}


_SORT_KEYS: Final[Mapping[Order, Callable[[DomainReport], Any]]] = {
    Order.NEED: lambda row: (
        row.usage.ratio is None,
        row.verdict is not Verdict.FRESH,
        -(row.usage.ratio or 0),
    ),
    Order.PRESSURE: lambda row: (
        not row.pressure.is_short,
        row.pressure.available_ratio is None,
        row.pressure.available_ratio,
    ),
    Order.USE: lambda row: (row.usage.used_bytes is None, -(row.usage.used_bytes or 0)),
    Order.NAME: lambda row: row.name,
}
