"""Setting the polling interval of real guests, held against the XML, QEMU and the guest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import virtballoon
from tests.conftest import GuestFactory
from tests.lab import Guest, GuestSpec, Hypervisor, wait_until
from tests.running import in_qemu, in_xml, set_in_qemu
from virtballoon import (
    Connection,
    Interval,
    IntervalRequest,
    Outcome,
    Source,
    Verdict,
    read_domain,
    set_interval,
    set_intervals,
)


@pytest.fixture(scope="module")
def polled(module_guest_factory: GuestFactory) -> Guest:
    """A guest with a driver, whose interval the tests of this module set as they need it."""
    return module_guest_factory(GuestSpec("settable"))


@pytest.fixture(scope="module")
def clock(module_guest_factory: GuestFactory) -> Guest:
    """A guest that is polled all the time: its updates tell that time has passed."""
    return module_guest_factory(GuestSpec("clock", period=1))


def last_update(guest: Guest) -> int:
    return int(guest.domain.memoryStats()["last_update"])


def wait_for_later(guest: Guest, before: int) -> None:
    wait_until(lambda: last_update(guest) > before, 30, f"an update of {guest.name}")


def updates(guest: Guest, count: int) -> None:
    """Wait until the guest has answered so often."""
    for _ in range(count):
        wait_for_later(guest, last_update(guest))


def reset(guest: Guest) -> None:
    set_interval(guest.domain, IntervalRequest(0, live=True, config=True))
    assert (in_xml(guest), in_xml(guest, "--inactive"), in_qemu(guest)) == (0, 0, 0)


@pytest.mark.parametrize("via", Source)
def test_polling_starts_changes_and_stops(polled: Guest, clock: Guest, via: Source) -> None:
    reset(polled)
    through_libvirt = via is Source.LIBVIRT
    before = last_update(polled)
    updates(clock, 3)
    assert last_update(polled) == before, "it is updated without being polled"

    change = set_interval(polled.domain, IntervalRequest(1, via=via))
    assert (change.outcome, change.changed, change.error) == (Outcome.CHANGED, True, None)
    assert in_qemu(polled) == 1
    assert in_xml(polled) == (1 if through_libvirt else 0)
    assert in_xml(polled, "--inactive") == 0
    updates(polled, 2)
    assert read_domain(polled.domain, via=via).verdict is Verdict.FRESH

    change = set_interval(polled.domain, IntervalRequest(2, via=via))
    if through_libvirt:
        assert change.before == Interval(live=1, config=0)
        assert change.after == Interval(live=2, config=0)
    else:
        assert change.before == Interval(live=0, config=0, qemu=1)
        assert change.after == Interval(live=0, config=0, qemu=2)
    assert in_qemu(polled) == 2
    updates(polled, 1)

    change = set_interval(polled.domain, IntervalRequest(0, via=via))
    assert change.outcome is Outcome.CHANGED
    assert in_qemu(polled) == 0
    # What the guest was asked for before may still be on its way.
    updates(clock, 2)
    stopped = last_update(polled)
    updates(clock, 4)
    assert last_update(polled) == stopped, "it is still updated after polling was turned off"
    assert read_domain(polled.domain, via=via).verdict is Verdict.POLLING_OFF


@pytest.mark.parametrize(
    ("live", "config"), [(True, False), (False, True), (True, True), (False, False)]
)
def test_live_and_config(polled: Guest, live: bool, config: bool) -> None:
    reset(polled)
    change = set_interval(polled.domain, IntervalRequest(30, live=live, config=config))
    assert change.outcome is Outcome.CHANGED
    # Neither means live, since it runs.
    live = live or not config
    expected = (30 if live else 0, 30 if config else 0)
    assert (in_xml(polled), in_xml(polled, "--inactive")) == expected
    assert in_qemu(polled) == expected[0]
    assert (change.after.live, change.after.config) == expected
    again = set_interval(polled.domain, IntervalRequest(30, live=live, config=config))
    assert (again.outcome, again.changed) == (Outcome.UNCHANGED, False)
    off = set_interval(polled.domain, IntervalRequest(0, live=live, config=config))
    assert off.outcome is Outcome.CHANGED
    assert (in_xml(polled), in_xml(polled, "--inactive"), in_qemu(polled)) == (0, 0, 0)


def test_a_configured_interval_rules_at_the_next_start(guest_factory: GuestFactory) -> None:
    guest = guest_factory(GuestSpec("later", start=False))
    change = set_interval(guest.domain, 2)
    assert (change.before, change.after) == (Interval(config=0), Interval(config=2))
    assert in_xml(guest, "--inactive") == 2
    guest.domain.create()
    guest.wait_booted()
    assert in_qemu(guest) == 2
    wait_until(lambda: read_domain(guest.domain).verdict is Verdict.FRESH, 30, "an answer")


def test_drift_is_visible_and_repaired(polled: Guest) -> None:
    reset(polled)
    set_interval(polled.domain, 5)
    set_in_qemu(polled, 77)
    assert read_domain(polled.domain).interval == Interval(live=5, config=0)
    seen = read_domain(polled.domain, via=Source.QOM).interval
    assert seen == Interval(live=5, config=0, qemu=77)
    assert seen.in_force == 77
    change = set_interval(polled.domain, 5)
    assert change.outcome is Outcome.UNCHANGED
    assert in_qemu(polled) == 5
    assert read_domain(polled.domain, via=Source.QOM).interval.qemu == 5


def test_a_dry_run_changes_nothing(polled: Guest) -> None:
    reset(polled)
    for via in Source:
        change = set_interval(
            polled.domain, IntervalRequest(9, live=True, config=True, via=via, dry_run=True)
        )
        assert change.outcome is Outcome.CHANGED
        assert change.after.config == 9
        assert (in_xml(polled), in_xml(polled, "--inactive"), in_qemu(polled)) == (0, 0, 0)
    with Connection.open(polled.hypervisor.uri, readonly=True) as connection:
        host = set_intervals(connection, IntervalRequest(9, dry_run=True), [polled.name])
    assert [c.outcome for c in host.domains] == [Outcome.CHANGED]


@pytest.mark.parametrize("name", ["cmdline-id", "cmdline-anon"])
def test_a_balloon_that_libvirt_does_not_know_is_set_through_qom(
    hypervisor: Hypervisor, guests: dict[str, Guest], name: str
) -> None:
    (failed,) = set_intervals(hypervisor.uri, 1, [name]).domains
    assert failed.outcome is Outcome.FAILED
    assert isinstance(failed.error, virtballoon.NoBalloon)
    (change,) = set_intervals(hypervisor.uri, IntervalRequest(1, via=Source.QOM), [name]).domains
    assert (change.outcome, change.before.qemu, change.after.qemu) == (Outcome.CHANGED, 0, 1)

    def verdict() -> Verdict:
        return read_domain(guests[name].domain, via=Source.QOM).verdict

    wait_until(lambda: verdict() is Verdict.FRESH, 30, "an answer")
    (change,) = set_intervals(hypervisor.uri, IntervalRequest(0, via=Source.QOM), [name]).domains
    assert change.after.qemu == 0
    assert verdict() is Verdict.POLLING_OFF


def test_all_means_running_and_with_config_persistent(
    hypervisor: Hypervisor, guests: dict[str, Guest], guest_factory: GuestFactory
) -> None:
    guest_factory(GuestSpec("passing", persistent=False, paused=True))

    def planned(*, live: bool = False, config: bool = False) -> dict[str, Outcome]:
        host = set_intervals(
            hypervisor.uri, IntervalRequest(600, dry_run=True, live=live, config=config), None
        )
        return {change.name: change.outcome for change in host.domains}

    changed, skipped = Outcome.CHANGED, Outcome.SKIPPED
    running = planned()
    assert running == planned(live=True)
    assert "off" not in running
    assert running["passing"] is changed
    assert running["nodevice"] is running["cmdline-id"] is skipped
    persistent = planned(config=True)
    assert "passing" not in persistent
    assert persistent["off"] is changed
    both = planned(live=True, config=True)
    assert both.keys() == running.keys() | persistent.keys()
    assert both["off"] is both["passing"] is changed


def test_impossible_changes_of_a_named_domain(
    hypervisor: Hypervisor, guests: dict[str, Guest], guest_factory: GuestFactory
) -> None:
    guest_factory(GuestSpec("passing", persistent=False, paused=True))
    cases: list[tuple[str, bool, bool, type[virtballoon.VirtballoonError]]] = [
        ("nodevice", False, False, virtballoon.NoBalloon),
        ("off", True, False, virtballoon.NotRunning),
        ("off", True, True, virtballoon.NotRunning),
        ("passing", False, True, virtballoon.TransientDomain),
        ("passing", True, True, virtballoon.TransientDomain),
    ]
    for name, live, config, error in cases:
        host = set_intervals(hypervisor.uri, IntervalRequest(600, live=live, config=config), [name])
        (change,) = host.domains
        assert (change.outcome, type(change.error)) == (Outcome.FAILED, error), name
        assert not change.changed
        assert change.before == change.after
        # By a pattern the same domain is passed over, or gets what it can have.
        pattern = f"{name[:-1]}[{name[-1]}]"
        host = set_intervals(
            hypervisor.uri, IntervalRequest(600, live=live, config=config, dry_run=True), [pattern]
        )
        assert host.domains[0].outcome in {Outcome.SKIPPED, Outcome.CHANGED}
    assert in_xml(guests["off"], "--inactive") == 5


def test_one_domains_failure_is_its_own(hypervisor: Hypervisor, polled: Guest) -> None:
    reset(polled)
    host = set_intervals(hypervisor.uri, 30, [polled.name, "nodevice"])
    outcomes = {change.name: change.outcome for change in host.domains}
    assert outcomes == {polled.name: Outcome.CHANGED, "nodevice": Outcome.FAILED}
    assert in_qemu(polled) == 30


def test_an_unknown_domain_keeps_everything_as_it_is(hypervisor: Hypervisor, polled: Guest) -> None:
    reset(polled)
    host = set_intervals(hypervisor.uri, 30, [polled.name, "nobody", "nosuch*"])
    assert host.unmatched == ("nobody", "nosuch*")
    assert host.domains == ()
    assert in_qemu(polled) == 0


@pytest.mark.parametrize(
    ("seconds", "via"), [(-1, Source.LIBVIRT), (2**31, Source.LIBVIRT), (2**32, Source.QOM)]
)
def test_interval_above_qemus_limit(polled: Guest, seconds: int, via: Source) -> None:
    reset(polled)
    with pytest.raises(virtballoon.InvalidInterval):
        set_interval(polled.domain, IntervalRequest(seconds, via=via))
    assert in_qemu(polled) == 0


def test_the_longest_intervals(polled: Guest) -> None:
    reset(polled)
    assert set_interval(polled.domain, 2**31 - 1).outcome is Outcome.CHANGED
    assert in_qemu(polled) == in_xml(polled) == 2**31 - 1
    assert (
        set_interval(polled.domain, IntervalRequest(2**32 - 1, via=Source.QOM)).outcome
        is Outcome.CHANGED
    )
    assert in_qemu(polled) == 2**32 - 1
    reset(polled)


def test_an_error_of_qemu_has_what_was_sent(polled: Guest) -> None:
    monitor = virtballoon.Domain.of(polled.domain).monitor()
    with pytest.raises(virtballoon.MonitorError) as caught:
        monitor.guest_stats("/machine/peripheral/nobody")
    assert caught.value.error_class == "DeviceNotFound"
    assert '"/machine/peripheral/nobody"' in caught.value.sent
    assert '"error"' in (caught.value.received or "")
    assert caught.value.domain == polled.name


def test_a_read_only_connection_writes_nothing(polled: Guest) -> None:
    reset(polled)
    with Connection.open(polled.hypervisor.uri, readonly=True) as connection:
        for via in Source:
            (change,) = set_intervals(
                connection, IntervalRequest(30, via=via), [polled.name]
            ).domains
            assert (change.outcome, change.changed) == (Outcome.FAILED, False)
            assert isinstance(change.error, virtballoon.ReadOnly)
            assert change.error.code == 29
    assert in_qemu(polled) == 0


def saved_configuration(guest: Guest) -> Path:
    """The file in which libvirt keeps a domain's configuration."""
    return guest.hypervisor.directory / "config" / "libvirt" / "qemu" / f"{guest.name}.xml"


