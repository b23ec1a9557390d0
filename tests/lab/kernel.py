"""The guest kernel: an image and the modules that its balloon needs."""

from __future__ import annotations

import gzip
import lzma
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
CACHE = CHECKOUT / ".cache"
BOOT = Path("/boot")
SETUP = "tests/lab/setup"


class LabUnavailable(Exception):
    """The machine lacks something the lab is made of; the message names it."""


@dataclass(frozen=True)
class Kernel:
    """A bootable kernel and its module files, each after those it depends on.

    `disk`, `memory` and `agent` are None where the kernel has no driver for a disk, for virtio-mem
    or for a guest agent's channel.
    """

    release: str
    image: Path
    transport: tuple[Path, ...]
    balloon: tuple[Path, ...]
    disk: tuple[Path, ...] | None
    memory: tuple[Path, ...] | None
    agent: tuple[Path, ...] | None

    @property
    def version(self) -> tuple[int, ...]:
        """The first two numbers of its release."""
        return tuple(map(int, re.findall(r"\d+", self.release)[:2]))

    @property
    def balloon_is_builtin(self) -> bool:
        """Whether the balloon's driver cannot be left out by not loading it."""
        return not any(module_name(path) == "virtio_balloon" for path in self.balloon)


def find_kernel() -> Kernel:
    """Return the kernel that the set-up script fetched, else the machine's newest usable one.

    :raise LabUnavailable: when there is neither.
    """
    fetched = CACHE / "kernel"
    if (fetched / "release").exists():
        return fetched_kernel(fetched)
    for image in sorted(BOOT.glob("vmlinuz-*"), key=_version, reverse=True):
        release = image.name.removeprefix("vmlinuz-")
        tree = Path("/lib/modules") / release
        if not os.access(image, os.R_OK) or not (tree / "modules.builtin").exists():
            continue
        try:
            return _kernel(release, image, tree, tree / "kernel")
        except LabUnavailable:
            continue
    raise LabUnavailable(f"no guest kernel in {fetched} or readable in {BOOT}: run {SETUP}")


def fetched_kernel(directory: Path) -> Kernel:
    """Return a kernel that the set-up script fetched.

    :raise LabUnavailable: when it lacks a module.
    """
    release = (directory / "release").read_text().strip()
    return _kernel(release, directory / "vmlinuz", directory, directory / "modules")


def module_name(path: Path) -> str:
    """Return a module's name as the kernel spells it."""
    return path.name.split(".ko")[0].replace("-", "_")


def module_image(path: Path) -> bytes:
    """Return a module file's content, decompressed: not every guest kernel can do it itself."""
    data = path.read_bytes()
    match path.suffix:
        case ".xz":
            return lzma.decompress(data)
        case ".gz":
            return gzip.decompress(data)
        case ".zst":
            if not (zstd := shutil.which("zstd")):
                raise LabUnavailable(f"no zstd to unpack {path.name}: run {SETUP}")
            return subprocess.run(
                [zstd, "-dcq"], input=data, capture_output=True, check=True
            ).stdout
        case _:
            return data


def _version(image: Path) -> list[tuple[int, str]]:
    return [(int(part or 0), rest) for part, rest in re.findall(r"(\d*)(\D*)", image.name)]


def _kernel(release: str, image: Path, tree: Path, modules: Path) -> Kernel:
    files = {module_name(path): path for path in modules.rglob("*.ko*")}
    builtin = {
        module_name(Path(line)) for line in (tree / "modules.builtin").read_text().splitlines()
    }

    def _optional(name: str) -> tuple[Path, ...] | None:
        try:
            order = _load_order(name, files, builtin, release)
        except LabUnavailable:
            return None
        return tuple(path for path in order if path not in transport)

    transport = _load_order("virtio_pci", files, builtin, release)
    balloon = _load_order("virtio_balloon", files, builtin, release)
    return Kernel(
        release,
        image,
        tuple(transport),
        tuple(path for path in balloon if path not in transport),
        _optional("virtio_blk"),
        _optional("virtio_mem"),
        _optional("virtio_console"),
    )


def _load_order(name: str, files: dict[str, Path], builtin: set[str], release: str) -> list[Path]:
    if name not in files:
        if name in builtin:
            return []
        raise LabUnavailable(f"the guest kernel {release} has no {name}: run {SETUP}")
    order: list[Path] = []
    # The module itself says what it needs; modules.dep exists only where depmod has run.
    found = re.search(rb"\0depends=([^\0]*)\0", module_image(files[name]))
    for dependency in (found[1].decode() if found else "").split(","):
        if dependency:
            needed = _load_order(dependency.replace("-", "_"), files, builtin, release)
            order += [path for path in needed if path not in order]
    return [*order, files[name]]
