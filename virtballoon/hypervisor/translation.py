"""libvirt's errors as errors of this package, and the log of the calls.

Every call is logged on ``virtballoon.hypervisor`` at DEBUG, with its duration.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Protocol

import libvirt

from virtballoon.errors import (
    MONITOR_HELD,
    AccessDenied,
    Busy,
    ConnectError,
    ConnectionLost,
    DomainNotFound,
    LibvirtFailure,
    NotSupported,
    ReadOnly,
    VirtballoonError,
)
from virtballoon.hypervisor import uri as transport

log: Final = logging.getLogger("virtballoon.hypervisor")

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
    ReadOnly: "open the connection for writing",
    Busy: MONITOR_HELD,
    AccessDenied: "ask for the right to it in the host's polkit rules",
}


class Connected(Protocol):
    """A connection, as far as its errors need it."""

    uri: str

    @property
    def raw(self) -> Any:
        """The ``libvirt.virConnect``."""


@contextmanager
def call(
    text: str,
    *,
    connection: Connected,
    domain: str | None = None,
    invalid: type[VirtballoonError] = LibvirtFailure,
) -> Iterator[None]:
    """Log one call and turn what it raises into an error of ours.

    :param invalid: what "operation invalid" means for this call. libvirt has one number for every
        state that does not fit, and its text is translated.
    """
    started = time.monotonic()
    outcome = ""
    try:
        yield
    except libvirt.libvirtError as error:
        code = error.get_error_code()
        outcome = f" failed with code {code}"
        message = error.get_error_message() or str(error)
        if _is_dead(connection.raw):
            raise ConnectionLost(
                f"the connection broke: {message}", host=connection.uri, domain=domain, code=code
            ) from error
        kind = (
            invalid
            if code == libvirt.VIR_ERR_OPERATION_INVALID
            else _IN_USE.get(code, LibvirtFailure)
        )
        raise kind(
            message, host=connection.uri, domain=domain, code=code, hint=_HINTS.get(kind)
        ) from error
    except UnicodeDecodeError as error:
        # The binding takes all text for UTF-8, also what the daemon says in the words of a locale.
        outcome = " failed"
        raise LibvirtFailure(
            f"libvirt's answer is no UTF-8: {error.object!r:.200}",
            host=connection.uri,
            domain=domain,
        ) from error
    finally:
        where = f" of {domain!r}" if domain is not None else ""
        elapsed = (time.monotonic() - started) * 1000
        log.debug("%s: %s%s, %.1f ms%s", connection.uri, text, where, elapsed, outcome)


def as_kind(kind: type[VirtballoonError], error: VirtballoonError) -> VirtballoonError:
    """The same error as one of another kind."""
    return kind(
        error.message, host=error.host, domain=error.domain, code=error.code, hint=error.hint
    )


def _is_dead(raw: Any) -> bool:
    try:
        return not raw.isAlive()
    except libvirt.libvirtError:
        # A driver that cannot tell is no dead connection.
        return False


def keep_stderr_quiet() -> None:
    """Stop libvirt from printing its errors to stderr, for the whole process. For programs; a
    library must not decide it."""
    libvirt.registerErrorHandler(lambda _context, _error: None, None)


def connect_error(error: libvirt.libvirtError, uri: str, *, asked: bool) -> ConnectError:
    code = error.get_error_code()
    message = error.get_error_message() or str(error)
    # For a system error libvirt keeps the errno beside the number.
    number = error.get_int1() if code == libvirt.VIR_ERR_SYSTEM_ERROR else None
    if code in _AUTH or number in _EACCES:
        return transport.refused(message, uri, code=code, number=number, asked=asked)
    # libvirt has no words for an auth.conf that it cannot read.
    is_unknown = code == libvirt.VIR_ERR_INTERNAL_ERROR
    if is_unknown and (bad := transport.bad_credentials(message, uri, code=code)):
        return bad
    return transport.explain(message, number, uri, code=code)
