"""``virtballoon export``: metrics for Prometheus, printed, written to a file or served."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from virtballoon.cli import finish, options
from virtballoon.cli.context import OK, Settings, warn
from virtballoon.hypervisor.uri import default_uri, named_host

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

    from virtballoon.exporter.metrics import Collector
    from virtballoon.exporter.snapshots import SharedReader
    from virtballoon.model.outcome import HostChanges
    from virtballoon.sizing.advisor import Advisor

_SYSTEMD: Final = "systemd"


@click.command("export", cls=options.Command, short_help="Export metrics for Prometheus.")
@click.option(
    "--listen",
    metavar="ADDRESS",
    multiple=True,
    help="Serve on an address such as 127.0.0.1:9177 or [::1]:9177, or on sockets passed by "
    "systemd (systemd); repeatable.",
)
@click.option("--openmetrics", is_flag=True, help="Print the OpenMetrics format.")
@click.option(
    "--compat",
    type=click.Choice(("libvirt-exporter",)),
    metavar="libvirt-exporter",
    help="Add the metric names of other exporters.",
)
@click.option(
    "--label",
    "labels",
    metavar="NAME",
    multiple=True,
    help="Export this label of domains, in place of those of the platforms; repeatable.",
)
@click.option(
    "--max-age",
    type=options.Seconds(0),
    metavar="SECONDS",
    help="With --listen: reuse figures up to this age  [1s]",
)
@click.option(
    "--ensure-interval",
    type=options.Interval(1),
    metavar="SECONDS",
    help="With --listen: set this interval where polling is off; needs write access.",
)
@click.option("--advice", is_flag=True, help="Add what advise says, by the history of record.")
@options.store
@options.domains
@options.output
@options.quiet
@options.run
def command(
    settings: Settings,
    *,
    domains: tuple[str, ...],
    inactive: bool,
    listen: tuple[str, ...],
    openmetrics: bool,
    compat: str | None,
    labels: tuple[str, ...],
    max_age: float | None,
    ensure_interval: int | None,
    advice: bool,
    store: str | None,
) -> int:
    """Export the memory figures of running domains, their age and verdict for Prometheus: on
    stdout, to a file (--output), or over HTTP (--listen).

    DOMAIN is a name, a UUID or a shell pattern. Reading is read-only and does not taint guests,
    unless --via qom is given.
    """
    if settings.is_quiet and settings.output is None:
        raise click.UsageError("--quiet requires --output")
    if listen and (openmetrics or settings.output is not None):
        option = "--openmetrics" if openmetrics else "--output"
        raise click.UsageError(f"{option} cannot be combined with --listen")
    if not listen and (max_age is not None or ensure_interval is not None):
        option = "--max-age" if max_age is not None else "--ensure-interval"
        raise click.UsageError(f"{option} requires --listen")
    if store is not None and not advice:
        raise click.UsageError("--store requires --advice")
    for name in labels:
        _check_label(name)
    advisor = _advisor(store) if advice else None
    if listen:
        from virtballoon.exporter.ensuring import IntervalEnsurer
        from virtballoon.exporter.metrics import Collector
        from virtballoon.exporter.snapshots import SharedReader

        ensurer = None
        if ensure_interval is not None:
            warn_of_changes = partial(_warn_of_changes, settings, ensure_interval)
            ensurer = IntervalEnsurer(
                ensure_interval, timeout=settings.timeout, on_result=warn_of_changes
            )
        reader = SharedReader(
            _named(settings),
            settings.words(domains, keep=False),
            inactive=inactive,
            via=settings.via,
            timeout=settings.timeout,
            jobs=settings.jobs,
            max_age=1.0 if max_age is None else max_age,
            own_names=True,
            on_read=None if ensurer is None else ensurer.ensure,
        )
        collector = Collector(
            reader, libvirt_exporter=compat is not None, labels=labels or None, advice=advisor
        )
        return _serve(listen, reader, collector)
    # Before the hosts are read: prometheus_client may be missing.
    from virtballoon.exporter.metrics import exposition
    from virtballoon.exporter.snapshots import Snapshot, by_label

    begun_at = time.time()
    hosts = finish.read_selected(settings, domains, inactive=inactive, keep=False)
    reports = by_label(dict(zip(_named(settings), hosts, strict=True)))
    snapshot = Snapshot(hosts=reports, begun_at=begun_at, age_seconds=time.time() - begun_at)
    text = exposition(
        snapshot,
        openmetrics=openmetrics,
        libvirt_exporter=compat is not None,
        labels=labels or None,
        advice=None if advisor is None else advisor(),
    ).decode()
    if settings.stream.isatty():
        from virtballoon.render.text import printable

        # Names are escaped for Prometheus, which leaves characters that control a terminal.
        text = "".join(f"{printable(line)}\n" for line in text.split("\n")[:-1])
    click.echo(text, file=settings.stream, nl=False)
    # The metrics also say that no host answers.
    settings.is_complete = True
    return finish.finish_reading(settings, hosts, domains)


def _advisor(store: str | None) -> Advisor:
    from virtballoon.sizing.advisor import Advisor
    from virtballoon.sizing.store import default_path

    return Advisor(Path(store) if store is not None else default_path(), on_error=warn)


def _named(settings: Settings) -> dict[str, str | None]:
    """The hosts by their names in the configuration, else those in their URIs, else by their
    URIs: the same whether they answer or not."""
    named: dict[str, str | None] = {}
    for target in settings.targets:
        uri = target or default_uri()
        name = settings.label(target) if settings.named(target) else named_host(uri)
        named[uri if name is None or name in named else name] = target
    return named


def _check_label(name: str) -> None:
    from virtballoon.hypervisor.labels import names

    if name not in (known := names()):
        from difflib import get_close_matches

        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise click.UsageError(f"--label: no label {name!r}; {hint}Labels: {', '.join(known)}")


def _warn_of_changes(settings: Settings, seconds: int, host: HostChanges) -> None:
    if settings.is_logged:
        return
    if host.error is not None:
        warn(str(host.error))
    for change in host.domains:
        if change.error is not None:
            warn(str(change.error))
        elif change.changed:
            warn(f"domain {change.name!r} on {host.uri}: polled every {seconds} s from now on")


def _serve(addresses: Sequence[str], reader: SharedReader, collector: Collector) -> int:
    import signal

    from virtballoon.exporter import http as serving
    from virtballoon.exporter.metrics import scrape
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
    server = serving.Server(sockets, partial(scrape, collector))

    def stop(_number: int, _frame: FrameType | None) -> None:
        server.stop()
        # A second signal does not wait for the requests that are still being answered.
        end_on_signals()

    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)
    warn(f"serving metrics on {', '.join(server.addresses)}")
    server.serve()
    reader.close()
    return OK
