"""The newest QEMU and guest kernel: the machine's own where they are new enough, else Debian 13's,
which the set-up script unpacks beside the machine's and never installs."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .kernel import CACHE, SETUP, Kernel, LabUnavailable, fetched_kernel, find_kernel

#: With these a guest has all sixteen statistics, and QEMU forgets them at a reset.
QEMU_VERSION = (10, 0)
LINUX_VERSION = (6, 12)

FETCHED = CACHE / "debian13"
_EMULATOR = "qemu-system-x86_64"


@dataclass(frozen=True)
class Newest:
    """A QEMU and a kernel for its guests.

    `tree` is an unpacked QEMU with its libraries; without one, the machine's own is meant.
    """

    kernel: Kernel
    tree: Path | None

    def furnish(self, directory: Path) -> Path | None:
        """Put the QEMU into a directory, which others than the tester can read, and return the
        path of what starts it; None for the machine's own."""
        if self.tree is None:
            return None
        place = directory / "newest"
        shutil.copytree(self.tree, place)
        # Its own loader with its own libraries; beside that, in qemu-bundle, QEMU looks for its
        # firmware, and for modules, of which the machine's would not fit. Whoever lists
        # processes sees QEMU, not the loader.
        command = [f"{place}/ld.so", "--library-path", f"{place}/lib", f"{place}/{_EMULATOR}"]
        emulator = directory / _EMULATOR
        emulator.write_text(f'#!/bin/bash\nexec -a "$0" {shlex.join(command)} "$@"\n')
        emulator.chmod(0o755)
        return emulator


def find_newest() -> Newest:
    """Return the machine's own QEMU and kernel if they are new enough, else what the set-up script
    fetched.

    :raise LabUnavailable: when there is neither.
    """
    if _qemu_version() >= QEMU_VERSION:
        kernel = find_kernel()
        if _version(kernel.release) >= LINUX_VERSION:
            return Newest(kernel, None)
    if not (FETCHED / "qemu" / _EMULATOR).exists():
        raise LabUnavailable(
            f"no QEMU {_dotted(QEMU_VERSION)} with a guest kernel {_dotted(LINUX_VERSION)}:"
            f" run {SETUP} --newest"
        )
    return Newest(fetched_kernel(FETCHED / "kernel"), FETCHED / "qemu")


def _qemu_version() -> tuple[int, ...]:
    if not (program := shutil.which(_EMULATOR)):
        return ()
    result = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    return _version(result.stdout)


def _version(text: str) -> tuple[int, ...]:
    found = re.search(r"(\d+)\.(\d+)", text)
    return tuple(map(int, found.groups())) if found else ()


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
