"""Guests of the newest QEMU and Linux: every statistic, against the guest's own account, and what a
reset leaves of them."""

from __future__ import annotations

import csv
import json
import time
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab import Guest, GuestSpec, Hypervisor, wait_until
from tests.pages import stats_table
from tests.unit.command import Command
from virtballoon import (
    STATISTIC_BY_NAME,
    DomainReport,
    Kind,
    Source,
    Statistic,
    Unit,
    Verdict,
    read_domain,
    read_host,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import GuestFactory

PAGE = 4096
MIB = 1024**2
#: Those that libvirt does not pass on.
PRESSURE = tuple(s.name for s in STATISTIC_BY_NAME.values() if s.libvirt is None)

#: Where a Linux guest's own /proc has each statistic, by virtballoon-stats(7).
LINUX = {row["name"]: row["Linux"] for row in stats_table("NAMES")}


def own_account(guest: Guest) -> dict[str, int]:
    """What the guest's own /proc has for each statistic, now."""
    vmstat = guest.vmstat()
    meminfo = guest.meminfo()

    def value(statistic: Statistic) -> int:
        keys = LINUX[statistic.name].split("+")
        if keys[0][0].isupper():
            return sum(meminfo[key] for key in keys)
        (pattern,) = keys
        found = [number for key, number in vmstat.items() if fnmatchcase(key, pattern)]
        assert found, pattern
        return sum(found) * (PAGE if statistic.unit is Unit.BYTES else 1)

    return {name: value(statistic) for name, statistic in STATISTIC_BY_NAME.items()}


def updated(guest: Guest, *, via: Source = Source.QOM) -> DomainReport:
    """A reading of figures that the guest gave after now."""
    now = time.time()

    def read() -> DomainReport | None:
        row = read_domain(guest.domain, via=via)
        return row if (row.last_update or 0) > now else None

    return wait_until(read, 60, f"an update of {guest.name}")


@pytest.fixture(scope="module")
def guest(newest_guest_factory: GuestFactory) -> Guest:
    """A guest to mistreat, with a little room to swap."""
    return newest_guest_factory(GuestSpec("pressed", period=1, swap_mib=4))


@pytest.fixture(scope="module")
def pressed(guest: Guest) -> Guest:
    """The same once it has swapped, has reclaimed and has had a process killed."""
    before = updated(guest).stats
    assert (before.oom_kills, before.alloc_stalls, before.direct_reclaims) == (0, 0, 0)
    # Some huge pages can be had, and not a hundred.
    for number in (4, 100, 0):
        guest.run(f"echo {number} >/proc/sys/vm/nr_hugepages")
    # A kswapd that is slow leaves something for the process itself to reclaim.
    guest.run("renice -n 19 -p $(pidof kswapd0)")

    def press() -> bool:
        # More than there is: what is written first is swapped out, then there is no more room.
        guest.run("head -c 400m /dev/zero | tail", timeout=120, check=False)
        account = own_account(guest)
        # How much of it the process itself reclaims is chance.
        return all(account[name] for name in PRESSURE)

    wait_until(press, 120, f"{', '.join(PRESSURE)} to move")
    return guest


def test_the_newest_is_new(newest_hypervisor: Hypervisor, newest_guest: Guest) -> None:
    version = newest_guest.qmp({"execute": "query-version"})["return"]["qemu"]
    assert version["major"] >= 10
    release = newest_guest.run("uname -r").stdout.strip()
    assert tuple(map(int, release.split(".")[:2])) >= (6, 12)


def test_a_reset_makes_qemu_forget(guest: Guest) -> None:
    # QEMU 7.2 keeps what it had. Before the guest is pressed: its counters begin anew.
    assert updated(guest).stats.total_memory
    guest.domain.suspend()
    guest.domain.reset()
    (row,) = read_host(guest.hypervisor.uri, [guest.name], via=Source.QOM).domains
    assert row.last_update is None
    assert row.stats.is_empty
    guest.domain.resume()
    row = read_domain(guest.domain)
    assert row.verdict in {Verdict.UNANSWERED, Verdict.FRESH}
    assert updated(guest).verdict is Verdict.FRESH
    # The driver is there before the guest takes commands.
    guest.wait_booted(starts=2)


def test_every_statistic_comes(newest_guest: Guest) -> None:
    row = updated(newest_guest)
    assert row.verdict is Verdict.FRESH
    assert None not in row.stats.as_dict().values()
    assert row.stats.other == {}
    assert list(row.stats.as_dict()) == list(STATISTIC_BY_NAME)


def test_libvirt_passes_on_what_the_table_says(newest_guest: Guest) -> None:
    row = updated(newest_guest, via=Source.LIBVIRT)
    given = {name for name, value in row.stats.as_dict().items() if value is not None}
    assert given == {s.name for s in STATISTIC_BY_NAME.values() if s.libvirt is not None}
    single = newest_guest.domain.memoryStats()
    assert {s.libvirt for s in STATISTIC_BY_NAME.values() if s.libvirt} <= set(single)


@pytest.fixture(scope="module")
def accounts(pressed: Guest) -> tuple[dict[str, int], dict[str, int | None], dict[str, int]]:
    """The guest's own account, what QEMU has for it after that, and the guest's own once more."""
    before = own_account(pressed)
    row = updated(pressed)
    return before, row.stats.as_dict(), own_account(pressed)


@pytest.mark.parametrize("statistic", STATISTIC_BY_NAME.values(), ids=STATISTIC_BY_NAME)
def test_a_statistic_equals_the_guests_own(
    accounts: tuple[dict[str, int], dict[str, int | None], dict[str, int]], statistic: Statistic
) -> None:
    before, value, after = (account[statistic.name] for account in accounts)
    assert before is not None
    assert value is not None
    assert after is not None
    if statistic.kind is Kind.COUNTER:
        assert before <= value <= after
    else:
        assert min(before, after) - 2 * MIB <= value <= max(before, after) + 2 * MIB


def test_both_files_of_the_guest_agree(pressed: Guest) -> None:
    # The page cache is what /proc/meminfo has in three parts; what nothing uses stands in both.
    lines = pressed.run("cat /proc/meminfo /proc/vmstat").stdout.replace(":", "").splitlines()
    numbers = {words[0]: int(words[1]) for words in (line.split() for line in lines) if words}
    for key, name in (("nr_free_pages", "free_memory"), ("nr_file_pages", "disk_caches")):
        kib = sum(numbers[field] for field in LINUX[name].split("+"))
        assert kib * 1024 == pytest.approx(numbers[key] * PAGE, abs=2 * MIB)


def test_pressure_moves_its_counters(pressed: Guest) -> None:
    stats = updated(pressed).stats
    assert stats.oom_kills
    assert stats.alloc_stalls
    assert stats.async_scans
    assert stats.direct_scans
    assert stats.async_reclaims
    assert stats.direct_reclaims
    # Bytes, not pages: what is scanned is scanned by the page.
    assert stats.direct_scans % PAGE == 0
    assert stats.direct_scans >= stats.direct_reclaims
    assert stats.htlb_pgalloc
    assert stats.htlb_pgfail
    assert stats.swap_out
    assert stats.major_faults is not None
    assert stats.minor_faults is not None
    assert stats.minor_faults >= stats.major_faults


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """The command line."""
    with Command(tmp_path_factory.mktemp("command")) as command:
        yield command


def test_json_has_them(command: Command, pressed: Guest) -> None:
    result = command(
        "stats", "-c", pressed.hypervisor.uri, "--via", "qom", "--format", "json", "pressed"
    )
    (host,) = json.loads(result.stdout)["hosts"]
    stats: dict[str, Any] = host["domains"][0]["stats"]
    assert all(isinstance(stats[name], int) for name in PRESSURE)


def test_csv_has_them(command: Command, pressed: Guest) -> None:
    result = command(
        "list", "-c", pressed.hypervisor.uri, "--via", "qom", "--format", "csv", "pressed"
    )
    (row,) = csv.DictReader(result.stdout.splitlines())
    assert all(int(row[f"stats.{name}"]) for name in PRESSURE)


def test_columns_show_them(command: Command, pressed: Guest) -> None:
    columns = ",".join(PRESSURE)
    uri = pressed.hypervisor.uri
    result = command("list", "-c", uri, "--via", "qom", "--columns", columns, "pressed")
    heading, row = result.stdout.splitlines()
    assert "OOM KILLS" in heading
    assert "DIRECT RECLAIMS" in heading
    assert "-" not in row.split()


def test_table_says_which_figures_need_qom(command: Command, pressed: Guest) -> None:
    uri = pressed.hypervisor.uri
    through_libvirt = command("stats", "-c", uri, "pressed")
    assert "only QEMU has" in through_libvirt.stderr
    asked = command("stats", "-c", uri, "--via", "qom", "pressed")
    assert asked.stderr == ""
    cells = dict(line.split(None, 1) for line in asked.stdout.splitlines()[1:])
    assert all(cells[name] != "-" for name in PRESSURE)
    assert cells["direct_scans"].endswith("iB")
