"""The library's log, through :mod:`logging`, on the logger ``virtballoon.log``.

An INFO record for each host visited, and a WARNING for each failure of a host or domain. The
values in a message are also attributes of the record, None where they do not apply:
``virtballoon_host`` (a URI), ``virtballoon_domain``, ``virtballoon_uuid``, ``virtballoon_verdict``,
``virtballoon_code`` (libvirt's error number), ``virtballoon_status``, ``virtballoon_domains``
(their number), ``virtballoon_elapsed_seconds``. Names and messages can contain any characters:
sanitise them before showing them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from virtballoon.errors import VirtballoonError
from virtballoon.model.report import DomainReport, HostResult

if TYPE_CHECKING:
    import logging

    from virtballoon.model.outcome import IntervalChange

FIELDS: Final = tuple(
    f"virtballoon_{name}"
    for name in (
        *("host", "domain", "uuid", "verdict", "code"),
        *("status", "domains", "elapsed_seconds"),
    )
)

H = TypeVar("H", bound=HostResult[Any])


def get_logger(name: str) -> logging.Logger:
    """A logger of this package, which writes nothing unless the program configures logging."""
    import logging

    package = logging.getLogger("virtballoon")
    if not package.handlers:
        # Without any, Python prints warnings.
        package.addHandler(logging.NullHandler())
    return logging.getLogger(name)


def logger_in_use(name: str) -> logging.Logger | None:
    """A logger of this package; None until the process imports :mod:`logging`, which takes long."""
    return get_logger(name) if "logging" in sys.modules else None


def log_host(host: H, *, domains: int | None = None) -> H:
    """Log the result of a host, and return it.

    :param domains: the number of its domains, if the result does not have them
    """
    log = logger_in_use(__name__)
    if log is None:
        return host
    rows: Sequence[DomainReport | IntervalChange] = host.domains if domains is None else ()
    if host.error is not None:
        _warn(host, host.error, domain=host.error.domain, status=host.status.value)
    # A broken connection is one failure, not one per domain.
    seen = {id(host.error)}
    for row in rows:
        if row.has_failed and row.error is not None and id(row.error) not in seen:
            seen.add(id(row.error))
            verdict = row.verdict.value if isinstance(row, DomainReport) else None
            _warn(host, row.error, domain=row.name, uuid=row.uuid, verdict=verdict)
        if failure := _unanswered(host, row):
            _warn(host, failure, domain=row.name, uuid=row.uuid)
    count = len(rows) if domains is None else domains
    log.info(
        "%s: %s, %s, %.2f s",
        host.uri,
        host.status.value,
        "1 domain" if count == 1 else f"{count} domains",
        host.elapsed_seconds,
        extra=_fields(
            host=host.uri,
            status=host.status.value,
            domains=count,
            elapsed_seconds=round(host.elapsed_seconds, 3),
        ),
    )
    return host


def log_unrestored(messages: Iterable[str]) -> None:
    """Log what was changed for a while and could not be put back, where nothing else tells."""
    for message in messages:
        get_logger(__name__).warning("%s", message, extra=_fields())


def _unanswered(
    host: HostResult[object], row: DomainReport | IntervalChange
) -> VirtballoonError | None:
    """Why there is no update that was waited for, or an interval is not restored; None if there is
    no such failure or it is already logged."""
    if not isinstance(row, DomainReport):
        if row.waited is None or row.waited.answered is not False:
            return None
        text = f"it has not answered since its interval was set: {row.waited.reason}"
    elif row.refresh is None or row.refresh.is_well:
        return None
    elif row.refresh.error is not None or row.has_failed:
        return row.refresh.error
    else:
        text = f"its figures are older than requested: {row.refresh.reason}"
    return VirtballoonError(text, host=host.uri, domain=row.name)


def _warn(host: HostResult[object], error: VirtballoonError, **fields: str | None) -> None:
    get_logger(__name__).warning(
        "%s", error, extra=_fields(host=host.uri, code=error.code, **fields)
    )


def _fields(**given: object) -> dict[str, object]:
    return {name: given.get(name.removeprefix("virtballoon_")) for name in FIELDS}
