"""Reading real guests: figures, verdicts, both sources, and domains that change meanwhile."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator

import libvirt
import pytest

import virtballoon
from tests.conftest import POLLED, GuestFactory, wait_until_fresh
from tests.lab import Guest, GuestSpec, Hypervisor, wait_until
from virtballoon import (
    Connection,
    Domain,
    DomainReport,
    Figures,
    HostStatus,
    Source,
    State,
    UsedFormula,
    Verdict,
    read_domain,
    read_host,
)
from virtballoon.engine.limits import Deadline, Limits
from virtballoon.engine.reader import ReadPlan
from virtballoon.engine.scheduler import Scheduler

MIB = 1024**2

#: The guests that have a balloon, a driver and an interval.


@pytest.fixture
def connection(hypervisor: Hypervisor) -> Iterator[Connection]:
    """A read-only connection of the test's own."""
    with Connection.open(hypervisor.uri) as connection:
        yield connection


@pytest.fixture(scope="module")
def report(hypervisor: Hypervisor, guests: dict[str, Guest]) -> dict[str, DomainReport]:
    """One reading of the shared guests, running or not, once all polled ones have answered."""

    wait_until_fresh(guests, 60)
    host = read_host(hypervisor.uri, list(guests))
    assert host.error is None
    return {row.name: row for row in host.domains}


def read_until(
    read: Callable[[], DomainReport], condition: Callable[[DomainReport], bool], what: str
) -> DomainReport:
    """Read until the row is as it is waited for."""

    def row() -> DomainReport | None:
        found = read()
        return found if condition(found) else None

    return wait_until(row, 60, what)


def same_moment(hypervisor: Hypervisor, name: str) -> tuple[DomainReport, DomainReport]:
    """A domain read from both sources between two updates of the guest's."""

    def both() -> tuple[DomainReport, DomainReport] | None:
        with Connection.open(hypervisor.uri, readonly=False) as connection:
            (before,) = read_host(connection, [name]).domains
            (qom,) = read_host(connection, [name], via=Source.QOM).domains
            (after,) = read_host(connection, [name]).domains
        moments = {before.last_update, after.last_update}
        if after.balloon is not None:
            moments.add(qom.last_update)
        return (after, qom) if len(moments) == 1 else None

    return wait_until(both, 30, f"two readings of {name} between two updates")


@pytest.mark.parametrize("name", POLLED)
def test_figures_equal_the_guests_own(
    hypervisor: Hypervisor, guests: dict[str, Guest], name: str
) -> None:
    # The figures of an idle guest hardly move in between.
    meminfo = guests[name].meminfo()
    started = time.time()
    row = read_until(
        lambda: read_host(hypervisor.uri, [name]).domains[0],
        lambda row: (row.last_update or 0) > started,
        "an update after the guest's own",
    )
    assert row.stats.total_memory is not None
    assert row.stats.available_memory is not None
    assert row.stats.total_memory == meminfo["MemTotal"]
    assert row.stats.free_memory == pytest.approx(meminfo["MemFree"], abs=2 * MIB)
    assert row.stats.available_memory == pytest.approx(meminfo["MemAvailable"], abs=2 * MIB)
    assert row.usage.formula is UsedFormula.TOTAL_AVAILABLE
    assert row.usage.used_bytes == row.stats.total_memory - row.stats.available_memory
    assert row.figures.maximum_bytes == guests[name].spec.memory_mib * MIB
    assert row.figures.current_bytes == guests[name].spec.memory_mib * MIB


def test_the_balloon_takes_memory_from_the_guest(guest_factory: GuestFactory) -> None:
    guest = guest_factory(GuestSpec("inflated", period=1))
    guest.hypervisor.virsh("setmem", guest.name, "112M", "--live")
    row = read_until(
        lambda: read_domain(guest.domain),
        lambda row: row.figures.current_bytes == 112 * MIB,
        "the balloon to be inflated",
    )
    assert row.figures.maximum_bytes == 128 * MIB


