"""The packages that the foreign modules come from, for the message when one is missing."""

from __future__ import annotations

import sys
from typing import Final, NoReturn

#: The Debian package and the name on PyPI of each module that is imported.
_PACKAGES: Final = {
    "click": ("python3-click", "click"),
    "libvirt": ("python3-libvirt", "libvirt-python"),
    "libvirt_qemu": ("python3-libvirt", "libvirt-python"),
    "libvirtmod": ("python3-libvirt", "libvirt-python"),
    "libvirtmod_qemu": ("python3-libvirt", "libvirt-python"),
    "lxml": ("python3-lxml", "lxml"),
    "prometheus_client": ("python3-prometheus-client", "prometheus-client"),
    "rich": ("python3-rich", "rich"),
}

#: What monitoring plugins end with where they cannot tell.
_UNKNOWN: Final = 3


def missing_package(error: ImportError) -> str:
    """Say which module cannot be imported, and which package has it."""
    module = (error.name or "").partition(".")[0]
    if module not in _PACKAGES:
        return f"cannot import {error.name or 'a module'}: {error}"
    debian, pypi = _PACKAGES[module]
    why = "" if isinstance(error, ModuleNotFoundError) else f" ({error})"
    return f"cannot import {module}{why}: install {debian}, or {pypi} with pip"


def fail_without(error: ImportError) -> NoReturn:
    """End a command that cannot even parse its command line."""
    text = missing_package(error)
    if "check" in sys.argv[1:]:
        print(f"MEMORY UNKNOWN - {text}")
        sys.exit(_UNKNOWN)
    sys.exit(f"virtballoon: {text}")
