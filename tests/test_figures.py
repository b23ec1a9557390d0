"""The balloon in a guest's total, memory hotplug, saved images, and what libvirt does not give."""

from __future__ import annotations

import json
import re

import libvirt
import pytest

from tests.conftest import GuestFactory
from tests.lab import Guest, GuestSpec, wait_until
from tests.running import run
from tests.unit.builders import VALIDATOR
from virtballoon import (
    DomainReport,
    IntervalRequest,
    LibvirtFailure,
    NotSupported,
    Source,
    UsedFormula,
    Verdict,
    read_host,
    set_intervals,
)

KIB, MIB, GIB = 1024, 1024**2, 1024**3
TOTAL_AVAILABLE = UsedFormula.TOTAL_AVAILABLE
DIMM = """
<memory model='dimm'><target><size unit='MiB'>128</size><node>0</node></target></memory>
"""
VIRTIO_MEM = """
<memory model='virtio-mem'><target><size unit='MiB'>512</size><node>0</node>
<block unit='MiB'>2</block><requested unit='MiB'>256</requested></target></memory>
"""


def read(guest: Guest, via: Source = Source.LIBVIRT) -> DomainReport:
    (row,) = read_host(guest.hypervisor.uri, [guest.name], via=via).domains
    return row


def settled(guest: Guest, current_bytes: int) -> DomainReport:
    """The guest's row, once an update is newer than this size of its balloon."""

    def has_size() -> bool:
        return read(guest).figures.current_bytes == current_bytes

    def row() -> DomainReport | None:
        found = read(guest)
        is_newer = found.last_update is not None and found.last_update > sized_at + 1
        return found if found.verdict is Verdict.FRESH and is_newer else None

    wait_until(has_size, 60, f"a balloon that leaves {current_bytes}")
    sized_at = read(guest).last_update or 0
    return wait_until(row, 60, "two further updates")


