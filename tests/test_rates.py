"""Rates of a real guest: what it did, and that a reset or a start is no negative rate."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest

from tests.conftest import GuestFactory
from tests.lab import Guest, GuestSpec, wait_until
from tests.running import run
from virtballoon import (
    DomainReport,
    NoRate,
    Sample,
    Source,
    read_domain,
)

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def busy(module_guest_factory: GuestFactory) -> Guest:
    """A guest that is polled each second."""
    module_guest_factory(GuestSpec("idle", start=False))
    guest = module_guest_factory(GuestSpec("busy", period=1))
    read_later(guest, None)
    return guest


def read_later(guest: Guest, earlier: Sample | None, via: Source = Source.LIBVIRT) -> DomainReport:
    """A reading of figures that the guest gave after those."""
    before = earlier.last_update if earlier is not None else None

    def read() -> DomainReport | None:
        row = read_domain(guest.domain, via=via)
        return row if row.last_update not in {None, before} else None

    return wait_until(read, 60, f"newer figures of {guest.name}")


def test_what_a_guest_does_between_two_readings(busy: Guest) -> None:
    via = Source.QOM
    earlier = read_domain(busy.domain, via=via).sample
    # Each program that starts has some hundred minor faults; one that asks for more than there is
    # is killed.
    busy.run("for i in 1 2 3 4 5; do ls / >/dev/null; done; tail /dev/zero >/dev/null", check=False)
    # What was already asked for while it did that does not count.
    row = read_later(busy, read_later(busy, earlier, via).sample, via).since(earlier)
    assert row.rates is not None
    assert row.rates.reason is None
    assert earlier.last_update is not None
    assert row.rates.elapsed_seconds == (row.last_update or 0) - earlier.last_update
    gained = (row.stats.minor_faults or 0) - (earlier.stats.minor_faults or 0)
    assert gained > 500
    assert row.rates.per_second["minor_faults"] == gained / row.rates.elapsed_seconds
    assert row.rates.per_second["swap_in"] == 0.0
    if row.stats.oom_kills is not None:
        assert row.rates.oom_kills == 1
        assert (row.rates.per_second["alloc_stalls"] or 0) > 0


def test_record_keeps_what_is_between_two_readings(busy: Guest, tmp_path: Path) -> None:
    store = ("--store", str(tmp_path / "history.db"))
    hypervisor = busy.hypervisor
    for _ in range(2):
        row = read_later(busy, read_domain(busy.domain).sample)
        result = run(hypervisor, "record", *store, busy.name)
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    days = [
        json.loads(line)
        for line in run(hypervisor, "record", "--export", *store).stdout.splitlines()
    ]
    assert {(day["uuid"], day["name"]) for day in days} == {(row.uuid, busy.name)}
    assert sum(day.get("covered_seconds", 0) for day in days) >= 1
    assert any("minor_faults" in day.get("gains", {}) for day in days)
    assert days[-1]["latest"]["current_bytes"] == row.figures.current_bytes
    assert days[-1]["peak"]["value"] > 0
    # The lines of list have the same figures, and are no newer.
    lines = tmp_path / "lines"
    lines.write_text(run(hypervisor, "list", "--format", "jsonl", busy.name).stdout)
    imported = run(hypervisor, "record", *store, "--import", str(lines))
    assert re.search(r"[01] samples added; [01] are no newer", imported.stderr)


def test_the_command_reads_twice(busy: Guest) -> None:
    words = ("stats", "busy", "idle", "--rates", "4")
    busy.run("while sleep 0.1; do :; done >/dev/null 2>&1 &")
    result = run(busy.hypervisor, *words, "--format", "json")
    assert result.returncode == 0
    domains = json.loads(result.stdout)["hosts"][0]["domains"]
    found = {domain["name"]: domain["rates"] for domain in domains}
    assert found["busy"]["reason"] is None
    assert found["busy"]["elapsed_seconds"] >= 1
    assert found["busy"]["per_second"]["minor_faults"] > 1
    assert found["idle"]["reason"] == "no-figures"
    text = run(busy.hypervisor, "stats", "idle", "--rates", "0.01", "--format", "csv").stdout
    (row,) = csv.DictReader(io.StringIO(text))
    assert (row["rates.reason"], row["rates.per_second.minor_faults"]) == ("no-figures", "")
    assert "no rates: " in run(busy.hypervisor, "stats", "idle", "--rates", "0.01").stdout
    assert run(busy.hypervisor, "stats", "busy", "--rates", "0").returncode == 2


def test_guest_without_update_or_restarted(busy: Guest) -> None:
    busy.domain.suspend()
    first = read_domain(busy.domain)
    again = read_domain(busy.domain).since(first.sample)
    assert again.rates is not None
    assert again.rates.reason is NoRate.NOT_UPDATED
    busy.domain.resume()
    # More than a boot alone has.
    busy.run("i=0; while [ $i -lt 60 ]; do i=$((i + 1)); ls / >/dev/null; done")
    before = read_later(busy, read_later(busy, first.sample).sample).sample

    busy.domain.reset()
    row = read_domain(busy.domain)
    while row.figures.last_update == before.last_update:
        # QEMU 7.2 shows the old figures until the guest answers.
        row = read_later(busy, before)
    reset = row.since(before)
    assert reset.rates is not None
    assert (reset.id, reset.rates.reason) == (before.id, NoRate.RESET)

    busy.domain.destroy()
    gone = read_domain(busy.domain).since(before)
    assert gone.rates is not None
    assert gone.rates.reason is NoRate.NO_FIGURES
    busy.domain.create()
    started = read_later(busy, before).since(before)
    assert started.rates is not None
    assert started.rates.reason is NoRate.RESTARTED