def test_used_follows_a_hog_up_and_down(guest_factory: GuestFactory) -> None:
    guest = guest_factory(GuestSpec("hog", period=1))

    def used() -> int:
        return read_domain(guest.domain).usage.used_bytes or 0

    def agrees() -> bool:
        meminfo = guest.meminfo()
        return used() == pytest.approx(meminfo["MemTotal"] - meminfo["MemAvailable"], abs=2 * MIB)

    idle = wait_until(used, 30, "the first figures")
    guest.hog(40)
    # A guest that has just booted gives back some of what it used, so a little less than 40 MiB.
    wait_until(lambda: used() > idle + 30 * MIB, 30, "used memory to rise by 40 MiB")
    # On a busy machine the figures can be from while the guest was still filling its memory.
    wait_until(agrees, 60, "figures that agree with the guest's own")
    guest.unhog()
    wait_until(lambda: used() < idle + 4 * MIB, 30, "used memory to fall again")
    # On a busy machine the figures can be from while the guest was still filling its memory.
    wait_until(agrees, 60, "figures that agree with the guest's own")


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        *((name, Verdict.FRESH) for name in POLLED),
        ("nodevice", Verdict.NO_DEVICE),
        ("cmdline-id", Verdict.NO_DEVICE),
        ("cmdline-anon", Verdict.NO_DEVICE),
        ("nodriver", Verdict.UNANSWERED),
        ("unpolled", Verdict.POLLING_OFF),
        ("suspended", Verdict.SUSPENDED),
        ("off", Verdict.SHUTOFF),
    ],
)
def test_verdicts_through_libvirt(
    report: dict[str, DomainReport], name: str, verdict: Verdict
) -> None:
    assert report[name].verdict is verdict
    assert report[name].source is Source.LIBVIRT
    assert report[name].error is None
    assert report[name].interval.qemu is None


def test_what_is_known_of_each_guest(
    report: dict[str, DomainReport], guests: dict[str, Guest]
) -> None:
    for name, row in report.items():
        guest = guests[name]
        assert row.uuid == guest.uuid
        if name == "off":
            assert (row.id, row.state) == (None, State.SHUTOFF)
            assert row.interval == virtballoon.Interval(live=None, config=5)
            assert row.balloon is not None
            assert row.balloon.qom_path is None
            assert row.figures == Figures(maximum_bytes=row.figures.maximum_bytes)
            assert row.figures.maximum_bytes
            continue
        assert row.id == guest.domain.ID()
        assert row.state is (State.PAUSED if name == "suspended" else State.RUNNING)
        period = guest.spec.period or 0
        assert row.interval == virtballoon.Interval(live=period, config=period)
        assert row.figures.rss_bytes is not None
        assert row.figures.rss_bytes > 16 * MIB
        if row.balloon is not None:
            alias = guest.spec.alias or "balloon0"
            assert row.balloon.model == guest.spec.model
            assert row.balloon.alias == alias
            assert row.balloon.qom_path == f"/machine/peripheral/{alias}"


def test_old_figures_keep_their_age(report: dict[str, DomainReport]) -> None:
    # Linux sends one set when its driver loads, whether it is polled or not.
    row = report["unpolled"]
    assert row.stats.total_memory
    assert row.last_update is not None
    assert row.age_seconds is not None
    assert row.age_seconds >= 0
    assert row.needs_polling
    assert report["suspended"].stats.total_memory
    assert not report["suspended"].needs_polling


def test_a_guest_whose_driver_goes_becomes_stale(guest_factory: GuestFactory) -> None:
    guest = guest_factory(GuestSpec("unloads", period=1))
    wait_until(lambda: read_domain(guest.domain).verdict is Verdict.FRESH, 30, "an answer")
    guest.unload_driver()
    row = read_until(
        lambda: read_domain(guest.domain),
        lambda row: row.verdict is Verdict.STALE,
        "the figures to become stale",
    )
    assert row.age_seconds is not None
    assert row.age_seconds > 2 * 1 + 5
    guest.load_driver()
    wait_until(lambda: read_domain(guest.domain).verdict is Verdict.FRESH, 30, "a new answer")


