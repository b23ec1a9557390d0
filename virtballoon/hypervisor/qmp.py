"""Speaks QMP to a guest's QEMU, for the balloon and nothing else.

The module knows neither libvirt nor sockets: a :class:`Monitor` is given a function that carries
one JSON command to QEMU and brings back the JSON answer. What it sends is limited to ``qom-list``,
``qom-get`` of ``guest-stats`` and ``guest-stats-polling-interval``, ``qom-set`` of the latter, and
queries that change nothing: ``query-version``, ``x-query-virtio-status`` and
``x-query-virtio-queue-status`` (QEMU: docs/interop/virtio-balloon-stats.rst, qapi/qom.json,
qapi/virtio.json).
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from virtballoon.errors import MonitorError
from virtballoon.model.balloon import BACKEND_TYPE, PERIPHERAL, PERIPHERAL_ANON, QOM_TYPES
from virtballoon.model.memory import Figures, MemoryStats, figure

#: The longest polling interval that QEMU takes, in seconds (hw/virtio/virtio-balloon.c).
MAX_INTERVAL: Final = 2**32 - 1

STATS: Final = "guest-stats"
INTERVAL: Final = "guest-stats-polling-interval"

# The guest's statistics are well below 1 KiB, a qom-list a few tens of KiB.
_MAX_ANSWER: Final = 4 * 1024 * 1024
# Queues are numbered by the device: inflating, deflating, statistics (virtio 1.2, 5.5.2).
_STATS_QUEUE: Final = 2
# A full tree of a PC has about a thousand nodes.
_MAX_NODES: Final = 10_000


@dataclass(frozen=True, slots=True)
class QomChild:
    """One entry of ``qom-list`` that is a child object.

    :ivar name: the last part of its path
    :ivar type: its QOM type
    """

    name: str
    type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtioStatus:
    """How far the guest has set up a virtio device.

    :ivar statuses: the bits that the guest has set, such as ``ACKNOWLEDGE`` and ``DRIVER_OK``
    :ivar features: the features of this kind of device that its driver has accepted, such as
        ``STATS_VQ``
    """

    statuses: tuple[str, ...]
    features: tuple[str, ...]

    @property
    def driver_ok(self) -> bool:
        """Whether a driver has set the device up."""
        return "DRIVER_OK" in self.statuses

    @property
    def statistics(self) -> bool:
        """Whether that driver has accepted the statistics queue."""
        return "STATS_VQ" in self.features


class Monitor:
    """The monitor of one guest's QEMU.

    :param send: carries one command, JSON, and returns the answer, JSON; what it raises passes
        through
    :param host: the host's URI, for errors
    :param domain: the domain's name, for errors
    """

    def __init__(
        self, send: Callable[[str], str], *, host: str | None = None, domain: str | None = None
    ) -> None:
        self._send = send
        self._host = host
        self._domain = domain

    def children(self, path: str) -> list[QomChild]:
        """The child objects at a QOM path (``qom-list``).

        :raise MonitorError: when there is no such path
        """
        command, answer, value = self._execute("qom-list", {"path": path})
        if not isinstance(value, list):
            raise self._error("qom-list gave no list", command, answer)
        found = []
        for entry in value:
            name, kind = (
                (entry.get("name"), entry.get("type")) if isinstance(entry, dict) else (None, None)
            )
            if not (isinstance(name, str) and isinstance(kind, str)):
                raise self._error("qom-list gave an entry without name and type", command, answer)
            if kind.startswith("child<") and kind.endswith(">"):
                found.append(QomChild(name, kind[len("child<") : -1]))
        return found

    def guest_stats(self, path: str) -> Figures:
        """The guest's figures and when it gave them (``qom-get guest-stats``).

        :raise MonitorError: when QEMU refuses or the answer has another shape
        """
        command, answer, value = self._execute("qom-get", {"path": path, "property": STATS})
        stats = value.get("stats") if isinstance(value, dict) else None
        last_update = figure(value.get("last-update")) if isinstance(value, dict) else None
        if not isinstance(stats, dict) or last_update is None:
            raise self._error("guest-stats has neither stats nor last-update", command, answer)
        return Figures(stats=MemoryStats.from_qemu(stats), last_update=last_update)

    def polling_interval(self, path: str) -> int:
        """The polling interval that QEMU has, in seconds; 0 for off.

        :raise MonitorError: when QEMU refuses or the answer has another shape
        """
        command, answer, value = self._execute("qom-get", {"path": path, "property": INTERVAL})
        interval = figure(value)
        if interval is None or interval > MAX_INTERVAL:
            raise self._error("the polling interval is no number of seconds", command, answer)
        return interval

    def set_polling_interval(self, path: str, seconds: int) -> None:
        """Set the polling interval, in seconds; 0 turns polling off. libvirt does not learn of it.

        :raise MonitorError: when QEMU refuses
        """
        self._execute("qom-set", {"path": path, "property": INTERVAL, "value": seconds})

    def version(self) -> tuple[int, int]:
        """QEMU's version (``query-version``): that of this guest's process, which may be older
        than what is installed.

        :raise MonitorError: when QEMU refuses or the answer has another shape
        """
        command, answer, value = self._execute("query-version")
        numbers = value.get("qemu") if isinstance(value, dict) else None
        major, minor = (
            (figure(numbers.get("major")), figure(numbers.get("minor")))
            if isinstance(numbers, dict)
            else (None, None)
        )
        if major is None or minor is None:
            raise self._error("query-version gave no version", command, answer)
        return major, minor

    def virtio_status(self, path: str) -> VirtioStatus:
        """How far the guest has set up the balloon (``x-query-virtio-status``, from QEMU 7.2 on
        and not promised to stay).

        :param path: the balloon's QOM path
        :raise MonitorError: when QEMU has no such command, refuses, or answers in another shape
        """
        command, answer, value = self._execute(
            "x-query-virtio-status", {"path": self._backend(path)}
        )
        status, features = (
            (value.get("status"), value.get("guest-features"))
            if isinstance(value, dict)
            else (None, None)
        )
        statuses = _words(status, "statuses", "VIRTIO_CONFIG_S_")
        accepted = _words(features, "dev-features", "VIRTIO_BALLOON_F_")
        if statuses is None or accepted is None:
            raise self._error("x-query-virtio-status has another shape", command, answer)
        return VirtioStatus(statuses=statuses, features=accepted)

    def buffers_held(self, path: str) -> int:
        """How many of the guest's buffers QEMU holds of the statistics queue: 1 while it has not
        asked since the last answer, 0 while it waits for one (``x-query-virtio-queue-status``,
        from QEMU 7.2 on and not promised to stay).

        :param path: the balloon's QOM path
        :raise MonitorError: when QEMU has no such command, refuses, or answers in another shape
        """
        command, answer, value = self._execute(
            "x-query-virtio-queue-status", {"path": self._backend(path), "queue": _STATS_QUEUE}
        )
        held = figure(value.get("inuse")) if isinstance(value, dict) else None
        if held is None:
            raise self._error("x-query-virtio-queue-status has another shape", command, answer)
        return held

    def _backend(self, path: str) -> str:
        # A PCI or CCW device has the virtio device inside; one on virtio-mmio is it.
        below = [child.name for child in self.children(path) if child.type == BACKEND_TYPE]
        return f"{path}/{below[0]}" if below else path

    def find_balloon(self, alias: str | None = None, *, everywhere: bool = True) -> str | None:
        """The QOM path of the guest's balloon, or None if it has none.

        In this order, the cheapest first: the device with this alias, any balloon that has an id,
        any without one, and the whole tree.

        :param everywhere: whether to walk the tree, too. That takes hundreds of commands, and
            finds only what was added neither by libvirt nor with ``-device``.
        """
        named = self._balloons_at(PERIPHERAL)
        if alias is not None and f"{PERIPHERAL}/{alias}" in named:
            return f"{PERIPHERAL}/{alias}"
        for path in (*named, *self._balloons_at(PERIPHERAL_ANON)):
            return path
        return next(self.balloons_below("/machine"), None) if everywhere else None

    def _balloons_at(self, parent: str) -> list[str]:
        return [f"{parent}/{c.name}" for c in self.children(parent) if c.type in QOM_TYPES]

    def balloons_below(self, root: str) -> Iterator[str]:
        """Walk the tree and yield the path of each balloon device, each device once: the
        ``virtio-backend`` inside a PCI or CCW one is the same device."""
        # Breadth first: the tree is deep below devices that are never a balloon's parent.
        waiting = deque([root])
        for _ in range(_MAX_NODES):
            if not waiting:
                return
            path = waiting.popleft()
            try:
                children = self.children(path)
            except MonitorError:
                # An object that was unplugged between its listing and ours.
                continue
            for child in children:
                below = f"{path.rstrip('/')}/{child.name}"
                if child.type in QOM_TYPES:
                    yield below
                elif child.type != BACKEND_TYPE:
                    waiting.append(below)

    def _execute(self, name: str, arguments: dict[str, Any] | None = None) -> tuple[str, str, Any]:
        request = {"execute": name} | ({"arguments": arguments} if arguments is not None else {})
        command = json.dumps(request)
        answer = self._send(command)
        if len(answer) > _MAX_ANSWER:
            raise self._error(f"an answer of {len(answer)} characters", command, answer[:1000])
        try:
            document = json.loads(answer)
        except (ValueError, RecursionError) as error:
            raise self._error("the answer is no JSON", command, answer) from error
        if not isinstance(document, dict):
            raise self._error("the answer is no JSON object", command, answer)
        if "error" in document:
            raise self._refusal(document["error"], command, answer)
        if "return" not in document:
            raise self._error("the answer has neither return nor error", command, answer)
        return command, answer, document["return"]

    def _refusal(self, error: object, command: str, answer: str) -> MonitorError:
        # QMP: {"error": {"class": …, "desc": …}} (docs/interop/qmp-spec).
        details = error if isinstance(error, dict) else {}
        kind, text = details.get("class"), details.get("desc")
        return self._error(
            text if isinstance(text, str) and text.strip() else "QEMU refused without a word",
            command,
            answer,
            error_class=kind if isinstance(kind, str) else None,
        )

    def _error(
        self, message: str, sent: str, received: str, *, error_class: str | None = None
    ) -> MonitorError:
        return MonitorError(
            message,
            sent=sent,
            received=received,
            error_class=error_class,
            host=self._host,
            domain=self._domain,
        )


def _words(holder: object, key: str, prefix: str) -> tuple[str, ...] | None:
    """The names in a list such as ``["VIRTIO_CONFIG_S_DRIVER_OK: Driver setup and ready"]``,
    without what they begin with; None for another shape."""
    entries = holder.get(key) if isinstance(holder, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        return None
    return tuple(entry.partition(":")[0].strip().removeprefix(prefix) for entry in entries)