def resize(guest: Guest, mib: int) -> DomainReport:
    guest.domain.setMemoryFlags(mib * MIB // KIB, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    return settled(guest, mib * MIB)


def in_use(guest: Guest) -> int:
    """What the guest itself says it uses, a balloon that it counts as its memory included."""
    memory = guest.meminfo()
    return memory["MemTotal"] - memory["MemAvailable"]


def plug(guest: Guest, device: str, current_mib: int) -> DomainReport:
    guest.run("echo online >/sys/devices/system/memory/auto_online_blocks")
    guest.domain.attachDeviceFlags(device, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    return settled(guest, current_mib * MIB)


def test_balloon_in_the_total_with_autodeflate(guest_factory: GuestFactory) -> None:
    guest = guest_factory(GuestSpec("deflating", period=1, memory_mib=256, autodeflate=True))
    before = settled(guest, 256 * MIB)
    assert before.usage.formula is TOTAL_AVAILABLE
    assert before.usage.used_bytes == pytest.approx(in_use(guest), abs=8 * MIB)

    full = resize(guest, 96)
    assert (full.figures.ballooned_bytes, full.stats.total_memory) == (
        160 * MIB,
        before.stats.total_memory,
    )
    assert full.usage.formula is UsedFormula.TOTAL_AVAILABLE_BALLOON
    assert full.usage.used_bytes == pytest.approx(in_use(guest) - 160 * MIB, abs=8 * MIB)
    assert full.usage.total_bytes == guest.meminfo()["MemTotal"] - 160 * MIB
    assert read(guest, Source.QOM).usage.formula is UsedFormula.TOTAL_AVAILABLE_BALLOON
    # What counted the balloon as used was 83 %.
    result = run(guest.hypervisor, "check", "-w", "70", guest.name)
    assert result.returncode == 0, result.stdout
    (host,) = json.loads(run(guest.hypervisor, "list", guest.name, "--format", "json").stdout)[
        "hosts"
    ]
    assert host["domains"][0]["ballooned_bytes"] == 160 * MIB
    text = run(guest.hypervisor, "export", "--compat", "libvirt-exporter").stdout
    (percent,) = re.findall(rf'used_percent{{.*domain="{guest.name}".*}} (\S+)', text)
    assert 30 < float(percent) < 70

    after = resize(guest, 256)
    assert (after.figures.ballooned_bytes, after.usage.formula) == (0, TOTAL_AVAILABLE)
    assert after.usage.used_bytes == pytest.approx(in_use(guest), abs=8 * MIB)


def test_balloon_that_the_guest_subtracts_itself(guest_factory: GuestFactory) -> None:
    guest = guest_factory(GuestSpec("subtracting", period=1, memory_mib=160))
    settled(guest, 160 * MIB)
    for mib in (100, 160):
        row = resize(guest, mib)
        assert (row.figures.ballooned_bytes, row.usage.formula) == (
            (160 - mib) * MIB,
            TOTAL_AVAILABLE,
        )
        assert row.usage.used_bytes == pytest.approx(in_use(guest), abs=8 * MIB)


def test_dimm(guest_factory: GuestFactory) -> None:
    guest = guest_factory(GuestSpec("dimm", period=1, memory_mib=160, hotplug=True))
    before = settled(guest, 160 * MIB).stats.total_memory
    row = plug(guest, DIMM, 288)
    assert (row.figures.maximum_bytes, row.figures.ballooned_bytes) == (288 * MIB, 0)
    assert before is not None
    assert row.stats.total_memory == before + 128 * MIB
    assert row.usage.formula is TOTAL_AVAILABLE
    row = resize(guest, 200)
    assert (row.figures.ballooned_bytes, row.usage.formula) == (88 * MIB, TOTAL_AVAILABLE)


def test_virtio_mem(guest_factory: GuestFactory) -> None:
    guest = guest_factory(
        GuestSpec("plugging", period=1, memory_mib=160, hotplug=True, autodeflate=True)
    )
    if not guest.run("cat /etc/memory").stdout.strip():
        pytest.skip("the guest kernel has no virtio_mem: run tests/lab/setup")
    guest.run("load_modules memory")
    settled(guest, 160 * MIB)
    row = plug(guest, VIRTIO_MEM, 416)
    # Half of the device is not plugged; the balloon is empty.
    assert row.figures.maximum_bytes == 672 * MIB
    assert (row.figures.ballooned_bytes, row.figures.unplugged_bytes) == (256 * MIB, 256 * MIB)
    assert row.usage.formula is TOTAL_AVAILABLE
    used = row.usage.used_bytes
    # QEMU's balloon does not know of the device: 120 of 160 MiB are in the balloon.
    guest.domain.setMemoryFlags(40 * KIB, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    row = settled(guest, 296 * MIB)
    assert row.usage.formula is UsedFormula.TOTAL_AVAILABLE_BALLOON
    assert row.usage.used_bytes == pytest.approx(used, abs=16 * MIB)


def test_windows_with_a_full_balloon_does_not_alarm(guest_factory: GuestFactory) -> None:
    """Windows keeps the balloon in its total. The kernel uses little of the 16 GiB."""
    guest = guest_factory(
        GuestSpec("windows", period=1, memory_mib=16 * 1024, lies=True, cmdline="mem=256M")
    )
    guest.lie(
        {"total-memory": 16776000 * KIB, "available-memory": 700000 * KIB},
        balloon_bytes=12 * GIB,
    )
    row = settled(guest, 4 * GIB)
    assert row.figures.ballooned_bytes == 12 * GIB
    assert row.usage.used_bytes == (16776000 - 700000) * KIB - 12 * GIB
    assert row.usage.percent == pytest.approx(83.3, abs=0.1)
    result = run(guest.hypervisor, "check", guest.name)
    assert result.returncode == 0, result.stdout
    assert "83.3%" in result.stdout


def test_domain_that_does_not_run_uses_nothing(guests: dict[str, Guest]) -> None:
    off = guests["off"]
    bulk = off.hypervisor.connection.domainListGetStats([off.domain])[0][1]
    assert bulk["balloon.current"] == 128 * KIB
    row = read(off)
    assert (row.figures.maximum_bytes, row.figures.current_bytes) == (128 * MIB, None)
    assert row.figures.ballooned_bytes is None
    exported = run(off.hypervisor, "export", "--all", "--compat", "libvirt-exporter").stdout
    text = "\n".join(line for line in exported.splitlines() if 'domain="off"' in line)
    for word in ("current", "actual_balloon", "usage", "rss", "ballooned", "used", "age"):
        assert not re.search(rf"{word}_(bytes|seconds|ratio){{", text), word
    assert re.search(r"domain_maximum_bytes{.*} 1.34217728e\+08", text)


def test_interval_of_a_saved_image(guest_factory: GuestFactory) -> None:
    guest = guest_factory(GuestSpec("saved", period=3))
    guest.domain.setMemoryStatsPeriod(7, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    guest.domain.managedSave(0)
    row = read(guest)
    assert (row.verdict, row.interval.config, row.interval.saved) == (Verdict.SHUTOFF, 3, 7)
    assert row.interval.in_force == 7
    result = run(guest.hypervisor, "set-interval", "9", guest.name, "--format", "json")
    document = json.loads(result.stdout)
    VALIDATOR.validate(document)
    (change,) = document["hosts"][0]["domains"]
    assert (change["outcome"], change["after"]["config"]) == ("changed", 9)
    assert (change["after"]["saved"], result.returncode) == (7, 0)
    assert "starts from its saved image, which has the interval 7" in result.stderr
    assert "managedsave-remove" in result.stderr
    guest.domain.create()
    assert (read(guest).interval.live, read(guest).interval.saved) == (7, None)


def test_libvirt_does_not_find_the_balloon(guest_factory: GuestFactory) -> None:
    """QEMU's device is not of the XML's model, as after some migrations."""
    guest = guest_factory(
        GuestSpec("hidden", period=1, balloon_driver="virtio-balloon-pci-non-transitional")
    )
    row = read(guest)
    assert row.figures.current_bytes == 128 * MIB
    assert (row.verdict, type(row.error)) == (Verdict.FAILED, NotSupported)
    assert row.error is not None
    assert row.error.hint is not None
    assert "--via qom" in row.error.hint
    (change,) = set_intervals(guest.hypervisor.uri, 2, [guest.name]).domains
    assert type(change.error) is LibvirtFailure
    assert "not running" not in str(change.error)
    assert "does not run" not in str(change.error)
    set_intervals(guest.hypervisor.uri, IntervalRequest(2, via=Source.QOM), [guest.name])
    wait_until(
        lambda: read(guest, Source.QOM).verdict is Verdict.FRESH, 60, "an answer through QOM"
    )