@pytest.mark.parametrize(
    "name", [*POLLED, "nodevice", "cmdline-id", "cmdline-anon", "nodriver", "unpolled", "suspended"]
)
def test_both_sources_agree(
    hypervisor: Hypervisor, report: dict[str, DomainReport], guests: dict[str, Guest], name: str
) -> None:
    libvirt, qom = same_moment(hypervisor, name)
    assert qom.source is Source.QOM
    assert qom.error is None
    assert qom.figures.maximum_bytes == libvirt.figures.maximum_bytes
    assert qom.figures.current_bytes == libvirt.figures.current_bytes
    if name.startswith("cmdline"):
        # Libvirt does not know of the balloon, so there is nothing that they share.
        assert libvirt.balloon is None
        assert libvirt.stats.is_empty
        assert qom.stats.total_memory == guests[name].meminfo()["MemTotal"]
        return
    assert qom.balloon == libvirt.balloon
    assert qom.last_update == libvirt.last_update
    given = {key: value for key, value in libvirt.stats.as_dict().items() if value is not None}
    assert given == {key: qom.stats.as_dict()[key] for key in given}
    if name in {*POLLED, "unpolled", "suspended"}:
        assert len(given) >= 10
        assert qom.usage == libvirt.usage
    assert qom.verdict is libvirt.verdict
    assert qom.interval.qemu == (None if name == "nodevice" else libvirt.interval.live)


def test_qom_takes_one_call_where_qemu_has_qom_list_get(
    hypervisor: Hypervisor, guests: dict[str, Guest], caplog: pytest.LogCaptureFixture
) -> None:
    has_list_get = hypervisor.connection.getVersion() >= 10_001_000
    with caplog.at_level("DEBUG", "virtballoon.hypervisor"):
        assert read_domain(guests["classic"].domain, via=Source.QOM).interval.qemu is not None
    sent = [text for text in caplog.messages if "qemuMonitorCommand" in text]
    assert ["qom-list-get" in text for text in sent] == ([True] if has_list_get else [False] * 2)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("cmdline-id", "/machine/peripheral/extra-balloon"),
        ("cmdline-anon", "/machine/peripheral-anon/device["),
    ],
)
def test_a_balloon_that_libvirt_does_not_know(
    hypervisor: Hypervisor, guests: dict[str, Guest], name: str, path: str
) -> None:
    (row,) = read_host(hypervisor.uri, [name], via=Source.QOM).domains
    assert row.balloon is not None
    assert row.balloon.model is None
    assert row.balloon.qom_path is not None
    assert row.balloon.qom_path.startswith(path)
    assert row.verdict is Verdict.POLLING_OFF
    (found,) = virtballoon.find_qom_path(hypervisor.uri, name, via=Source.QOM).domains
    assert found.qom_path == row.balloon.qom_path
    host = virtballoon.find_qom_path(hypervisor.uri, name)
    assert (host.domains, type(host.error)) == ((), virtballoon.NoBalloon)


def test_reading_needs_no_write_access_and_marks_no_guest(guest_factory: GuestFactory) -> None:
    guest = guest_factory(GuestSpec("unmarked", period=1))

    def is_tainted() -> bool:
        return "custom monitor" in guest.hypervisor.virsh("dominfo", guest.name).stdout

    with Connection.open(guest.hypervisor.uri, readonly=True) as connection:
        host = read_host(connection, [guest.name])
        assert host.status is HostStatus.OK
        (domain,) = (each for each in connection.domains() if each.name == guest.name)
        assert virtballoon.qom_path(domain.raw)
    virtballoon.set_interval(guest.domain, 2)
    assert not is_tainted()
    assert read_domain(guest.domain, via=Source.QOM).error is None
    assert is_tainted()


