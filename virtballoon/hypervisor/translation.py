"""Translates libvirt's errors to those of this package, and logs calls.

Every call is logged on ``virtballoon.hypervisor`` at DEBUG, with its duration.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import libvirt

from virtballoon.errors import (
    AccessDenied,
    Busy,
    ConnectError,
    ConnectionLost,
    DomainNotFound,
    DomainXMLError,
    LibvirtFailure,
    NotSupported,
    ReadOnly,
    VirtballoonError,
)
from virtballoon.hypervisor import uri as transport
from virtballoon.log import logger_in_use

if TYPE_CHECKING:
    from types import TracebackType

    from virtballoon.hypervisor.connection import Connection

#: The logger of all calls.
LOGGER: Final = "virtballoon.hypervisor"

_EACCES: Final = frozenset({errno.EPERM, errno.EACCES})
_AUTH: Final = frozenset(
    {
        libvirt.VIR_ERR_AUTH_FAILED,
        libvirt.VIR_ERR_AUTH_CANCELLED,
        libvirt.VIR_ERR_AUTH_UNAVAILABLE,
        libvirt.VIR_ERR_ACCESS_DENIED,
    }
)
_IN_USE: Final[Mapping[int, type[VirtballoonError]]] = {
    libvirt.VIR_ERR_INVALID_CONN: ConnectionLost,
    libvirt.VIR_ERR_NO_DOMAIN: DomainNotFound,
    libvirt.VIR_ERR_OPERATION_DENIED: ReadOnly,
    libvirt.VIR_ERR_ACCESS_DENIED: AccessDenied,
    libvirt.VIR_ERR_OPERATION_TIMEOUT: Busy,
    libvirt.VIR_ERR_NO_SUPPORT: NotSupported,
    libvirt.VIR_ERR_OPERATION_UNSUPPORTED: NotSupported,
    libvirt.VIR_ERR_CONFIG_UNSUPPORTED: NotSupported,
    libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED: NotSupported,
}
_HINTS: Final[Mapping[type[VirtballoonError], str]] = {
    ReadOnly: "a read-write connection is needed",
    Busy: "its QEMU hangs, or a job holds the domain",
    AccessDenied: "the host's polkit rules must allow it",
}


class call:  # noqa: N801 - it reads as a function
    """Log one call, which is the block, and turn libvirt's error into one of this package.

    A class, since a host has hundreds of calls and a generator takes twice as long.

    :param invalid: gives what "operation invalid" means for this call. libvirt has one number for
        every state that does not fit, and its text is translated.
    """

    def __init__(
        self,
        text: str,
        *,
        connection: Connection,
        domain: str | None = None,
        invalid: Callable[[], type[VirtballoonError]] = lambda: LibvirtFailure,
    ) -> None:
        self._text = text
        self._connection = connection
        self._domain = domain
        self._invalid = invalid

    def __enter__(self) -> None:
        self._started = time.monotonic()

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if (log := logger_in_use(LOGGER)) is not None:
            elapsed = (time.monotonic() - self._started) * 1000
            where = f" of {self._domain!r}" if self._domain is not None else ""
            outcome = "" if error is None else _outcome(error)
            uri = self._connection.uri
            log.debug("%s: %s%s, %.1f ms%s", uri, self._text, where, elapsed, outcome)
        if isinstance(error, libvirt.libvirtError):
            raise self._translated(error) from error
        if isinstance(error, UnicodeDecodeError):
            # The binding takes all text for UTF-8, also what the daemon says in the words of a
            # locale.
            message = f"libvirt's answer is not UTF-8: {error.object!r:.200}"
            raise LibvirtFailure(message, host=self._connection.uri, domain=self._domain) from error
        if isinstance(error, DomainXMLError):
            error.host, error.domain = self._connection.uri, self._domain

    def _translated(self, error: libvirt.libvirtError) -> VirtballoonError:
        code = error.get_error_code()
        message = error.get_error_message() or str(error)
        if _is_dead(self._connection.raw):
            kind: type[VirtballoonError] = ConnectionLost
            message = f"the connection broke: {message}"
        elif code == libvirt.VIR_ERR_OPERATION_INVALID:
            kind = self._invalid()
        else:
            kind = _IN_USE.get(code, LibvirtFailure)
        host, hint = self._connection.uri, _HINTS.get(kind)
        return kind(message, host=host, domain=self._domain, code=code, hint=hint)


def _outcome(error: BaseException) -> str:
    if isinstance(error, libvirt.libvirtError):
        return f" failed with code {error.get_error_code()}"
    return " failed" if isinstance(error, UnicodeDecodeError) else ""


def _is_dead(raw: Any) -> bool:
    try:
        return not raw.isAlive()
    except libvirt.libvirtError:
        # Not supported by this driver: not a broken connection.
        return False


def keep_stderr_quiet() -> None:
    """Stop libvirt from printing its errors to stderr, in the whole process."""
    libvirt.registerErrorHandler(lambda _context, _error: None, None)


def connect_error(error: libvirt.libvirtError, uri: str, *, asked: bool) -> ConnectError:
    code = error.get_error_code()
    message = error.get_error_message() or str(error)
    # For a system error, libvirt also has the errno.
    number = error.get_int1() if code == libvirt.VIR_ERR_SYSTEM_ERROR else None
    if code in _AUTH or number in _EACCES:
        return transport.refused(message, uri, code=code, number=number, asked=asked)
    # libvirt has no code for an unreadable auth.conf.
    is_unknown = code == libvirt.VIR_ERR_INTERNAL_ERROR
    if is_unknown and (bad := transport.bad_credentials(message, uri, code=code)):
        return bad
    return transport.explain(message, number, uri, code=code)
