"""``virtballoon export``: metrics for Prometheus, printed, written to a file or served."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Final

import click

from virtballoon.cli.options import OK, Settings, complain, with_settings
from virtballoon.cli.set_interval import interval_of
from virtballoon.hypervisor.uri import default_uri

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import FrameType

    from virtballoon.exporter.ensuring import IntervalEnsurer
    from virtballoon.exporter.snapshots import SharedReader
    from virtballoon.model.outcome import HostChanges

_SYSTEMD: Final = "systemd"


def _seconds(_ctx: click.Context, _param: click.Parameter, value: float | None) -> float | None:
    if value is not None and not (value >= 0 and math.isfinite(value)):
        raise click.BadParameter("it is a number of seconds from 0 on.")
    return value


def _interval(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    seconds = interval_of(ctx, param, value)
    if seconds == 0:
        raise click.BadParameter("0 turns polling off.")
    return seconds


@click.command("export", short_help="Export metrics for Prometheus.")
@click.option("--all", "inactive", is_flag=True, help="Export domains that do not run, too.")
@click.option(
    "--listen",
    metavar="ADDRESS",
    multiple=True,
    help="Serve on this address, such as 127.0.0.1:9177 or [::1]:9177, or, with systemd, on the "
    "sockets that it passes; several may be given.",
)
@click.option("--openmetrics", is_flag=True, help="Print OpenMetrics.")
@click.option(
    "--compat",
    type=click.Choice(("libvirt-exporter",)),
    help="Add the names that other exporters have for the same figures.",
)
@click.option(
    "--max-age",
    type=float,
    callback=_seconds,
    metavar="SECONDS",
    help="How old figures may be that are served again, with --listen.  [default: 1]",
)
@click.option(
    "--ensure-interval",
    callback=_interval,
    metavar="SECONDS",
    help="Have domains polled that are not, with --listen; needs write access.",
)
@with_settings
def command(
    settings: Settings,
    *,
    inactive: bool,
    listen: tuple[str, ...],
    openmetrics: bool,
    compat: str | None,
    max_age: float | None,
    ensure_interval: int | None,
) -> int:
    """Export every guest's memory figures, their age and verdict for Prometheus: print them, write
    them to a file with --output, or serve them with --listen.

    Reading is read-only and marks no guest, unless --via qom is given. What is served is as old as
    the scrape, and takes no longer than the scraper waits.
    """
    if settings.format != "table":
        raise click.UsageError("--format does not go with export, which has a format of its own")
    if settings.is_quiet and settings.output is None:
        raise click.UsageError("--quiet goes with --output here")
    if listen and (openmetrics or settings.output is not None):
        option = "--openmetrics" if openmetrics else "--output"
        raise click.UsageError(f"{option} does not go with --listen")
    if not listen and (max_age is not None or ensure_interval is not None):
        option = "--max-age" if max_age is not None else "--ensure-interval"
        raise click.UsageError(f"{option} goes with --listen")
    if listen:
        reader = _shared_reader(
            settings,
            inactive=inactive,
            max_age=1.0 if max_age is None else max_age,
            ensurer=None if ensure_interval is None else _ensurer(settings, ensure_interval),
        )
        return _serve(listen, reader, libvirt_exporter=compat is not None)
    return _print(
        settings, inactive=inactive, openmetrics=openmetrics, libvirt_exporter=compat is not None
    )


def _print(settings: Settings, *, inactive: bool, openmetrics: bool, libvirt_exporter: bool) -> int:
    from virtballoon.cli.list_domains import finish_reading
    from virtballoon.cli.options import progress

    # Before the hosts are read: it may be missing.
    from virtballoon.exporter.metrics import exposition
    from virtballoon.operations.fleet import read_hosts

    targets = _named(settings)
    begun_at = time.time()
    with progress(settings) as each:
        hosts = read_hosts(
            tuple(targets.values()),
            inactive=inactive,
            via=settings.via,
            timeout=settings.timeout,
            jobs=settings.jobs,
            on_result=each,
        )
    from virtballoon.exporter.snapshots import Snapshot

    reports = dict(zip(targets, hosts, strict=True))
    snapshot = Snapshot(hosts=reports, begun_at=begun_at, age_seconds=time.time() - begun_at)
    text = exposition(snapshot, openmetrics=openmetrics, libvirt_exporter=libvirt_exporter).decode()
    if settings.stream.isatty():
        from virtballoon.render.text import printable

        # Names are escaped for Prometheus, which leaves what acts on a terminal.
        text = "".join(f"{printable(line)}\n" for line in text.split("\n")[:-1])
    click.echo(text, file=settings.stream, nl=False)
    # That no host answers is what whoever collects the file has to be told.
    settings.is_complete = True
    return finish_reading(settings, hosts, ())


def _named(settings: Settings) -> dict[str, str | None]:
    """The hosts by what their series are labelled with: the configuration's name, else the URI.
    It is the same whether the host answers or not."""
    named: dict[str, str | None] = {}
    for target in settings.targets:
        hosts = settings.named(target)
        uri = target or default_uri()
        name = hosts[0].name if hosts else uri
        named[uri if name in named else name] = target
    return named


def _shared_reader(
    settings: Settings, *, inactive: bool, max_age: float, ensurer: IntervalEnsurer | None
) -> SharedReader:
    from virtballoon.errors import ConfigurationError
    from virtballoon.exporter.snapshots import SharedReader

    last = _named(settings)
    complaint = ""

    def hosts() -> Mapping[str, str | None]:
        # The configuration may have changed; a broken one must not end the service.
        nonlocal last, complaint
        try:
            last = _named(settings.refined({}))
            complaint = ""
        except ConfigurationError as error:
            if str(error) != complaint:
                complaint = str(error)
                complain(f"{complaint}; continuing with the hosts as they were")
        return last

    return SharedReader(
        hosts,
        inactive=inactive,
        via=settings.via,
        timeout=settings.timeout,
        jobs=settings.jobs,
        max_age=max_age,
        on_read=ensurer.ensure if ensurer is not None else None,
    )


def _ensurer(settings: Settings, seconds: int) -> IntervalEnsurer:
    from virtballoon.errors import InvalidInterval
    from virtballoon.exporter.ensuring import IntervalEnsurer

    def report(host: HostChanges) -> None:
        if settings.log is None:
            _tell(host, seconds)

    try:
        return IntervalEnsurer(seconds, timeout=settings.timeout, on_result=report)
    except InvalidInterval as error:
        raise click.UsageError(str(error)) from error


def _tell(host: HostChanges, seconds: int) -> None:
    if host.error is not None:
        complain(str(host.error))
    for change in host.domains:
        if change.error is not None:
            complain(str(change.error))
        elif change.changed:
            complain(f"domain {change.name!r} on {host.uri}: polled every {seconds} s from now on")


def _serve(addresses: Sequence[str], reader: SharedReader, *, libvirt_exporter: bool) -> int:
    import signal

    from virtballoon.exporter import http as serving
    from virtballoon.exporter.metrics import Exporter
    from virtballoon.system.cleanup import end_on_signals

    sockets = []
    for address in dict.fromkeys(addresses):
        if address == _SYSTEMD:
            passed = serving.passed_by_systemd()
            if not passed:
                raise click.UsageError("systemd has passed no socket")
            sockets += passed
            continue
        try:
            sockets.append(serving.listen(address))
        except ValueError as error:
            raise click.UsageError(str(error)) from error
    exporter = Exporter(reader, libvirt_exporter=libvirt_exporter)
    with serving.Server(sockets, exporter.scrape) as server:

        def stop(_number: int, _frame: FrameType | None) -> None:
            server.stop()
            # A second signal does not wait for the requests that are still being answered.
            end_on_signals()

        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, stop)
        # The handler alone would be noticed only when something else wakes the main thread.
        signal.set_wakeup_fd(server.wakeup, warn_on_full_buffer=False)
        complain(f"serving metrics on {', '.join(server.addresses)}")
        serving.notify("READY=1")
        server.serve()
        serving.notify("STOPPING=1")
        server.finish()
        reader.close()
        signal.set_wakeup_fd(-1)
    return OK
