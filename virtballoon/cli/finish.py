"""What commands print: data, messages, progress, and the exit status of a reading."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from virtballoon.cli.context import NOTHING, OK, PARTLY, PROGRAM, Settings, warn
from virtballoon.errors import VirtballoonError
from virtballoon.hypervisor.uri import default_uri
from virtballoon.model.report import DomainReport, HostReport, HostResult, unmatched_everywhere
from virtballoon.model.source import Source
from virtballoon.render import documents, text
from virtballoon.render.formats import FORMATS, Data, Record

if TYPE_CHECKING:
    from virtballoon.doctor.results import CommandPrefixes
    from virtballoon.model.outcome import HostChanges, HostQomPath
    from virtballoon.render.progress import Done

H = TypeVar("H", bound="HostReport | HostChanges")
T = TypeVar("T", bound="HostResult[object]")


# Messages.


def warn_of_errors(
    settings: Settings,
    hosts: Iterable[HostResult[object]],
    errors: Iterable[VirtballoonError | None],
) -> bool:
    """Print the errors of hosts and domains, unless they are logged; whether there were any."""
    # A connection that broke is one error, not one of each domain behind it.
    found = {id(error): error for error in (*(host.error for host in hosts), *errors) if error}
    for error in found.values() if not settings.is_logged else ():
        warn(str(error))
    return bool(found)


def warn_of_failures(
    settings: Settings, hosts: Sequence[HostReport | HostChanges], *, result: str = ""
) -> tuple[bool, Sequence[str]]:
    """Print what went wrong with hosts and domains; return whether there were errors, and the words
    that match no domain.

    :param result: what follows from such a word
    """
    rows = [row for host in hosts for row in host.domains]
    failed = warn_of_errors(settings, hosts, [row.error for row in rows if row.has_failed])
    unmatched = unmatched_everywhere(hosts)
    for word in unmatched:
        warn(f"no domain matches {word!r}{result}")
    if not rows and not settings.where and hosts[0].error is None:
        warn_of_session(settings, hosts[0].uri)
    return failed, unmatched


def default_host_hint(settings: Settings, uri: str) -> str | None:
    """The message for a host without domains that libvirt chose; None if it was named."""
    if not settings.is_unnamed:
        return None
    hint = f"no domain on {uri}, the default since no host is named; "
    if uri.startswith("qemu:///session"):
        return f"{hint}for the system's domains use -c qemu:///system (needs the group libvirt)"
    return f"{hint}name one with -c URI"


def warn_of_session(settings: Settings, uri: str) -> None:
    """Say which daemon answered if it may be the wrong one: an ordinary user's own session."""
    if uri.startswith("qemu:///session") and (hint := default_host_hint(settings, uri)):
        warn(hint)


@contextlib.contextmanager
def progress(
    settings: Settings, *, domains: bool = False
) -> Iterator[tuple[Done | None, Callable[[str, Sequence[str]], None] | None]]:
    """Show on a terminal which hosts, of several, have not answered yet: what to call with a host's
    result, and with its domains that are waited for; None where nothing is shown.

    :param domains: whether domains are waited for, which is shown with a single host, too
    """
    on_a_terminal = sys.stdout.isatty() and sys.stderr.isatty()
    is_wanted = not (settings.is_verbose or settings.is_quiet or settings.is_logged)
    if not on_a_terminal or not is_wanted or (len(settings.targets) == 1 and not domains):
        yield None, None
        return
    from virtballoon.render.progress import Progress

    labels = {uri: settings.label(uri) for uri in settings.targets if uri is not None}
    with Progress(labels or {"": ""}, stream=sys.stderr) as line:
        yield line.done, line.note


def command_prefix(settings: Settings, uri: str) -> list[str]:
    """The words of a command line up to the command's name, for the same configuration and one
    host."""
    words = [PROGRAM]
    if settings.config_file is not None:
        words += ["--config-file", settings.config_file]
    if settings.targets != (None,):
        names = [named.name for named in settings.named(uri)]
        words += ["-H", names[0]] if names else ["-c", uri]
    return words


def command_prefixes(settings: Settings, uri: str) -> CommandPrefixes:
    """How the commands of a diagnosis begin for one host; without its URI where that is the
    default."""
    from virtballoon.doctor.results import CommandPrefixes

    is_default = settings.targets == (None,) or (
        uri == default_uri() and not settings.configuration.hosts
    )
    is_short = is_default and settings.config_file is None
    needs_uri = not is_default or os.environ.get("VIRSH_DEFAULT_CONNECT_URI", uri) != uri
    return CommandPrefixes(
        virtballoon=(PROGRAM,) if is_short else tuple(command_prefix(settings, uri)),
        virsh=("virsh", "-c", uri) if needs_uri else ("virsh",),
        is_qom=settings.configuration.via is Source.QOM,
    )


