"""The errors of this package: those of libvirt, of QEMU and of a domain's XML are raised as one of
these. The base classes say what failed: a host, a domain, or one call."""

from __future__ import annotations

from enum import StrEnum
from typing import Any


class VirtballoonError(Exception):
    """The base class.

    :ivar message: what failed, in one line, without host and domain
    :ivar host: the URI of the host concerned, or None
    :ivar domain: the name of the domain concerned, or None
    :ivar code: libvirt's error number (``virErrorNumber``), or None if libvirt was not involved
    :ivar hint: what to do about it, or None

    The original exception of libvirt or lxml, if any, is the ``__cause__``.
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


class InvalidInterval(VirtballoonError, ValueError):
    """Not a valid polling interval."""


class ConfigurationError(VirtballoonError):
    """A configuration file is unreadable or invalid, or a host or group is unknown."""


class HostError(VirtballoonError):
    """The host as a whole failed."""


class ConnectError(HostError):
    """No connection to the host could be made."""


class HostUnreachable(ConnectError):
    """The host's name is unknown, there is no route to it, or it does not answer."""


class HostKeyError(ConnectError):
    """The host's ssh key is not in ``known_hosts``, or differs from the one there."""


class AuthError(ConnectError):
    """The host refused access: authentication failed, or the user may not open the socket."""


class NoDaemon(ConnectError):
    """The host was reached, but no libvirtd listens there, or ssh finds no program to reach it."""


class ConnectionLost(HostError):
    """The connection broke while it was in use."""


class DomainError(VirtballoonError):
    """One domain failed; others are not affected."""


class DomainNotFound(DomainError):
    """No domain has this name or UUID, or it no longer exists."""


class AmbiguousDomain(DomainError):
    """Several domains match where one is needed."""


class NoBalloon(DomainError):
    """The domain has no balloon device."""


class NotRunning(DomainError):
    """The domain must be running for this operation."""


class TransientDomain(DomainError):
    """The domain has no persistent configuration."""


class BusyReason(StrEnum):
    """Why a domain is busy."""

    #: QEMU has not answered a command on its monitor.
    MONITOR = "monitor"
    #: A libvirt job holds the domain.
    JOB = "job"
    #: A limit of this package on time, or on the number of blocked calls.
    LIMIT = "limit"


class Busy(DomainError):
    """QEMU's monitor or a job holds the domain, or a limit of this package was reached."""

    reason: BusyReason

    def __init__(
        self,
        message: str,
        *,
        # libvirt's own error says that it waited for the job lock.
        reason: BusyReason = BusyReason.JOB,
        **where: Any,
    ) -> None:
        super().__init__(message, **where)
        self.reason = reason


class Incoming(Busy):
    """The domain is being migrated to this host; no other call is possible until that has ended."""


class DomainXMLError(DomainError):
    """The domain's XML is invalid."""


class MonitorError(DomainError):
    """QEMU refused a monitor command, or its answer is invalid.

    :ivar sent: the command that was sent, as JSON
    :ivar received: the answer as received, or None without an answer
    :ivar error_class: QEMU's error class, such as ``GenericError``, or None
    """

    def __init__(
        self,
        message: str,
        *,
        # Without them, an error could not be copied.
        sent: str = "",
        received: str | None = None,
        error_class: str | None = None,
        **where: Any,
    ) -> None:
        super().__init__(message, **where)
        self.sent = sent
        self.received = received
        self.error_class = error_class


class ReadOnly(VirtballoonError):
    """The operation needs a read-write connection."""


class AccessDenied(VirtballoonError):
    """The host's access rules (polkit, libvirt's own) forbid this call."""


class NotSupported(VirtballoonError):
    """This hypervisor driver, libvirt or QEMU does not support the operation."""


class LibvirtFailure(VirtballoonError):
    """Any other error of libvirt."""
