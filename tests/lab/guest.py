"""Guests: what they are made of, and a hand inside a running one."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import threading
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import libvirt_qemu

from .keeper import lab_processes, signal_process
from .waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .hypervisor import Hypervisor

Model: TypeAlias = Literal["virtio", "virtio-transitional", "virtio-non-transitional", "none"]

QEMU_NAMESPACE = "http://libvirt.org/schemas/domain/qemu/1.0"
# Spared: self-tests, calibration and mitigations, half of an emulated guest's boot time. On a busy
# machine a guest measures its TSC's rate wrongly. Its clock would run up to 25 times too fast, and
# ACPI, which limits how long the table of interrupts may be worked on, would give up: the balloon
# would have no interrupt.
KERNEL_ARGUMENTS = (
    "console=ttyS0 quiet tsc=unstable lpj=4000000 no_timer_check cryptomgr.notests nokaslr"
    " mitigations=off random.trust_cpu=on"
)
BOOT_TIMEOUT = 300.0
#: The statistics by their tags (Linux: include/uapi/linux/virtio_balloon.h), as QEMU names them.
TAGS = (
    *("swap-in", "swap-out", "major-faults", "minor-faults", "free-memory", "total-memory"),
    *("available-memory", "disk-caches", "htlb-pgalloc", "htlb-pgfail", "oom-kills"),
    *("alloc-stalls", "async-scans", "direct-scans", "async-reclaims", "direct-reclaims"),
)
_MEMINFO = re.compile(r"^(\w+): +(\d+) kB$", re.MULTILINE)
_TAIL = 8192
# More would overrun the input buffer of the guest's terminal.
_COMMAND_LIMIT = 2000


@dataclass(frozen=True)
class GuestSpec:
    """A guest to be: its balloon first, then the rest.

    `qemu_commandline` puts the balloon behind <qemu:commandline>, with an id or without one, by its
    short name or in JSON, and has libvirt define none. `driver=False` boots without the balloon's
    driver. `paused` creates the guest with its CPUs stopped. `swap_mib` gives it a disk of that
    size to swap to.
    `cmdline` is appended to the kernel's command line. `lies` is for a guest that is to `lie`,
    which takes a balloon that a legacy driver can drive. `hotplug` makes room for memory devices.
    `agent` gives it the channel of a guest agent, which nobody opens.
    `balloon_driver` replaces QEMU's device of the balloon behind libvirt's back.
    """

    name: str
    model: Model = "virtio"
    alias: str | None = None
    period: int | None = None
    driver: bool = True
    memory_mib: int = 128
    persistent: bool = True
    start: bool = True
    qemu_commandline: Literal["id", "anon", "short", "json"] | None = None
    machine: Literal["pc", "q35"] = "pc"
    paused: bool = False
    swap_mib: int = 0
    cmdline: str = ""
    lies: bool = False
    autodeflate: bool = False
    hotplug: bool = False
    agent: bool = False
    balloon_driver: str | None = None


@dataclass(frozen=True)
class BootFiles:
    """What a guest boots from, and the files it talks through."""

    kernel: Path
    initramfs: Path
    console: Path
    control: Path
    swap: Path
    arguments: str = ""


def domain_xml(spec: GuestSpec, files: BootFiles | None = None) -> str:
    """Return the domain's definition; without files it has no kernel and nothing to say."""
    ET.register_namespace("qemu", QEMU_NAMESPACE)
    domain = ET.Element("domain", type="qemu")
    ET.SubElement(domain, "name").text = spec.name
    ET.SubElement(domain, "memory", unit="MiB").text = str(spec.memory_mib)
    ET.SubElement(domain, "vcpu").text = "1"
    if spec.hotplug:
        ET.SubElement(domain, "maxMemory", slots="2", unit="MiB").text = "1024"
        numa = ET.SubElement(ET.SubElement(domain, "cpu"), "numa")
        ET.SubElement(numa, "cell", id="0", cpus="0", memory=str(spec.memory_mib), unit="MiB")
    system = ET.SubElement(domain, "os")
    ET.SubElement(system, "type", arch="x86_64", machine=spec.machine).text = "hvm"
    # Without ACPI an idle guest takes ten times the processor time.
    ET.SubElement(ET.SubElement(domain, "features"), "acpi")
    clock = ET.SubElement(domain, "clock", offset="utc")
    ET.SubElement(clock, "timer", name="hpet", present="no")
    devices = ET.SubElement(domain, "devices")
    ET.SubElement(devices, "controller", type="usb", model="none")
    if files:
        arguments = [KERNEL_ARGUMENTS, files.arguments, spec.cmdline]
        if not spec.driver:
            arguments.append("lab.driver=none")
        if spec.swap_mib:
            arguments.append("lab.swap")
            _add_disk(devices, files.swap)
        ET.SubElement(system, "kernel").text = str(files.kernel)
        ET.SubElement(system, "initrd").text = str(files.initramfs)
        ET.SubElement(system, "cmdline").text = " ".join(filter(None, arguments))
        console = ET.SubElement(devices, "serial", type="file")
        ET.SubElement(console, "source", path=str(files.console))
        ET.SubElement(console, "target", port="0")
        control = ET.SubElement(devices, "serial", type="unix")
        ET.SubElement(control, "source", mode="bind", path=str(files.control))
        ET.SubElement(control, "target", port="1")
    if spec.agent:
        channel = ET.SubElement(devices, "channel", type="unix")
        ET.SubElement(channel, "target", type="virtio", name="org.qemu.guest_agent.0")
    _add_balloon(domain, devices, spec)
    return ET.tostring(domain, encoding="unicode")


