"""Figures no older than wanted, of real guests: who is asked, and that all is put back."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.conftest import started
from tests.lab import Guest, GuestSpec, Hypervisor, wait_until
from tests.running import COMMAND, in_qemu, in_xml, run, set_in_qemu
from virtballoon import (
    DomainReport,
    ReadOnly,
    Refresh,
    Source,
    Unheard,
    Verdict,
    read_fresh,
    read_hosts,
)

#: An interval of which nothing comes by itself while a test runs.
HOUR = 3600


@pytest.fixture(scope="module")
def kinds(hypervisor: Hypervisor) -> Iterator[dict[str, Guest]]:
    """Guests of every kind."""
    guests = hypervisor.boot(
        [
            GuestSpec("old-off"),
            GuestSpec("old-slow", period=HOUR),
            GuestSpec("old-quick", period=1),
            GuestSpec("old-mute", driver=False),
            GuestSpec("old-paused", period=5, paused=True),
            GuestSpec("old-shut", start=False),
            GuestSpec("old-bare", model="none", paused=True),
        ]
    )
    yield guests
    for guest in guests.values():
        hypervisor.remove(guest)


def fresh(kinds: dict[str, Guest], *names: str, **options: object) -> dict[str, DomainReport]:
    host = read_fresh(kinds["old-off"].hypervisor.uri, names, **options)  # type: ignore[arg-type]
    assert host.error is None
    return {row.name: row for row in host.domains}


def refresh(row: DomainReport) -> Refresh:
    assert row.refresh is not None
    return row.refresh


def last_update(guest: Guest) -> int:
    return int(guest.domain.memoryStats()["last_update"])


def is_as_it_was(guest: Guest) -> bool:
    period = guest.spec.period or 0
    return in_xml(guest) == period == in_qemu(guest) == in_xml(guest, "--inactive")


@pytest.mark.parametrize("via", Source)
@pytest.mark.parametrize("name", ["old-off", "old-slow"])
def test_a_guest_that_would_not_answer_is_asked(
    kinds: dict[str, Guest], name: str, via: Source
) -> None:
    guest = kinds[name]
    # The second time, the first answer may be of the same second as the last one.
    for _ in range(2):
        before = last_update(guest)
        row = fresh(kinds, name, max_age=0, via=via)[name]
        assert refresh(row).fresh is True
        assert (refresh(row).asked, refresh(row).restored) == (True, True)
        assert last_update(guest) > before
    # It is polled each second until it is restored, so another update may have come since.
    assert before < (row.last_update or 0) <= last_update(guest)
    assert row.interval.in_force == (guest.spec.period or 0)
    assert row.verdict is (Verdict.FRESH if guest.spec.period else Verdict.POLLING_OFF)
    assert is_as_it_was(guest)


def test_guest_polled_without_libvirts_knowledge_is_not_changed(kinds: dict[str, Guest]) -> None:
    guest = kinds["old-off"]
    before = last_update(guest)
    set_in_qemu(guest, 2)
    try:
        wait_until(lambda: last_update(guest) > before, 60, "an answer")
        before = last_update(guest)
        row = fresh(kinds, "old-off", max_age=0)["old-off"]
        assert (refresh(row).fresh, refresh(row).asked, refresh(row).restored) == (
            True,
            False,
            None,
        )
        assert (row.last_update or 0) > before
        assert (in_xml(guest), in_qemu(guest)) == (0, 2)
    finally:
        set_in_qemu(guest, 0)
    assert is_as_it_was(guest)


def test_only_domains_that_need_it_are_changed(kinds: dict[str, Guest]) -> None:
    # One that is polled answers by itself.
    words = ("stats", "-v", "old-quick", "--fresh", "--format", "json")
    result = run(kinds["old-off"].hypervisor, *words)
    assert result.returncode == 0
    assert "setMemoryStatsPeriod" not in result.stderr
    (domain,) = json.loads(result.stdout)["hosts"][0]["domains"]
    assert domain["refresh"]["asked"] is False


def test_reasons_why_figures_are_not_fresh(kinds: dict[str, Guest]) -> None:
    for name in ("old-off", "old-slow"):
        wait_until(lambda: time.time() - last_update(kinds[name]) > 6, 60, "figures to grow old")  # noqa: B023
    words = ("stats", *kinds, "--fresh", "--timeout", "4", "--format", "json")
    result = run(kinds["old-off"].hypervisor, *words)
    domains = json.loads(result.stdout)["hosts"][0]["domains"]
    found = {domain["name"]: domain["refresh"] for domain in domains}
    assert {name: (r["fresh"], r["reason"], r["restored"]) for name, r in found.items()} == {
        "old-off": (True, None, True),
        "old-slow": (True, None, True),
        "old-quick": (True, None, None),
        "old-mute": (False, "no-answer", True),
        "old-paused": (False, "suspended", None),
        "old-shut": (None, "shutoff", None),
        "old-bare": (None, "no-device", None),
    }
    assert result.returncode == 3
    assert "old-mute" in result.stderr
    assert len(result.stderr.splitlines()) == 2
    for name in ("old-off", "old-slow", "old-quick", "old-mute"):
        assert is_as_it_was(kinds[name]), name


def test_a_connection_that_may_not_write(kinds: dict[str, Guest]) -> None:
    import libvirt

    connection = libvirt.openReadOnly(kinds["old-off"].hypervisor.uri)
    rows = read_fresh(connection, ["old-off", "old-quick"], max_age=0).domains
    off, quick = rows
    assert isinstance(refresh(off).error, ReadOnly)
    assert (refresh(off).fresh, refresh(off).restored) == (False, None)
    assert refresh(quick).fresh is True
    assert connection.isAlive()


@contextmanager
def asking(guest: Guest) -> Iterator[subprocess.Popen[str]]:
    """The command while it waits for a guest whose interval is another one meanwhile."""
    words = ["stats", guest.name, "--fresh", "--timeout", "600"]
    with subprocess.Popen(
        [str(COMMAND), "-c", guest.hypervisor.uri, *words],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            wait_until(lambda: in_xml(guest) == 1, 60, "the guest to be asked")
            yield process
        finally:
            # Where a test has failed, it would wait for long.
            process.kill()


@pytest.mark.parametrize(
    ("number", "status", "word"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, -signal.SIGTERM, "terminated"),
        (signal.SIGHUP, -signal.SIGHUP, "hung up"),
    ],
)
def test_all_is_put_back_when_interrupted(
    kinds: dict[str, Guest], number: int, status: int, word: str
) -> None:
    guest = kinds["old-mute"]
    with asking(guest) as process:
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (status, f"virtballoon: {word}\n")
    assert is_as_it_was(guest)


def test_all_is_put_back_when_a_library_caller_is_interrupted(kinds: dict[str, Guest]) -> None:
    guest = kinds["old-mute"]

    def stop(_other: object) -> None:
        wait_until(lambda: in_xml(guest) == 1, 60, "the guest to be asked")
        raise KeyboardInterrupt

    targets = ["test:///default", guest.hypervisor.uri]
    with pytest.raises(KeyboardInterrupt):
        read_hosts(targets, ["old-mute"], max_age=0, timeout=600, on_result=stop)
    assert is_as_it_was(guest)


def test_change_by_another_client_is_kept(kinds: dict[str, Guest]) -> None:
    guest = kinds["old-mute"]

    def set_it(_uri: str, names: object) -> None:
        if names:
            guest.domain.setMemoryStatsPeriod(7, 0)

    row = fresh(kinds, "old-mute", max_age=0, timeout=2, on_waiting=set_it)["old-mute"]
    assert refresh(row).restored is True
    assert in_xml(guest) == 7
    guest.domain.setMemoryStatsPeriod(0, 0)


def test_rates_of_a_guest_that_is_not_polled(kinds: dict[str, Guest]) -> None:
    guest = kinds["old-off"]
    words = ("stats", "old-off", "--format", "jsonl", "--rates", "3")
    rates = json.loads(run(guest.hypervisor, *words).stdout)["rates"]
    assert rates["reason"] == "not-updated"
    result = run(guest.hypervisor, *words, "--fresh")
    record = json.loads(result.stdout)
    assert (result.returncode, record["rates"]["reason"]) == (0, None)
    assert record["refresh"]["fresh"] is True
    assert record["rates"]["per_second"]["minor_faults"] is not None
    assert is_as_it_was(guest)


@pytest.fixture
def alone() -> Iterator[Hypervisor]:
    """A hypervisor of a test's own, whose guests may hang."""
    with started() as hypervisor:
        yield hypervisor


