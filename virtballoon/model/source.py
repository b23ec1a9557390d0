"""Whom to ask about a guest."""

from __future__ import annotations

from enum import StrEnum


class Source(StrEnum):
    """Where figures come from, and which way a live interval is set."""

    #: libvirt's statistics calls and the domain's XML: read-only, no mark on any guest.
    LIBVIRT = "libvirt"
    #: QEMU's object model through libvirt's monitor passthrough: marks the guest as tainted.
    QOM = "qom"