def _add_disk(devices: ET.Element, file: Path) -> None:
    disk = ET.SubElement(devices, "disk", type="file", device="disk")
    ET.SubElement(disk, "driver", name="qemu", type="raw")
    ET.SubElement(disk, "source", file=str(file))
    ET.SubElement(disk, "target", dev="vda", bus="virtio")


def _add_balloon(domain: ET.Element, devices: ET.Element, spec: GuestSpec) -> None:
    model = "none" if spec.qemu_commandline else spec.model
    balloon = ET.SubElement(devices, "memballoon", model=model)
    if spec.period is not None:
        ET.SubElement(balloon, "stats", period=str(spec.period))
    if spec.alias is not None:
        ET.SubElement(balloon, "alias", name=spec.alias)
    if spec.autodeflate:
        balloon.set("autodeflate", "on")
    if spec.balloon_driver is not None:
        override = ET.SubElement(domain, f"{{{QEMU_NAMESPACE}}}override")
        changed = ET.SubElement(override, f"{{{QEMU_NAMESPACE}}}device", alias="balloon0")
        frontend = ET.SubElement(changed, f"{{{QEMU_NAMESPACE}}}frontend")
        replaced = {"name": "driver", "type": "string", "value": spec.balloon_driver}
        ET.SubElement(frontend, f"{{{QEMU_NAMESPACE}}}property", replaced)
    if spec.qemu_commandline:
        # A high slot: libvirt gives out the low ones and does not know of this device.
        bus = f"{'pcie' if spec.machine == 'q35' else 'pci'}.0"
        driver = "virtio-balloon" if spec.qemu_commandline == "short" else "virtio-balloon-pci"
        device = f"{driver},bus={bus},addr=0x1d"
        if spec.qemu_commandline == "id":
            device += ",id=extra-balloon"
        if spec.qemu_commandline == "json":
            device = json.dumps({"driver": driver, "bus": bus, "addr": "1d", "id": "extra-balloon"})
        arguments = ET.SubElement(domain, f"{{{QEMU_NAMESPACE}}}commandline")
        for value in ("-device", device):
            ET.SubElement(arguments, f"{{{QEMU_NAMESPACE}}}arg", value=value)