def test_a_read_only_connection_is_not_enough_for_the_passthrough(
    connection: Connection, guests: dict[str, Guest]
) -> None:
    host = read_host(connection, ["classic"], via=Source.QOM)
    assert isinstance(host.error, virtballoon.ReadOnly)
    assert host.error.code == 29
    assert host.domains == ()
    with pytest.raises(virtballoon.ReadOnly):
        list(virtballoon.iter_domains(connection, ["classic"], via=Source.QOM))


def domains_of(connection: libvirt.virConnect) -> list[object]:
    domains = [one for one in gc.get_objects() if isinstance(one, libvirt.virDomain)]
    return [domain for domain in domains if domain.connect() is connection]


def test_the_callers_connection_stays_open(
    hypervisor: Hypervisor, guests: dict[str, Guest]
) -> None:
    theirs = hypervisor.conn()
    try:
        assert read_host(theirs, ["classic"]).domains
        assert [row.name for row in virtballoon.iter_domains(theirs, ["classic"])] == ["classic"]
        assert read_domain(theirs.lookupByName("classic")).name == "classic"
        assert theirs.isAlive()
        assert theirs.getHostname()
    finally:
        # How many references were left: with the caller's own the last one goes, once the threads
        # that read have let go of their domains.
        wait_until(lambda: not domains_of(theirs), 60, "the last domain to be released")
        assert theirs.close() == 0


def test_all_means_the_running_ones_unless_told_otherwise(
    connection: Connection, guests: dict[str, Guest]
) -> None:
    def names(*words: str, inactive: bool = False) -> list[str]:
        return [r.name for r in read_host(connection, words or None, inactive=inactive).domains]

    running = names()
    assert "off" not in running
    assert "classic" in running
    assert running == sorted(running)
    assert "off" in names(inactive=True)
    assert names("of*") == []
    assert names("of*", inactive=True) == ["off"]
    assert names("off") == ["off"]
    assert names(guests["off"].uuid.upper()) == ["off"]


# Domains that change between the listing and the reading.


def reports(connection: Connection, domains: list[Domain]) -> Iterator[DomainReport]:
    """A reading of these domains."""
    plan = ReadPlan(domains, via=Source.LIBVIRT, limits=Limits())
    return map(plan.report, Scheduler(connection, None).run(plan, Deadline.after(10)))


def listed(connection: Connection, name: str) -> Iterator[DomainReport]:
    """A reading of the domain, which was listed now and will be read later."""
    domains = [domain for domain in connection.domains() if domain.name == name]
    assert len(domains) == 1
    return reports(connection, domains)


def test_a_domain_that_vanishes_costs_its_row(
    connection: Connection, guest_factory: GuestFactory
) -> None:
    going = guest_factory(GuestSpec("going", persistent=False, paused=True))
    staying = guest_factory(GuestSpec("staying", persistent=False, paused=True))
    names = {going.name, staying.name}
    domains = [domain for domain in connection.domains() if domain.name in names]
    going.domain.destroy()
    assert [row.name for row in reports(connection, domains)] == ["staying"]


def test_a_domain_that_stops(connection: Connection, guest_factory: GuestFactory) -> None:
    guest = guest_factory(GuestSpec("stopping", period=3, paused=True))
    rows = listed(connection, "stopping")
    guest.domain.destroy()
    (row,) = rows
    assert (row.verdict, row.id) == (Verdict.SHUTOFF, None)
    assert row.interval == virtballoon.Interval(live=None, config=3)


def test_a_domain_that_starts(connection: Connection, guest_factory: GuestFactory) -> None:
    guest = guest_factory(GuestSpec("starting", period=3, start=False))
    rows = listed(connection, "starting")
    guest.domain.create()
    (row,) = rows
    assert row.verdict is Verdict.UNANSWERED
    assert row.id == guest.domain.ID()
    assert row.interval == virtballoon.Interval(live=3, config=3)


def test_a_transient_domain_has_no_configuration(
    connection: Connection, guest_factory: GuestFactory
) -> None:
    guest_factory(GuestSpec("passing", period=4, persistent=False, paused=True))
    (row,) = read_host(connection, ["passing"]).domains
    assert row.interval == virtballoon.Interval(live=4, config=None)
