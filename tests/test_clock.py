"""A host whose clock differs from this machine's, by real guests whose QEMU has another clock.

QEMU's clock is the one that gives a last update its time. Monotonic time is left alone.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import available, cannot_run
from tests.lab import Guest, GuestSpec, Hypervisor, Link, wait_until
from tests.running import exporting, run
from tests.unit.builders import VALIDATOR
from virtballoon import DomainReport, Verdict, read_domain, read_fresh

pytestmark = pytest.mark.once

#: The clock of the QEMUs minus this machine's, in seconds.
OFFSETS = (-90, 90)


def emulator(hypervisor: Hypervisor, usual: str, offset: int) -> Path:
    """A QEMU whose clock differs from this machine's by this."""
    libraries = list(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not libraries:
        cannot_run("no libfaketime here")
    path = hypervisor.directory / f"clock{offset:+}"
    words = ["env", f"LD_PRELOAD={libraries[0]}", f"FAKETIME={offset:+}"]
    words += ["FAKETIME_DONT_FAKE_MONOTONIC=1", usual]
    path.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    path.chmod(0o755)
    return path


def with_clock(guest: Guest, offset: int) -> Guest:
    """Start the guest with another clock."""
    xml = guest.domain.XMLDesc(0)
    usual = re.search(r"<emulator>(.*)</emulator>", xml)
    assert usual is not None
    other = emulator(guest.hypervisor, usual[1], offset)
    guest.hypervisor.connection.defineXML(xml.replace(usual[1], str(other)))
    guest.domain.create()
    guest.wait_booted()
    return guest


def answered(guest: Guest) -> DomainReport:
    """Wait until the guest has given figures."""

    def read() -> DomainReport | None:
        row = read_domain(guest.domain)
        return row if row.last_update is not None and row.usage.used_bytes is not None else None

    return wait_until(read, 60, f"the figures of {guest.name}")


@pytest.fixture(scope="module", params=OFFSETS, ids=["behind", "ahead"])
def offset(request: pytest.FixtureRequest) -> int:
    """The host's clock minus this machine's."""
    return int(request.param)


@pytest.fixture(scope="module")
def alone(offset: int) -> Iterator[Hypervisor]:
    """A hypervisor of its own: all guests of a host have the same clock."""
    with available(Hypervisor()) as hypervisor:
        yield hypervisor


def add(hypervisor: Hypervisor, name: str, offset: int) -> Guest:
    """A guest that is polled each second, once it has answered."""
    guest = with_clock(hypervisor.add(GuestSpec(name, period=1, start=False)), offset)
    answered(guest)
    return guest


@pytest.fixture(scope="module")
def polled(alone: Hypervisor, offset: int) -> list[Guest]:
    """Two such guests of a host with this offset."""
    return [add(alone, name, offset) for name in ("clock0", "clock1")]


@pytest.fixture(scope="module")
def remote(alone: Hypervisor) -> Iterator[str]:
    """The hypervisor by a URI that names a host."""
    with Link(alone.socket) as link:
        yield link.uris[0]


def read(uri: str, guests: list[Guest], *words: str) -> tuple[dict[str, Any], str]:
    """What a command that prints JSON says of the host, and its stderr."""
    names = [guest.name for guest in guests]
    command = [words[0], "-c", uri, *words[1:], "--format", "json", *names]
    result = run(guests[0].hypervisor, *command)
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    VALIDATOR.validate(document)
    (host,) = document["hosts"]
    return host, result.stderr


def test_one_look_at_a_remote_host(polled: list[Guest], remote: str, offset: int) -> None:
    host, err = read(remote, polled, "list")

    assert host["clock_offset_seconds"] == pytest.approx(offset, abs=6)
    for domain in host["domains"]:
        assert domain["verdict"] == "fresh"
        assert "update-in-future" not in json.dumps(domain)
        assert 0 <= domain["age_seconds"] < 7
    direction = "ahead of" if offset > 0 else "behind"
    assert err.count("the clock of ") == 1
    assert f"s {direction} this machine's" in err


def test_the_low_memory_alert_is_not_lost(polled: list[Guest], remote: str) -> None:
    words = ["check", "-c", remote, *(guest.name for guest in polled)]
    hypervisor = polled[0].hypervisor
    full = run(hypervisor, *words, "-w", "1", "-C", "2")
    assert full.returncode == 2, full.stdout
    assert "the clock of " in full.stdout

    assert run(hypervisor, *words, "-w", "99", "-C", "100").returncode == 1
    quiet = run(hypervisor, *words, "-w", "99", "-C", "100", "--verdict", "clock=ok")
    assert quiet.returncode == 0, quiet.stdout


def test_new_figures_are_judged_by_movement(polled: list[Guest], offset: int) -> None:
    """A single domain, and a URI that names no host."""
    guest = polled[0]
    host = read_fresh(guest.hypervisor.uri, [guest.name], max_age=0)
    (domain,) = host.domains

    assert domain.verdict is Verdict.FRESH
    assert domain.refresh is not None
    assert domain.refresh.fresh
    assert host.clock is not None
    assert host.clock.seconds == pytest.approx(offset, abs=4)
    assert domain.age_seconds is not None
    assert -1 <= domain.age_seconds < 7


def test_a_served_export_judges_by_movement(polled: list[Guest], offset: int) -> None:
    with exporting("-c", polled[0].hypervisor.uri) as exporter:
        offsets = wait_until(
            lambda: exporter.scrape().get("virtballoon_host_clock_offset_seconds"),
            60,
            "a last update that has moved between two scrapes",
        )
        verdicts = exporter.verdicts()
    assert [value for _, value in offsets] == [pytest.approx(offset, abs=4)]
    assert verdicts == dict.fromkeys((guest.name for guest in polled), "fresh")


def test_a_guest_that_stopped_answering_among_others(
    polled: list[Guest], remote: str, offset: int
) -> None:
    """It is late by more than the clock."""
    stopped = add(polled[0].hypervisor, "stopped", offset)
    stopped.unload_driver()

    def is_old() -> bool:
        row = read_domain(stopped.domain)
        return row.read_at + offset - (row.last_update or 0) > 20

    wait_until(is_old, 60, "its figures to age")
    host, _ = read(remote, [*polled, stopped], "list")

    assert [domain["verdict"] for domain in host["domains"]] == ["fresh", "fresh", "stale"]
