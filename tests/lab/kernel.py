"""The guest kernel: an image and the modules that its balloon needs."""

from __future__ import annotations

import lzma
import os
import re
import shutil
import struct
import subprocess
import zlib
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
CACHE = CHECKOUT / ".cache"
BOOT = Path("/boot")
SETUP = "tests/lab/setup"
#: Programs that decompress, by how their files begin.
_DECOMPRESSORS = {b"\x28\xb5\x2f\xfd": "zstd", b"\x02\x21\x4c\x18": "lz4"}
#: The ELF note XEN_ELFNOTE_PHYS32_ENTRY, by which QEMU starts an uncompressed kernel.
_PVH_ENTRY = re.compile(rb"\x04\0\0\0[\x04\x08]\0\0\0\x12\0\0\0Xen\0")


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
    return _decompressed(path.read_bytes())


def kernel_image(path: Path) -> bytes:
    """Return a kernel image, decompressed where QEMU can start it so: an emulated guest takes a
    fifth of its boot time for it."""
    image = path.read_bytes()
    # Linux: Documentation/arch/x86/boot.rst, setup_sects, payload_offset and payload_length. The
    # last four bytes are the size.
    start = 512 * (1 + (image[0x1F1] or 4))
    offset, length = struct.unpack_from("<II", image, 0x248)
    payload = image[start + offset : start + offset + length - 4]
    kernel = _decompressed(payload)
    return kernel if kernel.startswith(b"\x7fELF") and _PVH_ENTRY.search(kernel) else image


def _decompressed(data: bytes) -> bytes:
    if data.startswith(b"\xfd7zXZ"):
        return lzma.LZMADecompressor().decompress(data)
    if data.startswith(b"\x1f\x8b"):
        return zlib.decompressobj(31).decompress(data)
    for magic, name in _DECOMPRESSORS.items():
        if data.startswith(magic):
            if not (program := shutil.which(name)):
                raise LabUnavailable(f"no {name} to unpack the guest kernel: run {SETUP}")
            return subprocess.run(
                [program, "-dcq"], input=data, capture_output=True, check=True
            ).stdout
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
