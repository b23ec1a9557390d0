"""A libvirt daemon of the lab's own, in a directory of its own."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import libvirt

from .guest import BOOT_TIMEOUT, BootFiles, Guest, GuestSpec, domain_xml
from .initramfs import build_initramfs, build_liar
from .keeper import Keeper, signal_process, sweep
from .kernel import SETUP, LabUnavailable, find_kernel, kernel_image
from .waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable

PROGRAMS = ("libvirtd", "virsh", "qemu-system-x86_64")
_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"
_READY_TIMEOUT = 60.0
_STOP_TIMEOUT = 20.0


class Hypervisor:
    """A private hypervisor: a context manager that leaves no process and no file.

    The daemon is an unprivileged one ("session"). When the tester is root, it runs as nobody: a
    number that no user has would do for the daemon, but libvirt looks up its user's record to
    start a guest.

    :param tcp: how whoever comes by TCP is asked who he is; None for no TCP
    """

    def __init__(self, *, tcp: Literal["none", "sasl"] | None = None) -> None:
        self._tcp = tcp
        self._daemon: int | None = None
        self._keeper: Keeper | None = None
        self._connection: Any = None
        self._connecting = threading.Lock()
        self._number = count(1)
        self._guests: dict[str, Guest] = {}

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Start the daemon.

        :raise LabUnavailable: when the machine lacks a part.
        """
        self._programs = {name: find_program(name) for name in PROGRAMS}
        self.kernel = find_kernel()
        initramfs = build_initramfs(self.kernel)
        # Not TMPDIR: below a long one, the path of a unix socket exceeds its 108 bytes.
        self.directory = Path(tempfile.mkdtemp(prefix="lab-", dir="/tmp"))
        try:
            self._keeper = Keeper(self.directory)
            self._furnish(initramfs)
            self.start_daemon()
        except BaseException:
            self.close()
            raise

    def _furnish(self, initramfs: bytes) -> None:
        for name in ("run", "config/libvirt", "config/sasl", "cache", "data", "tmp", "guests"):
            (self.directory / name).mkdir(parents=True)
        (self.directory / "vmlinuz").write_bytes(kernel_image(self.kernel.image))
        (self.directory / "initramfs").write_bytes(initramfs)
        (self.directory / "config/libvirt/libvirtd.conf").write_text(
            f'log_outputs = "3:file:{self.directory}/libvirtd.log"\n'
            # The kernel chooses the port.
            'listen_tls = 0\nlisten_tcp = 1\nlisten_addr = "127.0.0.1"\ntcp_port = "0"\n'
            f'auth_tcp = "{self._tcp or "none"}"\n'
        )
        # Without TLS, libvirt takes only mechanisms that encrypt by themselves.
        (self.directory / "config/sasl/libvirt.conf").write_text(
            f"mech_list: digest-md5\nsasldb_path: {self._logins}\n"
        )
        (self.directory / "config/libvirt/qemu.conf").write_text(
            # "file": no virtlogd beside the daemon. "none": no AppArmor or SELinux to arrange.
            'stdio_handler = "file"\nsecurity_driver = "none"\n'
        )
        hand_over(self.directory)

    @property
    def uri(self) -> str:
        """The URI under which this hypervisor is reached."""
        return f"qemu:///session?socket={self.socket}"

    @property
    def socket(self) -> Path:
        """The daemon's unix socket."""
        return self.directory / "run/libvirt/libvirt-sock"

    @property
    def _logins(self) -> Path:
        return self.directory / "config/sasl/logins"

    def add_login(self, name: str, password: str) -> None:
        """Let this user connect with SASL.

        :raise LabUnavailable: when the machine has no SASL
        """
        command = [find_program("saslpasswd2"), "-c", "-p", "-f", str(self._logins)]
        subprocess.run([*command, "-a", "libvirt", name], input=password, text=True, check=True)
        hand_over(self._logins)

    @property
    def tcp_uri(self) -> str:
        """The URI under which it is reached by TCP."""
        inodes = {link.readlink().name for link in Path(f"/proc/{self.pid}/fd").iterdir()}
        for line in Path(f"/proc/{self.pid}/net/tcp").read_text().splitlines()[1:]:
            _, address, _, state, *rest = line.split()
            if state == "0A" and f"socket:[{rest[5]}]" in inodes:
                return f"qemu+tcp://127.0.0.1:{int(address.partition(':')[2], 16)}/session"
        raise AssertionError(f"the private libvirtd listens on no TCP port:\n{self.log()}")

    @property
    def pid(self) -> int:
        """The daemon's pid."""
        if self._daemon is None:
            raise ProcessLookupError("the daemon does not run")
        return self._daemon

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the daemon: nothing of the tester's but its search path."""
        return {
            "PATH": _PATH,
            "LANG": "C.UTF-8",
            "HOME": str(self.directory),
            "TMPDIR": f"{self.directory}/tmp",
            "XDG_RUNTIME_DIR": f"{self.directory}/run",
            "XDG_CONFIG_HOME": f"{self.directory}/config",
            "XDG_CACHE_HOME": f"{self.directory}/cache",
            "XDG_DATA_HOME": f"{self.directory}/data",
            "SASL_CONF_PATH": f"{self.directory}/config/sasl",
        }

    def start_daemon(self) -> None:
        """Start the daemon and wait until it answers."""
        command = [
            self._programs["libvirtd"],
            f"--config={self.directory}/config/libvirt/libvirtd.conf",
            f"--pid-file={self.directory}/libvirtd.pid",
        ]
        if self._tcp is not None:
            command.append("--listen")
        assert self._keeper is not None, "not open"
        self._daemon = self._keeper.start(unprivileged(command), self.environment)
        wait_until(self._answers, _READY_TIMEOUT, f"the daemon in {self.directory}")

    def _answers(self) -> bool:
        if not Path(f"/proc/{self._daemon}").exists():
            raise RuntimeError(f"the private libvirtd ended at once:\n{self.log()}")
        return self.virsh("version", check=False).returncode == 0

    def stop_daemon(self) -> None:
        """End the daemon; its guests go on."""
        self._connection = None
        # One that waits for a monitor which does not answer takes no notice of SIGTERM.
        if not signal_process(self.pid, signal.SIGTERM, self.directory, wait=_STOP_TIMEOUT):
            self.kill_daemon()
        self._daemon = None

    def kill_daemon(self) -> None:
        """End the daemon as a crash would, at once; its guests go on."""
        # The connection would not notice before it is used.
        self._connection = None
        signal_process(self.pid, signal.SIGKILL, self.directory, wait=None)
        self._daemon = None

    def restart_daemon(self) -> None:
        """End the daemon and start another, which finds the guests again."""
        self.stop_daemon()
        self.start_daemon()

    def log(self) -> str:
        """Return what the daemon wrote."""
        paths = (self.directory / "output", self.directory / "libvirtd.log")
        return "".join(path.read_text(errors="replace") for path in paths if path.exists())

    def close(self) -> None:
        """End every guest and the daemon, and remove the directory; whatever state they are in."""
        self._connection = None
        # Nobody is asked to stop: a hung guest would not answer, and nothing here is kept.
        self._daemon = None
        if self._keeper is not None:
            self._keeper.close()
            self._keeper = None
            sweep(self.directory)
        self._guests.clear()

    def conn(self) -> Any:
        """Open a new read-write connection; the caller closes it."""
        return libvirt.open(self.uri)

    @property
    def connection(self) -> Any:
        """The lab's own read-write connection, opened anew when the daemon was restarted."""
        with self._connecting:
            if self._connection is None or not self._connection.isAlive():
                self._connection = self.conn()
            return self._connection

    def virsh(
        self, *arguments: str, check: bool = True, timeout: float | None = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run virsh on this hypervisor."""
        result = subprocess.run(
            [self._programs["virsh"], "-q", "-c", self.uri, *arguments],
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
        if check and result.returncode != 0:
            raise RuntimeError(f"virsh {' '.join(arguments)}: {result.stderr.strip()}")
        return result

    def add(self, spec: GuestSpec) -> Guest:
        """Define or create a guest as its spec says, without waiting until it has booted.

        :raise LabUnavailable: when it is to lie and the program for it cannot be compiled.
        """
        files = self._boot_files(spec)
        if spec.swap_mib:
            self._make_disk(files.swap, spec.swap_mib)
        xml = domain_xml(spec, files)
        flags = libvirt.VIR_DOMAIN_START_PAUSED if spec.paused else 0
        if spec.persistent:
            domain = self.connection.defineXML(xml)
            if spec.start:
                domain.createWithFlags(flags)
        else:
            domain = self.connection.createXML(xml, flags)
        guest = Guest(self, spec, files, domain.UUIDString())
        self._guests[guest.uuid] = guest
        return guest

    def _boot_files(self, spec: GuestSpec) -> BootFiles:
        # By number: a domain's name need not be a file's, and the path must stay short.
        stem = self.directory / "guests" / str(next(self._number))
        blacklist = not spec.driver and self.kernel.balloon_is_builtin
        return BootFiles(
            kernel=self.directory / "vmlinuz",
            initramfs=self._initramfs_that_lies() if spec.lies else self.directory / "initramfs",
            console=stem.with_suffix(".console"),
            control=stem.with_suffix(".control"),
            swap=stem.with_suffix(".swap"),
            arguments="initcall_blacklist=virtio_balloon_driver_init" if blacklist else "",
        )

    def _make_disk(self, path: Path, mib: int) -> None:
        if self.kernel.disk is None:
            raise LabUnavailable(f"the guest kernel has no driver for a disk: run {SETUP}")
        with path.open("wb") as file:
            file.truncate(mib * 1024**2)
        hand_over(path)

    def _initramfs_that_lies(self) -> Path:
        # Few guests need it, and an emulated one takes its time over each byte.
        path = self.directory / "initramfs-liar"
        if not path.exists():
            path.write_bytes((self.directory / "initramfs").read_bytes() + build_liar())
            hand_over(path)
        return path

    def boot(self, specs: Iterable[GuestSpec], timeout: float = BOOT_TIMEOUT) -> dict[str, Guest]:
        """Add guests and wait until all that run have booted; they come by name."""
        with ThreadPoolExecutor(4) as pool:
            guests = {guest.name: guest for guest in pool.map(self.add, specs)}
        for guest in guests.values():
            if guest.spec.start and not guest.spec.paused:
                guest.wait_booted(timeout)
        return guests

    def remove(self, guest: Guest) -> None:
        """End and undefine a guest, hung or not; one that is gone already is no error."""
        with contextlib.suppress(ProcessLookupError):
            guest.kill_process()
        wait_until(lambda: self._forget(guest), 60, f"libvirt to let go of {guest.name!r}")
        self._guests.pop(guest.uuid, None)

    def _forget(self, guest: Guest) -> bool:
        # Lists rather than a lookup: that would print an error for what is no error.
        for domain in self.connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
            if domain.UUIDString() == guest.uuid:
                return False
        for domain in self.connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_INACTIVE):
            if domain.UUIDString() == guest.uuid:
                domain.undefineFlags(
                    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
                    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
                )
        return True

    def create_blank(
        self, number: int, memory_mib: int = 16, *, prefix: str = "blank", period: int | None = None
    ) -> list[str]:
        """Create so many transient domains that have no kernel and do not run, and name them."""
        names = [f"{prefix}{index:04}" for index in range(number)]

        def create(name: str) -> None:
            spec = GuestSpec(name, memory_mib=memory_mib, period=period)
            self.connection.createXML(domain_xml(spec), libvirt.VIR_DOMAIN_START_PAUSED)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(create, names))
        return names


def lab_user() -> pwd.struct_passwd:
    """As whom the lab's daemons run."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())


def unprivileged(command: list[str]) -> list[str]:
    """Return what runs a program as that user."""
    if os.geteuid() != 0:
        return command
    user = lab_user()
    identity = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    return [find_program("setpriv"), *identity, "--", *command]


def hand_over(top: Path) -> None:
    """Give a file, or a directory and all in it, to that user."""
    if os.geteuid() == 0:
        user = lab_user()
        for path in (top, *top.rglob("*")):
            os.chown(path, user.pw_uid, user.pw_gid)


def find_program(name: str) -> str:
    """Return the path of a program.

    :raise LabUnavailable: when the machine has none.
    """
    if not (path := shutil.which(name, path=_PATH)):
        raise LabUnavailable(f"no {name}: run {SETUP}")
    return path
