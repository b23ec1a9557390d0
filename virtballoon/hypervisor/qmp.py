"""Speaks QMP to a guest's QEMU, for the balloon and nothing else.

The module knows neither libvirt nor sockets: a :class:`Monitor` is given a function that carries
one JSON command to QEMU and returns the JSON answer. :func:`is_allowed` is the closed list of what
is sent (QEMU: docs/interop/virtio-balloon-stats.rst, qapi/qom.json, qapi/misc.json). No command
that QEMU calls unstable (``x-``) is on it: ``x-query-virtio-status`` aborts QEMU 11.1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from virtballoon.errors import MonitorError
from virtballoon.model.balloon import PERIPHERAL, PERIPHERAL_ANON, QOM_TYPES
from virtballoon.model.memory import Figures
from virtballoon.model.statistics import MemoryStats, figure

#: The longest polling interval that QEMU takes, in seconds (hw/virtio/virtio-balloon.c).
MAX_INTERVAL: Final = 2**32 - 1

STATS: Final = "guest-stats"
INTERVAL: Final = "guest-stats-polling-interval"

# The guest's statistics are well below 1 KiB, a qom-list a few tens of KiB.
_MAX_ANSWER: Final = 4 * 1024 * 1024

# Any object of the machine, and what may be a device: an object in one of its containers. A name
# can contain anything but a slash.
_OBJECT: Final = r"/machine(/[^/]+)*"
_DEVICE: Final = r"/machine/[^/]+(/[^/]+)+"


def _is_device(path: object) -> bool:
    return isinstance(path, str) and re.fullmatch(_DEVICE, path) is not None


# All that is sent: each command with each of its arguments.
_ALLOWED: Final[Mapping[str, Mapping[str, Callable[[Any], bool]]]] = {
    "query-version": {},
    "qom-list": {"path": lambda path: isinstance(path, str) and bool(re.fullmatch(_OBJECT, path))},
    "qom-list-get": {
        "paths": lambda paths: isinstance(paths, list) and all(map(_is_device, paths))
    },
    "qom-get": {"path": _is_device, "property": lambda name: name in (STATS, INTERVAL)},
    "qom-set": {
        "path": _is_device,
        "property": lambda name: name == INTERVAL,
        "value": lambda value: type(value) is int and 0 <= value <= MAX_INTERVAL,
    },
}


def is_allowed(command: str, arguments: Mapping[str, object]) -> bool:
    """Whether QEMU may be sent this command with exactly these arguments."""
    checks = _ALLOWED.get(command)
    return (
        checks is not None
        and arguments.keys() == checks.keys()
        and all(check(arguments[name]) for name, check in checks.items())
    )


class Monitor:
    """The monitor of one guest's QEMU. Each method raises :class:`MonitorError` where QEMU refuses
    or the answer has another shape.

    :param send: carries one command, JSON, and returns the answer, JSON; what it raises passes
        through
    :param has_list_get: whether QEMU may have ``qom-list-get``, as from 10.1 on
    :param host: the host's URI, for errors
    :param domain: the domain's name, for errors
    """

    def __init__(
        self,
        send: Callable[[str], str],
        *,
        has_list_get: bool = False,
        host: str | None = None,
        domain: str | None = None,
    ) -> None:
        self._send = send
        self._has_list_get = has_list_get
        self._host = host
        self._domain = domain

    def children(self, path: str) -> dict[str, str]:
        """The child objects at a QOM path (``qom-list``): their types by name, which is the last
        part of their path."""
        command, answer, value = self._execute("qom-list", {"path": path})
        found = {}
        for entry in value if isinstance(value, list) else [value]:
            match entry:
                case {"name": str(name), "type": str(kind)}:
                    if kind.startswith("child<") and kind.endswith(">"):
                        found[name] = kind[len("child<") : -1]
                case _:
                    raise self._error("qom-list gave no list of properties", command, answer)
        return found

    def guest_stats(self, path: str) -> Figures:
        """The guest's figures and their last update (``qom-get guest-stats``)."""
        return self._figures(*self._execute("qom-get", {"path": path, "property": STATS}))

    def _figures(self, command: str, answer: str, value: object) -> Figures:
        match value:
            case {"stats": dict(stats), "last-update": update} if figure(update) is not None:
                return Figures(stats=MemoryStats.from_qemu(stats), last_update=update)
        raise self._error("guest-stats has no stats or no last-update", command, answer)

    def polling_interval(self, path: str) -> int:
        """The polling interval that QEMU has, in seconds; 0 for off."""
        return self._interval(*self._execute("qom-get", {"path": path, "property": INTERVAL}))

    def _interval(self, command: str, answer: str, value: object) -> int:
        interval = figure(value)
        if interval is None or interval > MAX_INTERVAL:
            raise self._error("the polling interval is not a number of seconds", command, answer)
        return interval

    def interval_and_stats(self, path: str) -> tuple[int, Figures]:
        """What :meth:`polling_interval` and :meth:`guest_stats` give, in one call where QEMU has
        ``qom-list-get`` (from 10.1 on)."""
        if self._has_list_get:
            try:
                command, answer, value = self._execute("qom-list-get", {"paths": [path]})
            except MonitorError as error:
                # The guest's QEMU can be older than the one that is installed.
                if error.error_class != "CommandNotFound":
                    raise
                self._has_list_get = False
            else:
                values = self._property_values(command, answer, value)
                return (
                    self._interval(command, answer, values.get(INTERVAL)),
                    self._figures(command, answer, values.get(STATS)),
                )
        return self.polling_interval(path), self.guest_stats(path)

    def _property_values(self, command: str, answer: str, value: object) -> dict[str, object]:
        match value:
            case [{"properties": [*entries]}]:
                return {
                    entry["name"]: entry.get("value")
                    for entry in entries
                    if isinstance(entry, dict) and isinstance(entry.get("name"), str)
                }
        raise self._error("qom-list-get gave no list of properties", command, answer)

    def set_polling_interval(self, path: str, seconds: int) -> None:
        """Set the polling interval, in seconds; 0 turns polling off. libvirt does not learn of
        it."""
        self._execute("qom-set", {"path": path, "property": INTERVAL, "value": seconds})

    def version(self) -> tuple[int, int]:
        """QEMU's version (``query-version``): that of this guest's process, which may be older
        than what is installed."""
        command, answer, value = self._execute("query-version")
        match value:
            case {"qemu": {"major": int(major), "minor": int(minor)}}:
                return major, minor
        raise self._error("query-version gave no version", command, answer)

    def find_balloon(self, alias: str | None = None) -> str | None:
        """The QOM path of the guest's balloon, or None if it has none: the device with this alias,
        else one that has an id, else one without.

        libvirt walks the whole tree after that, but QEMU has a device of ``-device`` in no other
        place (softmmu/qdev-monitor.c, ``qdev_set_id``).
        """
        named = self._balloons_at(PERIPHERAL)
        if alias is not None and f"{PERIPHERAL}/{alias}" in named:
            return f"{PERIPHERAL}/{alias}"
        return next(iter(named or self._balloons_at(PERIPHERAL_ANON)), None)

    def _balloons_at(self, parent: str) -> list[str]:
        children = self.children(parent).items()
        return [f"{parent}/{name}" for name, kind in children if kind in QOM_TYPES]

    def _execute(self, name: str, arguments: dict[str, Any] | None = None) -> tuple[str, str, Any]:
        request = {"execute": name} | ({"arguments": arguments} if arguments is not None else {})
        command = json.dumps(request)
        if not is_allowed(name, arguments or {}):
            raise self._error("not a command that virtballoon sends to QEMU", command, None)
        answer = self._send(command)
        if len(answer) > _MAX_ANSWER:
            raise self._error(f"an answer of {len(answer)} characters", command, answer[:1000])
        try:
            document = json.loads(answer)
        except (ValueError, RecursionError) as error:
            raise self._error("the answer is not JSON", command, answer) from error
        match document:
            case {"error": error}:
                raise self._refusal(error, command, answer)
            case {"return": value}:
                return command, answer, value
        raise self._error("the answer has neither return nor error", command, answer)

    def _refusal(self, error: object, command: str, answer: str) -> MonitorError:
        # QMP: {"error": {"class": …, "desc": …}} (docs/interop/qmp-spec).
        details = error if isinstance(error, dict) else {}
        kind, text = details.get("class"), details.get("desc")
        if not isinstance(text, str) or not text.strip():
            text = "QEMU returned an error without a message"
        kind = kind if isinstance(kind, str) else None
        return self._error(text, command, answer, error_class=kind)

    def _error(
        self, message: str, sent: str, received: str | None, *, error_class: str | None = None
    ) -> MonitorError:
        return MonitorError(
            message,
            sent=sent,
            received=received,
            error_class=error_class,
            host=self._host,
            domain=self._domain,
        )
