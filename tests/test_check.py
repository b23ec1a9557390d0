"""``virtballoon check`` on real guests, one of them with a name that no guideline foresaw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import GuestFactory
from tests.lab import Guest, GuestSpec, wait_until
from tests.running import parsed, run
from virtballoon import (
    DomainReport,
    Source,
    Verdict,
    read_domain,
)

NOBODY_LISTENS = "qemu:///session?socket=/no/such/sock"

#: Quotes, and what separates figures from each other and from the rest.
NAME = "it's=a|guest"
SHOWN = "it's=a\\x7cguest"
LABEL = "it's\\x3da\\x7cguest"


@pytest.fixture(scope="module")
def guest(module_guest_factory: GuestFactory) -> Guest:
    """A guest that is polled each second."""
    return module_guest_factory(GuestSpec(NAME, period=1, memory_mib=192))


def check(guest: Guest, *words: str) -> tuple[int, str, dict[str, Any], list[str]]:
    """What the plugin came to and said: its status, status line, figures and other lines."""
    result = run(guest.hypervisor, "check", *words)
    assert result.stderr == ""
    return (result.returncode, *parsed(result.stdout))


def fresh(guest: Guest, least: int = 0, most: int = 100) -> DomainReport:
    """Wait until the guest has told that it uses so many percent."""

    def told() -> DomainReport | None:
        row = read_domain(guest.domain)
        share = row.usage.ratio
        is_so = share is not None and least <= 100 * share <= most
        return row if row.verdict is Verdict.FRESH and is_so else None

    return wait_until(told, 60, f"{guest.name} to use {least} to {most} percent")


def test_a_guest_that_needs_more_and_more(guest: Guest) -> None:
    words = ("-w", "60%", "-C", "80%", "--perfdata", "all", guest.name)
    fresh(guest, most=59)
    status, said, figures, others = check(guest, *words)
    assert status == 0
    assert said.startswith("MEMORY OK - 1 domain, at most ")
    value, unit, warning, critical, *_ = figures[f"{LABEL} used"]
    assert (float(value) < 60, unit, warning, critical) == (True, "%", "60", "80")
    # The figures are the guest's own.
    memory = guest.meminfo()
    total = memory["MemTotal"]
    used, unit, _, _, least, most = figures[f"{LABEL} used_bytes"]
    assert (unit, least, most) == ("B", "0", str(total))
    assert 0 < int(used) < total
    assert figures[f"{LABEL} age"][1] == "s"
    assert figures[f"{LABEL} major_faults"][1] == "c"
    assert others[0].startswith(f"[OK] {SHOWN}: ")
    assert others[0].endswith(" old from libvirt")

    def fill(percent: int) -> None:
        guest.hog((memory["MemAvailable"] - memory["MemTotal"] * (100 - percent) // 100) // 1024**2)

    fill(70)
    fresh(guest, 61, 79)
    status, said, *_ = check(guest, *words)
    assert (status, said.startswith(f"MEMORY WARNING - {SHOWN}: ")) == (1, True)
    # The rest has to be enough for the guest itself, or the kernel ends what holds the memory.
    fill(90)
    fresh(guest, 81)
    status, said, _, others = check(guest, *words)
    assert (status, said.startswith(f"MEMORY CRITICAL - {SHOWN}: ")) == (2, True)
    assert "% used (range 80)" in others[0]

    # As soon as nobody asks the guest any more, the same figures are worth nothing.
    guest.domain.setMemoryStatsPeriod(0)
    status, said, figures, others = check(guest, *words)
    assert (status, f"{SHOWN}: polling-off" in said) == (3, True)
    assert set(figures) == {"domains", "judged", f"{LABEL} age"}
    assert check(guest, *words, "--verdict", "polling-off=warning")[0] == 1
    assert check(guest, *words, "--age-critical", "@0:")[0] == 2
    guest.unhog()
    guest.domain.setMemoryStatsPeriod(1)
    fresh(guest, most=59)
    assert check(guest, *words)[0] == 0


def test_changes_since_the_last_run(guest: Guest, tmp_path: Path) -> None:
    # No guest of the lab has a disk or swap: that it has no major faults is what can be judged.
    words = ("-C", "~:", "--faults-warning", "@0", "--state", str(tmp_path / "state"), guest.name)

    def told(status: int) -> str | None:
        code, _, _, others = check(guest, *words)
        return others[0] if code == status else None

    fresh(guest)
    status, said, _, others = check(guest, *words)
    assert (status, said.endswith(", no rates yet")) == (0, True)
    assert others[1].startswith("No former readings")
    line = wait_until(lambda: told(1), 60, "a reading to compare with the first")
    assert "0.0 major faults/s (range @0)" in line
    assert "rates over " in line
    # The counters of a restarted guest start again.
    guest.domain.destroy()
    assert check(guest, *words)[0] == 3
    guest.domain.create()
    guest.wait_booted()
    fresh(guest)
    line = told(0) or ""
    assert "no rates: restarted" in line
    assert wait_until(lambda: told(1), 60, "a reading to compare with the restart")


def test_value_that_libvirt_does_not_report_is_unknown(guest: Guest, tmp_path: Path) -> None:
    fresh(guest)
    status, said, *_ = check(
        guest, "-C", "~:", "--oom-critical", "0", "--state", str(tmp_path / "state"), guest.name
    )
    assert status == 3
    assert "its OOM kills are unknown" in said


def test_a_process_that_was_killed_since_the_last_run(
    newest_guest_factory: GuestFactory, tmp_path: Path
) -> None:
    guest = newest_guest_factory(GuestSpec("short of memory", period=1))
    state = ("--state", str(tmp_path / "state"))
    words = ("--via", "qom", "-C", "~:", "--oom-critical", "0", *state, guest.name)
    pressure = ("--via", "qom", "--pressure", "--state", str(tmp_path / "other"), guest.name)
    fresh(guest)
    assert (check(guest, *words)[0], check(guest, *pressure)[0]) == (0, 0)
    guest.run("tail /dev/zero >/dev/null", check=False)
    killed = guest.vmstat()["oom_kill"]
    assert killed
    wait_until(
        lambda: read_domain(guest.domain, via=Source.QOM).stats.oom_kills == killed,
        60,
        "QEMU to hear of it",
    )
    status, said, *_ = check(guest, *words)
    kills = "1 OOM kill" if killed == 1 else f"{killed} OOM kills"
    assert (status, said) == (2, f"MEMORY CRITICAL - short of memory: {kills}")
    assert check(guest, *pressure)[0] == 1
    after = fresh(guest).last_update
    wait_until(lambda: fresh(guest).last_update != after, 60, "newer figures")
    assert check(guest, *words)[0] == 0


def test_guest_that_hangs_is_unknown(guest_factory: GuestFactory) -> None:
    """Its QEMU still answers, and has the figures of before."""
    guest = guest_factory(GuestSpec("crashed", period=1))
    guest.wait_booted()
    fresh(guest)
    guest.run("(sleep 0.2; echo c >/proc/sysrq-trigger) >/dev/null 2>&1 &")
    wait_until(lambda: read_domain(guest.domain).verdict is Verdict.STALE, 60, "it to be stale")
    status, said, figures, _ = check(guest, guest.name)
    assert (status, said.startswith("MEMORY UNKNOWN - crashed: stale, ")) == (3, True)
    assert "crashed used" not in figures
    assert check(guest, guest.name, "--verdict", "stale=critical")[0] == 2


def test_hung_guest_and_dead_host_hide_no_other_row(
    guest: Guest, guest_factory: GuestFactory
) -> None:
    hung = guest_factory(GuestSpec("hung", paused=True, period=1))
    hosts = ("-c", guest.hypervisor.uri, "-c", NOBODY_LISTENS)
    words = ("--timeout", "3", "--verdict", "unreachable=warning", *hosts, guest.name, "hung")
    fresh(guest)
    hung.stop_process()
    try:
        status, said, figures, others = check(guest, *words)
    finally:
        hung.cont_process()
    # The warning is worse than what is not known.
    assert (status, said.startswith("MEMORY WARNING - on qemu:")) == (1, True)
    assert NOBODY_LISTENS in others[0]
    assert next(line for line in others if "hung: busy: " in line).startswith("[UNKNOWN] ")
    assert [line for line in others if line.startswith("[OK] ") and SHOWN in line]
    assert [label for label in figures if label.endswith(f"/{LABEL} used")]
