"""The balloon device of a domain, as its XML describes it."""

from __future__ import annotations

from typing import Final

from virtballoon.model.value import Value

#: Where QEMU keeps the devices that have an id; libvirt gives every device its alias as id.
PERIPHERAL: Final = "/machine/peripheral"

#: Where QEMU keeps the devices that were added without an id.
PERIPHERAL_ANON: Final = "/machine/peripheral-anon"

#: QEMU's types of a balloon device (``hw/virtio/virtio-balloon-pci.c``, ``hw/s390x``,
#: ``hw/virtio/virtio-balloon.c``). The last is a device of its own on virtio-mmio, and the
#: ``virtio-backend`` child of every other one.
QOM_TYPES: Final = frozenset(
    {
        "virtio-balloon-pci",
        "virtio-balloon-pci-transitional",
        "virtio-balloon-pci-non-transitional",
        "virtio-balloon-ccw",
        "virtio-balloon-device",
    }
)
#: The names that ``-device`` takes for a balloon: the types, and a short name for the one that
#: fits the machine (softmmu/qdev-monitor.c).
DEVICE_NAMES: Final = QOM_TYPES | {"virtio-balloon"}


class Balloon(Value):
    """A balloon device.

    :ivar model: the XML's model (``virtio``, ``virtio-transitional``,
        ``virtio-non-transitional``, ``xen``); None for a device that the XML does not show and
        that was found in QEMU
    :ivar alias: the device's alias, libvirt's ``balloon0`` or the user's ``ua-…``; None in a
        configuration that does not run
    :ivar qom_path: where QEMU has the device; None while the domain does not run
    """

    model: str | None
    alias: str | None = None
    qom_path: str | None = None


def qom_path_of(alias: str) -> str | None:
    """The QOM path of a device that libvirt defined, from its alias.

    libvirt allows letters, digits, ``.``, ``_`` and ``-`` in an alias; anything else cannot name
    a child of ``/machine/peripheral`` and gives None.
    """
    if alias and all(c.isascii() and (c.isalnum() or c in "._-") for c in alias):
        return f"{PERIPHERAL}/{alias}"
    return None
