"""Where figures come from."""

from __future__ import annotations

from enum import StrEnum


class Source(StrEnum):
    """Where figures come from, and by which way a live interval is set."""

    #: libvirt's statistics calls and the domain's XML: read-only, taints no guest.
    LIBVIRT = "libvirt"
    #: QEMU's QOM tree through libvirt's monitor passthrough: taints the guest.
    QOM = "qom"


def may_have_qom(uri: str) -> bool:
    """Whether the host with this URI may have QEMU's QOM tree, so that it can be suggested: the
    driver is QEMU's, or an alias hides it."""
    driver, colon, _ = uri.partition(":")
    return not colon or driver.partition("+")[0] == "qemu"
