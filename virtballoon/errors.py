"""The errors of this package.

Whatever goes wrong below — in libvirt, in QEMU, in a domain's XML — reaches a caller as one of
these, never as a foreign exception, and never with an empty message::

    VirtballoonError
    ├── InvalidInterval      (also a ValueError) no polling interval
    ├── ConfigurationError   a configuration file is wrong, or lacks what was asked of it
    ├── HostError            the host as a whole
    │   ├── ConnectError     no connection, for whatever reason: a bad URI, say
    │   │   ├── HostUnreachable  no way to the host, or no such host
    │   │   ├── HostKeyError     ssh does not know the host's key, or knows another
    │   │   ├── AuthError        the host is there and refused us
    │   │   └── NoDaemon         the host is there, and no libvirtd
    │   └── ConnectionLost   the connection broke while it was in use
    ├── DomainError          one domain
    │   ├── DomainNotFound   unknown, or gone since it was listed
    │   ├── AmbiguousDomain  more than one where one is meant
    │   ├── NoBalloon        it has no balloon device
    │   ├── NotRunning       something live was asked of a domain that is shut off
    │   ├── TransientDomain  something persistent was asked of a transient domain
    │   ├── Busy             QEMU's monitor or a job holds the domain
    │   │   └── Incoming         it is being migrated to this host
    │   ├── DomainXMLError   its XML cannot be read
    │   └── MonitorError     QEMU refused, or answered in a shape nobody knows
    ├── ReadOnly             the connection may not write
    ├── AccessDenied         the host's access rules forbid it
    ├── NotSupported         this driver, libvirt or QEMU cannot do it
    └── LibvirtFailure       anything else that libvirt reports
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

#: What keeps every caller from a domain.
MONITOR_HELD: Final = "its QEMU hangs, or a job holds the domain"


class VirtballoonError(Exception):
    """The root of the tree.

    :ivar message: what failed, in one line, without host and domain
    :ivar host: the URI of the host concerned, or None
    :ivar domain: the name of the domain concerned, or None
    :ivar code: libvirt's error number (``virErrorNumber``), or None if libvirt was not involved
    :ivar hint: what to do about it, or None

    The foreign exception that caused it, if any, is its ``__cause__``.
    """

    def __init__(
        self,
        message: str,
        *,
        host: str | None = None,
        domain: str | None = None,
        code: int | None = None,
        hint: str | None = None,
    ) -> None:
        self.message = " ".join(message.split()) or f"{type(self).__name__} without a message"
        self.host = host
        self.domain = domain
        self.code = code
        self.hint = hint
        super().__init__(self.message)

    def __str__(self) -> str:
        where = [f"domain {self.domain!r}"] if self.domain is not None else []
        where += [f"on {self.host}"] if self.host is not None else []
        text = f"{' '.join(where)}: {self.message}" if where else self.message
        return f"{text} ({self.hint})" if self.hint else text

    def __reduce__(self) -> tuple[Any, ...]:
        # The default would call the class with the message alone and lose the keywords.
        return _rebuild, (type(self), self.message, dict(self.__dict__))


def _rebuild(kind: type[VirtballoonError], message: str, state: dict[str, Any]) -> VirtballoonError:
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    error.__dict__.update(state)
    return error


class InvalidInterval(VirtballoonError, ValueError):
    """The value is no polling interval that QEMU takes."""


class ConfigurationError(VirtballoonError):
    """A configuration file cannot be read or is wrong, or has no such host or group."""


class HostError(VirtballoonError):
    """The host as a whole failed."""


class ConnectError(HostError):
    """No connection to the host could be made."""


class HostUnreachable(ConnectError):
    """There is no way to the host: its name is unknown, or nothing answers there."""


class HostKeyError(ConnectError):
    """ssh does not know the host's key, or knows another than the host has."""


class AuthError(ConnectError):
    """The host is there and refused us: authentication, or a socket we may not open."""


class NoDaemon(ConnectError):
    """The host is there, but no libvirtd listens, or nothing there leads to it."""


class ConnectionLost(HostError):
    """The connection broke while it was in use."""


class DomainError(VirtballoonError):
    """One domain failed; others are not concerned."""


class DomainNotFound(DomainError):
    """No domain answers to this name or UUID, or it vanished since it was listed."""


class AmbiguousDomain(DomainError):
    """More than one domain matches where one is meant."""


class NoBalloon(DomainError):
    """The domain has no balloon device."""


class NotRunning(DomainError):
    """Something live was asked of a domain that does not run."""


class TransientDomain(DomainError):
    """Something persistent was asked of a domain that has no persistent configuration."""


class BusyReason(StrEnum):
    """Why a domain is busy.

    :cvar MONITOR: QEMU has not answered a command on its monitor
    :cvar JOB: a job of libvirt's holds the domain
    :cvar LIMIT: a limit of this package: on time, or on calls that may be blocked
    """

    MONITOR = "monitor"
    JOB = "job"
    LIMIT = "limit"


class Busy(DomainError):
    """QEMU's monitor or a job holds the domain.

    :ivar reason: which of them, or a limit of this package
    """

    reason: BusyReason

    def __init__(
        self,
        message: str,
        *,
        # Libvirt's own error says that it waited for the job lock.
        reason: BusyReason = BusyReason.JOB,
        host: str | None = None,
        domain: str | None = None,
        code: int | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, host=host, domain=domain, code=code, hint=hint)
        self.reason = reason


class Incoming(Busy):
    """The domain is being migrated to this host, which takes no other call until it has ended."""


class DomainXMLError(DomainError):
    """The domain's XML cannot be read."""


class MonitorError(DomainError):
    """QEMU refused a monitor command, or answered in a shape nobody knows.

    :ivar sent: the command as it was sent, JSON
    :ivar received: the answer as it came, or None if none did
    :ivar error_class: QEMU's error class, such as ``GenericError``, or None
    """

    def __init__(
        self,
        message: str,
        *,
        sent: str,
        received: str | None,
        error_class: str | None = None,
        host: str | None = None,
        domain: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, host=host, domain=domain, hint=hint)
        self.sent = sent
        self.received = received
        self.error_class = error_class


class ReadOnly(VirtballoonError):
    """The connection is read-only and was asked to write."""


class AccessDenied(VirtballoonError):
    """The host's access rules (polkit, libvirt's own) forbid this call."""


class NotSupported(VirtballoonError):
    """This hypervisor driver, libvirt or QEMU cannot do what was asked."""


class LibvirtFailure(VirtballoonError):
    """Anything that libvirt reports and that has no class of its own here."""
