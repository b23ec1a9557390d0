"""The guest's root file system: busybox, the modules, and an init."""

from __future__ import annotations

import shutil
import stat
import subprocess
import tempfile
from itertools import count
from pathlib import Path

from .kernel import SETUP, Kernel, LabUnavailable, module_image, module_name


def build_initramfs(kernel: Kernel) -> bytes:
    """Return a cpio archive to boot `kernel` with, uncompressed because a TCG guest is slow.

    :raise LabUnavailable: when there is no static busybox.
    """
    busybox = _static_busybox()
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
    archive = _Archive()
    for directory in ("bin", "dev", "etc", "hog", "modules", "proc", "sys", "tmp"):
        archive.add(directory, stat.S_IFDIR | 0o755)
    # The kernel opens it for init before anything could be mounted on /dev.
    archive.add("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    archive.add("bin/busybox", stat.S_IFREG | 0o755, busybox.read_bytes())
    for applet in applets.stdout.split():
        if applet != "busybox":
            archive.add(f"bin/{applet}", stat.S_IFLNK | 0o777, b"busybox")
    modules = {
        "transport": kernel.transport,
        "balloon": kernel.balloon,
        "disk": kernel.disk or (),
        "memory": kernel.memory or (),
        "agent": kernel.agent or (),
    }
    for path in dict.fromkeys(path for paths in modules.values() for path in paths):
        archive.add(f"modules/{module_name(path)}.ko", stat.S_IFREG | 0o644, module_image(path))
    for name, paths in modules.items():
        listing = "".join(f"{module_name(path)}\n" for path in paths)
        archive.add(f"etc/{name}", stat.S_IFREG | 0o644, listing.encode())
    archive.add("init", stat.S_IFREG | 0o755, Path(__file__).with_name("init").read_bytes())
    return archive.finish()


def build_liar() -> bytes:
    """Return a cpio archive to be put behind the other, with the program that lies to QEMU.

    :raise LabUnavailable: when it cannot be compiled.
    """
    if (compiler := shutil.which("gcc")) is None:
        raise LabUnavailable("no gcc: apt install gcc libc6-dev")
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory, "liar")
        source = Path(__file__).with_name("liar.c")
        words = [compiler, "-std=gnu11", "-O2", "-static", "-s"]
        built = subprocess.run(
            [*words, "-o", program, source], capture_output=True, text=True, check=False
        )
        if built.returncode:
            raise LabUnavailable(f"gcc does not compile {source.name}: {built.stderr}")
        archive = _Archive()
        archive.add("bin/liar", stat.S_IFREG | 0o755, program.read_bytes())
        return archive.finish()


def _static_busybox() -> Path:
    for candidate in (shutil.which("busybox"), "/bin/busybox", "/usr/bin/busybox"):
        # A dynamic executable names its loader; the guest has none.
        if candidate and Path(candidate).exists():
            path = Path(candidate).resolve()
            if b"/ld-linux" not in path.read_bytes()[:4096]:
                return path
    raise LabUnavailable(f"no static busybox: run {SETUP}")


class _Archive:
    """A cpio archive in the "newc" format; written here because only root can make device nodes."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._inode = count(1)

    def add(
        self, name: str, mode: int, content: bytes = b"", *, device: tuple[int, int] = (0, 0)
    ) -> None:
        path = name.encode() + b"\0"
        fields = (next(self._inode), mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(path), 0)
        self._data += b"070701" + b"".join(b"%08x" % field for field in fields) + path
        self._pad()
        self._data += content
        self._pad()

    def finish(self) -> bytes:
        self.add("TRAILER!!!", 0)
        return bytes(self._data)

    def _pad(self) -> None:
        self._data += bytes(-len(self._data) % 4)
