"""Debian 13, booted in a container: live systemd, dbus, polkit and libvirtd."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

from .guest import BootFiles, GuestSpec, domain_xml
from .initramfs import build_initramfs
from .kernel import CHECKOUT, LabUnavailable, find_kernel
from .waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGES = ("systemd-sysv", "dbus", "polkitd", "libvirt-daemon-system", "python3-libvirt")
LIBRARIES = ("python3-lxml", "python3-click", "python3-rich", "python3-prometheus-client")
_IMPOSSIBLE = 77


class Machine:
    """A booted Debian 13; tests/stack makes it, and ends it even if this process is killed.

    :ivar folder: a directory of ours, which is /lab there
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._log = folder / "console"

    def __enter__(self) -> Self:
        if not shutil.which("systemd-nspawn"):
            raise LabUnavailable("no systemd-nspawn: apt install systemd-container")
        kernel = find_kernel()
        self.folder.chmod(0o755)
        shutil.copyfile(kernel.image, self.folder / "vmlinuz")
        (self.folder / "initramfs").write_bytes(build_initramfs(kernel))
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [CHECKOUT / "tests/stack", "--boot", self.folder, "trixie", *PACKAGES, *LIBRARIES],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._leader = wait_until(self._find_leader, 900, "the machine's process 1")
            wait_until(self._is_up, 300, "the machine to be up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _find_leader(self) -> int | None:
        if (status := self._process.poll()) is not None:
            log = self._log.read_text(errors="replace")[-3000:]
            if status == _IMPOSSIBLE:
                raise LabUnavailable(log)
            raise AssertionError(f"the machine did not start:\n{log}")
        for pid in _descendants(self._process.pid):
            with suppress(FileNotFoundError, ProcessLookupError):
                fields = fields_of(pid)
                if fields["Name"] == "systemd" and fields["NSpid"].split()[-1] == "1":
                    return pid
        return None

    def _is_up(self) -> bool:
        return self.run("systemctl", "is-system-running").stdout.strip() in {"running", "degraded"}

    def command(self, *words: str, user: str = "root") -> list[str]:
        """What runs a command there, as a user with its groups."""
        identity = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--"]
        return [
            *("nsenter", f"--target={self._leader}", "--all", "--", "env", "-i"),
            *("PATH=/usr/sbin:/usr/bin", "LANG=C.UTF-8", "DEBIAN_FRONTEND=noninteractive"),
            *(() if user == "root" else identity),
            *words,
        ]

    def run(
        self, *words: str, user: str = "root", timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """Run a command there."""
        return subprocess.run(
            self.command(*words, user=user),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def do(self, *words: str, user: str = "root") -> str:
        """Run a command there that must succeed; what it prints."""
        result = self.run(*words, user=user)
        assert result.returncode == 0, f"{words}: {result.stdout}{result.stderr}"
        return result.stdout

    def boot(self, spec: GuestSpec) -> None:
        """Define and start a guest there."""
        stem = Path("/lab", spec.name)
        files = BootFiles(
            kernel=stem.with_name("vmlinuz"),
            initramfs=stem.with_name("initramfs"),
            console=stem.with_suffix(".console"),
            control=stem.with_suffix(".control"),
            swap=stem.with_suffix(".swap"),
        )
        (self.folder / f"{spec.name}.xml").write_text(domain_xml(spec, files))
        self.do("virsh", "define", f"/lab/{spec.name}.xml")
        self.do("virsh", "start", spec.name)


def _descendants(pid: int) -> Iterator[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return
    for child in map(int, children):
        yield child
        yield from _descendants(child)


def fields_of(pid: int) -> dict[str, str]:
    """What /proc says of a process."""
    lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