@contextmanager
def unwritable(directory: Path) -> Iterator[None]:
    mode = directory.stat().st_mode
    directory.chmod(0o555)
    try:
        yield
    finally:
        directory.chmod(mode)


def test_partly_applied_change_is_reported(polled: Guest) -> None:
    reset(polled)
    file = saved_configuration(polled)
    with unwritable(file.parent):
        change = set_interval(polled.domain, IntervalRequest(30, live=True, config=True))
    assert (change.outcome, change.changed) == (Outcome.FAILED, True)
    assert isinstance(change.error, virtballoon.LibvirtFailure)
    assert change.before == Interval(live=0, config=0)
    # Libvirt changes what it has in mind before it finds that it cannot save it.
    assert change.after == Interval(live=30, config=30)
    assert in_qemu(polled) == 30
    assert "period='30'" not in file.read_text()
    again = set_interval(polled.domain, IntervalRequest(30, live=True, config=True))
    assert (again.outcome, again.changed) == (Outcome.UNCHANGED, False)
    assert "period='30'" in file.read_text()
    reset(polled)


def test_where_off_leaves_others_alone(polled: Guest) -> None:
    reset(polled)
    set_interval(polled.domain, IntervalRequest(3, live=True))
    change = set_interval(
        polled.domain, IntervalRequest(30, live=True, config=True, where_off=True)
    )
    assert (change.outcome, change.after) == (Outcome.CHANGED, Interval(live=3, config=30))
    assert (in_xml(polled), in_xml(polled, "--inactive"), in_qemu(polled)) == (3, 30, 3)
    change = set_interval(polled.domain, IntervalRequest(9, live=True, config=True, where_off=True))
    assert (change.outcome, change.changed) == (Outcome.UNCHANGED, False)
    assert (in_xml(polled), in_xml(polled, "--inactive"), in_qemu(polled)) == (3, 30, 3)
    reset(polled)