# Data.


def print_data(settings: Settings, data: Data) -> None:
    """Print data in the chosen format."""
    FORMATS[settings.format](data, settings.stream, settings.has_header)
    # What cannot be written is noticed here.
    settings.stream.flush()


def print_hosts(
    settings: Settings,
    hosts: Sequence[HostReport | HostChanges | HostQomPath],
    columns: Callable[[], Sequence[str]],
    table: Callable[[], object],
    *,
    rows: Iterable[tuple[HostReport, DomainReport]] | None = None,
) -> None:
    """Print hosts and domains.

    :param rows: the domains in the order of JSON lines and CSV, where that is another
    """

    def document() -> Record:
        records = map(documents.host_record, hosts)
        return documents.document(records, generated_at=settings.started)

    def lines() -> Iterator[Record]:
        if rows is not None:
            yield from ({"uri": host.uri} | documents.domain_record(row) for host, row in rows)
        else:
            for host in hosts:
                yield from ({"uri": host.uri} | each for each in documents.domain_records(host))

    if hosts or not settings.is_quiet:
        print_data(settings, Data(document, lines, columns, table))


# Readings.


def visit_hosts(settings: Settings, visit: Callable[[str | None], T]) -> tuple[T, ...]:
    """Call a function of the library for each of the selected hosts."""
    from virtballoon.engine.fleet import on_hosts

    with progress(settings) as (on_result, _):
        return on_hosts(settings.targets, visit, jobs=settings.jobs, on_result=on_result)


def read_selected(
    settings: Settings,
    domains: Sequence[str],
    *,
    inactive: bool = False,
    keep: bool = True,
    max_age: float | None = None,
    rates: float | None = None,
) -> tuple[HostReport, ...]:
    """Read the selected hosts.

    :param keep: whether the domains that the configuration excludes are read
    """
    from virtballoon.operations.fleet import read_hosts

    with progress(settings, domains=max_age is not None) as (on_result, on_waiting):
        return read_hosts(
            settings.targets,
            settings.words(domains, keep=keep),
            inactive=inactive,
            via=settings.via,
            timeout=settings.timeout,
            jobs=settings.jobs,
            max_age=max_age,
            rates_over=rates,
            on_result=on_result,
            on_waiting=on_waiting,
        )


def is_none_met(settings: Settings, hosts: Sequence[HostReport | HostChanges]) -> bool:
    """Whether no domain meets the conditions, which is printed, as grep has it a failure."""
    is_none = bool(settings.where) and not any(host.domains for host in hosts)
    if is_none and all(host.error is None and not host.unmatched for host in hosts):
        conditions = " ".join(f"--where {shlex.quote(word)}" for word in settings.where)
        warn(f"no domain matches {conditions}")
    return is_none


def finish_reading(settings: Settings, hosts: Sequence[HostReport], words: Sequence[str]) -> int:
    """Print what could not be read, and with ``--quiet`` and a file which domains have problems;
    return the exit status."""
    if settings.is_quiet and settings.output is not None:
        warn_of_problems(hosts)
    for host in hosts:
        if host.clock_problem is not None:
            warn(host.clock_problem)
    failed, unmatched = warn_of_failures(settings, hosts)
    if not any(host.domains for host in hosts):
        if all(host.error is not None for host in hosts):
            return NOTHING
        if is_none_met(settings, hosts):
            return NOTHING
        if words:
            if not unmatched:
                warn("no running domain matches (--all includes those that do not run)")
            return NOTHING
    return PARTLY if failed or unmatched else OK


# --quiet.


def shown(settings: Settings, hosts: Sequence[H]) -> Sequence[H]:
    """The hosts and domains to print: all; with ``--quiet`` on stdout, those with problems."""
    return hosts if settings.shows_all else with_problems(hosts)


def with_problems(hosts: Sequence[H]) -> Sequence[H]:
    """The hosts with problems, each with only its domains that have one; none if no domain has."""
    reduced = []
    for host in hosts:
        rows: Any = tuple(row for row in host.domains if not row.is_well)
        reduced.append(replace(host, domains=rows))
    if not any(host.domains for host in reduced):
        return []
    return [host for host in reduced if host.domains or host.error is not None]


def warn_of_problems(hosts: Sequence[HostReport]) -> None:
    """Print the domains with problems, a line each, without those whose error is printed anyway."""
    for host in with_problems(hosts):
        for row in host.domains:
            if row.error is None:
                age = row.age_seconds
                old = "" if age is None else f", figures {text.duration(age)} old"
                found = [*getattr(row, "possible_causes", ())[:1], *getattr(row, "findings", ())]
                why = f" ({', '.join(each.cause.value for each in found)})" if found else ""
                warn(f"domain {row.name!r} on {host.uri}: {row.verdict.value}{old}{why}")