class Guest:
    """A guest of a private hypervisor."""

    def __init__(
        self, hypervisor: Hypervisor, spec: GuestSpec, files: BootFiles, uuid: str
    ) -> None:
        self.hypervisor = hypervisor
        self.spec = spec
        self.name = spec.name
        self.uuid = uuid
        self.files = files
        self._command = count(1)
        # The control channel takes one client at a time.
        self._control = threading.Lock()

    def __repr__(self) -> str:
        return f"<Guest {self.name!r}>"

    @property
    def domain(self) -> Any:
        """The virDomain, on the hypervisor's own read-write connection."""
        return self.hypervisor.connection.lookupByUUIDString(self.uuid)

    @property
    def pid(self) -> int:
        """The pid of the guest's QEMU.

        :raise ProcessLookupError: when it does not run.
        """
        pids = lab_processes(self.hypervisor.directory, self.uuid)
        if not pids:
            raise ProcessLookupError(f"no QEMU of guest {self.name!r}")
        return pids[0]

    def meminfo(self) -> dict[str, int]:
        """Return the guest's /proc/meminfo in bytes, as it is now."""
        pairs = _MEMINFO.findall(self.run("cat /proc/meminfo").stdout)
        return {key: int(kib) * 1024 for key, kib in pairs}

    def wait_booted(self, timeout: float = BOOT_TIMEOUT, *, starts: int = 1) -> None:
        """Wait until the guest's init runs, with the driver loaded where it is to be.

        :param starts: the number of times that this QEMU has started the guest
        """
        try:
            wait_until(
                lambda: self._console().count(b"@booted") >= starts,
                timeout,
                f"guest {self.name!r} to boot",
            )
        except AssertionError as error:
            raise AssertionError(f"{error}; its console:\n{self.console()}") from None

    def vmstat(self) -> dict[str, int]:
        """Return the guest's /proc/vmstat, as it is now."""
        pairs = (line.split() for line in self.run("cat /proc/vmstat").stdout.splitlines() if line)
        return {key: int(value) for key, value in pairs}

    def console(self) -> str:
        """Return the end of what the guest wrote to its console."""
        return self._console()[-_TAIL:].decode(errors="replace")

    def _console(self) -> bytes:
        try:
            return self.files.console.read_bytes()
        except FileNotFoundError:
            return b""

    def run(
        self, command: str, timeout: float = 60.0, *, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a line of shell inside the guest; output and errors come as `stdout`.

        :raise subprocess.CalledProcessError: when `check` and its status is not 0.
        :raise TimeoutError: when the guest did not answer within `timeout` seconds.
        """
        if "\n" in command or len(command) > _COMMAND_LIMIT:
            raise ValueError(f"not one line of at most {_COMMAND_LIMIT} characters: {command!r}")
        with self._control:
            number = next(self._command)
            answer = re.compile(rb"@run %d\n(.*)\n@exit %d (\d+)\n" % (number, number), re.DOTALL)
            deadline = time.monotonic() + timeout
            received = bytearray()
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as control:
                control.settimeout(timeout)
                control.connect(str(self.files.control))
                control.sendall(f"{number} {command}\n".encode())
                while not (found := answer.search(received)):
                    control.settimeout(max(deadline - time.monotonic(), 0.001))
                    try:
                        chunk = control.recv(65536)
                    except TimeoutError:
                        raise TimeoutError(
                            f"guest {self.name!r} did not answer {command!r} in {timeout:g} s"
                        ) from None
                    if not chunk:
                        raise ConnectionResetError(f"guest {self.name!r} ended at {command!r}")
                    received += chunk
        output = found[1].decode(errors="replace")
        result = subprocess.CompletedProcess(command, int(found[2]), output, "")
        if check:
            result.check_returncode()
        return result

    def hog(self, mib: int) -> None:
        """Have the guest hold `mib` MiB of its memory, in place of what it held before."""
        self.run(f"hog {mib}")

    def unhog(self) -> None:
        """Have the guest give back what it held."""
        self.run("unhog")

    def load_driver(self) -> None:
        """Load the balloon's driver."""
        self.run("load_driver")

    def unload_driver(self) -> None:
        """Take the balloon's driver away."""
        self.run("unload_driver")

    def balloon_property(self, name: str) -> Any:
        """Return what QEMU itself has; this taints the guest."""
        path = f"/machine/peripheral/{self.spec.alias or 'balloon0'}"
        arguments = {"path": path, "property": name}
        return self.qmp({"execute": "qom-get", "arguments": arguments})["return"]

    def lie(
        self, figures: Mapping[str, int], *, balloon_bytes: int = 0, timeout: float = 60.0
    ) -> None:
        """Take the balloon from its driver, have the guest give QEMU these figures and no others,
        at once and whenever it asks, and wait until QEMU has them.

        :param figures: by QEMU's names without `stat-`, or by the number of a tag that QEMU may
            not know; any 64 bits.
        :param balloon_bytes: what the balloon is said to have taken from the guest
        """
        tags = {name: number for number, name in enumerate(TAGS)}
        records = [f"{tags.get(name, name)}={value}" for name, value in figures.items()]
        self.stop_lying()
        self.run("test ! -e /sys/bus/virtio/drivers/virtio_balloon/virtio* || unload_driver")
        words = " ".join(["liar", str(balloon_bytes // 4096), *records])
        self.run(f"{words} >/tmp/liar.log 2>&1 & echo $! >/tmp/liar.pid")

        def told() -> bool:
            given = self.balloon_property("guest-stats")["stats"]
            expected = {name: figures.get(name.removeprefix("stat-"), 2**64 - 1) for name in given}
            return bool(given == expected)

        try:
            wait_until(told, timeout, f"guest {self.name!r} to lie")
        except AssertionError as error:
            log = self.run("cat /tmp/liar.log; ps | grep [l]iar", check=False).stdout
            raise AssertionError(f"{error}: {log}") from None

    def stop_lying(self) -> None:
        """End it, so that the driver can be loaded again."""
        # The last thing that it does is to reset the device.
        ended = "while kill $(cat /tmp/liar.pid) 2>/dev/null; do usleep 10000; done"
        self.run(f"test ! -e /tmp/liar.pid || {{ {ended}; rm /tmp/liar.pid; }}")

    def stop_process(self) -> None:
        """Stop QEMU, so that its monitor answers nobody."""
        self._signal(signal.SIGSTOP)

    def cont_process(self) -> None:
        """Let a stopped QEMU go on."""
        self._signal(signal.SIGCONT)

    def kill_process(self) -> None:
        """Kill QEMU and wait until it has ended."""
        self._signal(signal.SIGKILL, wait=None)

    def _signal(self, number: signal.Signals, *, wait: float | None = 0) -> None:
        signal_process(self.pid, number, self.hypervisor.directory, wait=wait)

    def qmp(self, command: dict[str, Any]) -> dict[str, Any]:
        """Send a QMP command past libvirt and return the whole reply, an error too."""
        reply = libvirt_qemu.qemuMonitorCommand(
            self.domain, json.dumps(command), libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_DEFAULT
        )
        answer: dict[str, Any] = json.loads(reply)
        return answer

    def hmp(self, line: str) -> str:
        """Send a line to QEMU's human monitor and return its answer."""
        return str(
            libvirt_qemu.qemuMonitorCommand(
                self.domain, line, libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP
            )
        )
