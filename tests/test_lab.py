"""The lab is real: guests that run, a daemon that is private, and nothing left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import libvirt
import pytest

from tests.conftest import POLLED, available
from tests.lab import Guest, GuestSpec, Hypervisor, Link, SharedGuests, SshServer, wait_until
from tests.lab.keeper import lab_processes
from tests.lab.kernel import CHECKOUT, LabUnavailable, find_kernel
from tests.lab.machine import fields_of
from tests.process import finished

if TYPE_CHECKING:
    from tests.conftest import GuestFactory

MIB = 1024**2
MACHINES_OWN = (
    Path("/run/libvirt"),
    Path("/run/libvirt/libvirt-sock"),
    Path.home() / ".config/libvirt",
    Path.home() / ".cache/libvirt",
)

pytestmark = pytest.mark.once


def is_gone(pid: int) -> bool:
    # Where nobody reaps orphans, an ended process stays in the table as a zombie.
    try:
        return fields_of(pid)["State"].startswith("Z")
    except (FileNotFoundError, ProcessLookupError):
        return True


def machines_own() -> dict[Path, int]:
    return {path: path.stat().st_ino for path in MACHINES_OWN if path.exists()}


def statistics(guest: Guest) -> dict[str, int]:
    stats: dict[str, int] = guest.domain.memoryStats()
    return stats


def lab_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tests.lab", *arguments]


class TestGuest:
    def test_answers(self, guests: dict[str, Guest]) -> None:
        answer = guests["classic"].run("echo one; echo two >&2; exit 3", check=False)
        assert (answer.stdout, answer.returncode) == ("one\ntwo\n", 3)
        with pytest.raises(subprocess.CalledProcessError):
            guests["classic"].run("false")

    def test_runs_the_labs_kernel(self, guests: dict[str, Guest]) -> None:
        answer = guests["modern"].run("uname -r; cat /proc/uptime")
        release, uptime = answer.stdout.splitlines()
        assert release == find_kernel().release
        assert float(uptime.split()[0]) > 0

    def test_every_running_guest_reports_its_memory(self, guests: dict[str, Guest]) -> None:
        for guest in guests.values():
            if guest.spec.start and guest.name != "suspended":
                assert 0 < guest.meminfo()["MemFree"] < guest.meminfo()["MemTotal"] <= 128 * MIB

    @pytest.mark.parametrize("name", POLLED)
    def test_total_is_what_the_guest_says(
        self, hypervisor: Hypervisor, guests: dict[str, Guest], name: str
    ) -> None:
        guest = guests[name]
        wait_until(lambda: "available" in statistics(guest), 60, "the guest's first statistics")
        lines = hypervisor.virsh("dommemstat", name).stdout.splitlines()
        shown = dict(line.split() for line in lines if line)
        assert int(shown["available"]) * 1024 == guest.meminfo()["MemTotal"]

    def test_driver_is_loaded_only_where_it_should_be(self, guests: dict[str, Guest]) -> None:
        bound = "ls -d /sys/bus/virtio/drivers/virtio_balloon/virtio*"
        assert guests["classic"].run(bound, check=False).returncode == 0
        assert guests["cmdline-anon"].run(bound, check=False).returncode == 0
        assert guests["nodriver"].run(bound, check=False).returncode != 0
        assert guests["nodevice"].run(bound, check=False).returncode != 0
        assert "unused" not in statistics(guests["nodriver"])

    @pytest.mark.parametrize("name", ["cmdline-id", "cmdline-anon"])
    def test_balloon_behind_the_command_line_is_unknown_to_libvirt(
        self, guests: dict[str, Guest], name: str
    ) -> None:
        assert "<memballoon model='none'" in guests[name].domain.XMLDesc()
        assert set(statistics(guests[name])) == {"rss"}

    def test_suspended_and_off_are_what_they_are_called(
        self, hypervisor: Hypervisor, guests: dict[str, Guest]
    ) -> None:
        assert hypervisor.virsh("domstate", "suspended").stdout.strip() == "paused"
        assert statistics(guests["suspended"])["last_update"] > 0
        assert hypervisor.virsh("domstate", "off").stdout.strip() == "shut off"
        with pytest.raises(ProcessLookupError):
            _ = guests["off"].pid

    def test_mistreated(self, guest_factory: GuestFactory) -> None:
        guest = guest_factory(GuestSpec("mistreated", period=1, persistent=False))
        before = guest.meminfo()
        guest.hog(40)
        hogged = guest.meminfo()
        assert hogged["Shmem"] - before["Shmem"] > 39 * MIB
        assert before["MemAvailable"] - hogged["MemAvailable"] > 20 * MIB
        guest.unhog()
        assert guest.meminfo()["Shmem"] < 40 * MIB

        bound = "test -e /sys/bus/virtio/drivers/virtio_balloon/virtio*"
        guest.unload_driver()
        assert guest.run(bound, check=False).returncode != 0
        guest.load_driver()
        assert guest.run(bound, check=False).returncode == 0

        assert guest.qmp({"execute": "query-status"})["return"]["running"] is True
        assert "running" in guest.hmp("info status")

        guest.stop_process()
        # Each of its threads stops by itself.
        wait_until(lambda: fields_of(guest.pid)["State"].startswith("T"), 60, "it to stop")
        with pytest.raises(TimeoutError):
            guest.run("true", timeout=0.2)
        guest.cont_process()
        assert guest.run("echo back").stdout == "back\n"

    def test_hung_and_killed_guests_are_removed(
        self, hypervisor: Hypervisor, guest_factory: GuestFactory
    ) -> None:
        hung = guest_factory(GuestSpec("hung"))
        killed = guest_factory(GuestSpec("killed", paused=True))
        hung.stop_process()
        killed.kill_process()
        pids = [hung.pid]
        for guest in (hung, killed):
            hypervisor.remove(guest)
        assert all(is_gone(pid) for pid in pids)
        names = hypervisor.virsh("list", "--all", "--name").stdout.split()
        assert not {"hung", "killed"} & set(names)

    def test_shared_guest_that_ends_is_reported_once(self, guest_factory: GuestFactory) -> None:
        ended, stopped, left = (
            guest_factory(GuestSpec(name)) for name in ("ends", "stops", "left")
        )
        shared = SharedGuests()
        shared.watch([ended, stopped, left])
        assert shared.check() == []
        ended.kill_process()
        stopped.stop_process()
        wait_until(lambda: fields_of(stopped.pid)["State"].startswith("T"), 60, "it to stop")
        reports = shared.check()
        assert ["'ends'" in reports[0], "'stops'" in reports[1]] == [True, True]
        assert all("@booted" in report for report in reports)
        assert shared.check() == []
        assert shared.ended == ["ends", "stops"]

    def test_q35_carries_every_kind_of_balloon(self, guest_factory: GuestFactory) -> None:
        for spec in (
            GuestSpec("q35-modern", model="virtio-non-transitional", period=2, machine="q35"),
            GuestSpec("q35-transitional", model="virtio-transitional", period=2, machine="q35"),
            GuestSpec("q35-cmdline", qemu_commandline="id", machine="q35"),
        ):
            guest_factory(spec).run("test -e /sys/bus/virtio/drivers/virtio_balloon/virtio*")


class TestHypervisor:
    def test_is_unprivileged_and_private(self, hypervisor: Hypervisor) -> None:
        assert "0" not in fields_of(hypervisor.pid)["Uid"].split()
        assert int(fields_of(hypervisor.pid)["CapEff"], 16) == 0
        connection = hypervisor.conn()
        assert connection.getURI().startswith("qemu:///session")
        connection.close()

    @pytest.mark.usefixtures("hypervisor")
    def test_does_not_touch_the_machines_libvirt(self) -> None:
        before = machines_own()
        with Hypervisor() as own:
            own.virsh("list", "--all")
            assert machines_own() == before
        assert machines_own() == before

    def test_blank_domains(self, hypervisor: Hypervisor) -> None:
        names = hypervisor.create_blank(3)
        try:
            for name in names:
                assert hypervisor.virsh("domstate", name).stdout.strip() == "paused"
        finally:
            for name in names:
                hypervisor.virsh("destroy", name)

    @pytest.mark.usefixtures("hypervisor")
    def test_guests_outlive_the_daemon(self) -> None:
        with Hypervisor() as own:
            guest = own.boot([GuestSpec("survivor", period=2)])["survivor"]
            daemon, qemu = own.pid, guest.pid
            own.restart_daemon()
            assert own.pid != daemon
            assert guest.pid == qemu
            assert own.virsh("domstate", "survivor").stdout.strip() == "running"


@pytest.mark.usefixtures("hypervisor")
class TestLeavesNothing:
    def test_after_an_error_with_a_hung_guest(self) -> None:
        own = Hypervisor()
        pids = []

        def fail() -> None:
            with own:
                guests = own.boot([GuestSpec("hung", paused=True), GuestSpec("well", paused=True)])
                pids.extend([own.pid, *(guest.pid for guest in guests.values())])
                guests["hung"].stop_process()
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert len(pids) == 3
        assert all(is_gone(pid) for pid in pids)
        assert not own.directory.exists()

    @pytest.mark.parametrize(
        ("number", "status"),
        [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)],
    )
    def test_after_a_signal(self, number: signal.Signals, status: int) -> None:
        with subprocess.Popen(
            lab_command("--no-guests"),
            cwd=CHECKOUT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as lab:
            assert lab.stdout is not None
            line = lab.stdout.readline()
            directory = Path(line.split("socket=")[1].split("/run/libvirt/")[0])
            subprocess.run(
                ["virsh", "-c", line.split("'")[1], "create", "/dev/stdin", "--paused"],
                input="<domain type='qemu'><name>left</name><memory unit='MiB'>16</memory>"
                "<os><type arch='x86_64'>hvm</type></os></domain>",
                text=True,
                capture_output=True,
                check=True,
            )
            pids = lab_processes(directory)
            assert len(pids) == 2
            (qemu,) = lab_processes(directory, "guest=left")
            os.kill(qemu, signal.SIGSTOP)
            lab.send_signal(number)
            assert lab.wait() == status
        wait_until(lambda: all(is_gone(pid) for pid in pids), 60, "the lab's processes to end")
        wait_until(lambda: not directory.exists(), 60, "the lab's directory to go")

    def test_command_gets_the_uri_and_its_status_comes_back(self) -> None:
        shell = 'virsh uri; echo "$LIBVIRT_DEFAULT_URI $VIRTBALLOON_CONFIG_FILE"; exit 7'
        done = finished(
            lab_command("--no-guests", "--", "sh", "-c", shell),
            cwd=CHECKOUT,
            env={**os.environ, "VIRTBALLOON_CONFIG_FILE": "/the/machines/own"},
        )
        uri, given, configuration = done.stdout.split()
        assert done.returncode == 7
        assert uri == given
        assert configuration == os.devnull
        assert not Path(uri.split("socket=")[1]).parents[2].exists()


class TestWays:
    def test_a_link_adds_its_round_trip_to_each_call_and_not_to_their_sum(
        self, hypervisor: Hypervisor
    ) -> None:
        with Link(hypervisor.socket, delay=0.05) as link:
            connection = libvirt.openReadOnly(link.uris[0])
            started_at = time.monotonic()
            for _ in range(8):
                connection.getLibVersion()
            alone = (time.monotonic() - started_at) / 8
            assert alone > 0.05
            with ThreadPoolExecutor(32) as pool:
                started_at = time.monotonic()
                calls = [pool.submit(connection.getLibVersion) for _ in range(64)]
                for call in calls:
                    call.result()
                together = time.monotonic() - started_at
            connection.close()
        assert together < 64 * alone / 4

    def test_nothing_is_left(self, hypervisor: Hypervisor) -> None:
        with available(SshServer(hypervisor)) as server, Link(hypervisor.socket) as link:
            # They are open when the ways go.
            connections = [libvirt.openReadOnly(uri) for uri in (server.uri(), *link.uris)]
            assert all(connection.isAlive() for connection in connections)
            directories = (server.directory, link.directory)
            assert all(running_with(str(directory)) for directory in directories)
            assert running_with(": tester")
        for directory in directories:
            assert not directory.exists()
        assert not running_with(": tester")
        # Those that are on this side end by themselves.
        wait_until(lambda: not any(running_with(str(d)) for d in directories), 60, "the rest")


def running_with(word: str) -> list[int]:
    """The processes on whose command line it is."""
    pids = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, NotADirectoryError):
            if entry.name.isdecimal() and word.encode() in (entry / "cmdline").read_bytes():
                pids.append(int(entry.name))
    return pids


def test_missing_kernel_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tests.lab.kernel.CACHE", tmp_path)
    monkeypatch.setattr("tests.lab.kernel.BOOT", tmp_path)
    with pytest.raises(LabUnavailable, match=r"no guest kernel.*tests/lab/setup"):
        find_kernel()