def test_unrestored_interval_is_reported(alone: Hypervisor) -> None:
    """Of a guest that begins to hang while it is asked. A daemon that is started anew meanwhile is
    no reason."""
    guests = alone.boot([GuestSpec("hangs", driver=False), GuestSpec("lost", driver=False)])

    def hang(_uri: str, names: list[str]) -> None:
        if names:
            guests["hangs"].stop_process()

    (row,) = read_fresh(alone.uri, ["hangs"], max_age=0, timeout=2, on_waiting=hang).domains  # type: ignore[arg-type]
    assert (refresh(row).fresh, refresh(row).restored) == (False, False)
    assert refresh(row).reason is Unheard.BUSY
    error = str(refresh(row).error)
    command = shlex.split(error.partition("to do so: ")[2].rstrip(")"))
    guests["hangs"].cont_process()
    wait_until(guests["hangs"].domain.memoryStats, 60, "it to go on")
    assert in_xml(guests["hangs"]) == 1
    subprocess.run([COMMAND, *command[1:]], check=True, capture_output=True)
    assert in_xml(guests["hangs"]) == 0

    # The second time, it ends at once.
    with asking(guests["hangs"]) as process:
        guests["hangs"].stop_process()
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert process.stderr.readline() == "virtballoon: interrupted\n"
        process.send_signal(signal.SIGINT)
        lines = process.stderr.read().splitlines()
    assert process.returncode == 130
    assert error.partition(": its ")[2] in lines[-1]
    guests["hangs"].cont_process()

    begun: list[object] = []

    def restart(_uri: str, names: object) -> None:
        if names and not begun:
            begun.append(names)
            alone.restart_daemon()

    (row,) = read_fresh(alone.uri, ["lost"], max_age=0, timeout=4, on_waiting=restart).domains
    assert refresh(row).restored is True
    assert in_xml(guests["lost"]) == 0 == in_qemu(guests["lost"])
