"""``--quiet``: silent when all is well, the exceptions alone when not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from virtballoon.cli.options import Settings, complain
from virtballoon.model.report import DomainReport, HostReport
from virtballoon.render import text

if TYPE_CHECKING:
    from virtballoon.model.outcome import HostChanges

H = TypeVar("H", bound="HostReport | HostChanges")


def shown(settings: Settings, hosts: Sequence[H]) -> Sequence[H]:
    """What is to be printed: everything; with ``--quiet`` on stdout, the exceptions."""
    return exceptions(hosts) if settings.is_quiet and settings.output is None else hosts


def exceptions(hosts: Sequence[H]) -> Sequence[H]:
    """The hosts that are not well, each with the domains alone that are not; none at all without
    any such domain."""
    reduced = [_reduced(host) for host in hosts]
    if not any(host.domains for host in reduced):
        return []
    return [host for host in reduced if host.domains or host.error is not None]


def complain_of_exceptions(hosts: Sequence[HostReport]) -> None:
    """Say in a line each which domains are not well, save those whose error is said anyway."""
    for host in exceptions(hosts):
        for row in host.domains:
            if row.error is None:
                age = row.age_seconds
                old = "" if age is None else f", figures {text.duration(age)} old"
                complain(f"domain {row.name!r} on {host.uri}: {row.verdict.value}{old}{_why(row)}")


def _why(row: DomainReport) -> str:
    if type(row) is DomainReport:
        return ""
    from virtballoon.doctor.results import Diagnosis

    found = (*row.possible_causes[:1], *row.findings) if isinstance(row, Diagnosis) else ()
    return f" ({', '.join(each.cause.value for each in found)})" if found else ""


def _reduced(host: H) -> H:
    unwell: Any = tuple(row for row in host.domains if not row.is_well)
    return replace(host, domains=unwell)
