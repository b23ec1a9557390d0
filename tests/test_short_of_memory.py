"""A real guest that is full and well, and the same one short of memory, by each command."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab import Guest, GuestSpec, wait_until
from tests.unit.command import Command

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import GuestFactory

pytestmark = pytest.mark.once

MIB = 1024**2
#: Reads again and again more memory than the guest has, until it is killed.
HOG = (
    'awk \'BEGIN { for (; i < 60000; i++) a[i] = sprintf("%4000d", i);'
    " for (;;) for (i = 0; i < 60000; i++) n += length(a[i]) }' >/dev/null 2>&1 &"
)


@pytest.fixture(scope="module")
def guest(module_guest_factory: GuestFactory) -> Guest:
    """A guest with room to swap. Its kernel's own caches, some 8 MiB, are less than 5 % of it."""
    return module_guest_factory(GuestSpec("swapping", period=1, memory_mib=256, swap_mib=128))


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    """The command line."""
    with Command(tmp_path) as command:
        yield command


def checked(command: Command, guest: Guest, state: Path) -> tuple[int, dict[str, Any]]:
    """The exit status of a check, and what it judged."""
    words = ("-c", guest.hypervisor.uri, "--pressure", "--state", str(state), "--format", "json")
    result = command("check", *words, guest.name)
    (host,) = json.loads(result.stdout)["hosts"]
    return result.status, host["domains"][0]


def findings(command: Command, guest: Guest) -> list[str] | None:
    """What the doctor finds; None where the guest was not updated while it was watched."""
    words = ("-c", guest.hypervisor.uri, "--format", "json", guest.name)
    (host,) = json.loads(command("doctor", *words).stdout)["hosts"]
    found = [each["cause"] for each in host["domains"][0]["findings"]]
    return None if "low-memory" in found else found


def test_full_and_well_then_short_of_memory(command: Command, guest: Guest, tmp_path: Path) -> None:
    # Little is left, and nothing asks for more.
    memory = guest.meminfo()
    left = memory["MemAvailable"] - memory["MemTotal"] * 2 // 100
    guest.run(f"dd if=/dev/zero of=/hog/fill bs=1M count={left // MIB}", timeout=120)
    state = tmp_path / "state"

    def is_judged(status: int, value: float, *, least: float) -> bool:
        returned, row = checked(command, guest, state)
        measures = {each["measure"]: each["value"] for each in row["check"]["measures"]}
        return (
            (returned, measures.get("pressure")) == (status, value)
            and (row["used_ratio"] or 0) > least
            # A shortage and its end take some updates.
            and row["rates"]["reason"] is None
        )

    wait_until(lambda: is_judged(0, 0, least=0.95), 120, "a full guest that is well")
    wait_until(lambda: findings(command, guest) == [], 60, "a doctor that finds nothing")

    guest.run("rm /hog/fill")
    guest.run(HOG)
    try:
        wait_until(lambda: is_judged(1, 1, least=0.95), 180, "a guest that is short of memory")
        expected = ["short-of-memory"]
        wait_until(lambda: findings(command, guest) == expected, 120, "a doctor that finds it")
    finally:
        guest.run("killall awk", timeout=180, check=False)
    wait_until(lambda: is_judged(0, 0, least=0), 120, "a guest that is well again")
