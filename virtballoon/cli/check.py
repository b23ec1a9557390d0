"""``virtballoon check``: a monitoring plugin."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import click

from virtballoon.check.judging import (
    DEFAULT_THRESHOLDS,
    PRESSED,
    CheckStatus,
    HostMeasure,
    Measure,
    Policy,
    Problem,
    Thresholds,
    Trouble,
    check_hosts,
)
from virtballoon.check.plugin import failure, output
from virtballoon.check.ranges import Range
from virtballoon.check.records import check_data
from virtballoon.cli import finish, options
from virtballoon.cli.context import Settings, message_of, warn
from virtballoon.model.report import HostReport
from virtballoon.model.units import PERCENT
from virtballoon.model.verdict import Verdict

_UNKNOWN: Final = 3


class _Plugin(options.Command):
    """A command whose errors are UNKNOWN, in a status line on stdout: monitoring systems read
    nothing else."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        rest = super().parse_args(ctx, args)
        for uri in ctx.params.get("connect", ()):
            if re.fullmatch(r"@?[\d.:~%]+", uri):
                raise click.UsageError(
                    f"-c {uri} would be a host's URI; the critical threshold is -C {uri}", ctx
                )
        return rest

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with _errors_are_unknown():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> int:
        with _errors_are_unknown():
            return super().invoke(ctx)


@contextlib.contextmanager
def _errors_are_unknown() -> Iterator[None]:
    try:
        yield
    except (click.exceptions.Exit, click.Abort):
        raise
    except OSError as error:
        # Of stdout, say. What could not be written is not tried again on the way out.
        with contextlib.suppress(OSError):
            warn(str(error))
        os._exit(_UNKNOWN)
    except Exception as error:
        import logging

        logging.getLogger(__package__).debug("UNKNOWN", exc_info=error)
        click.echo(failure(message_of(error)))
        raise click.exceptions.Exit(_UNKNOWN) from error


def _threshold(_ctx: click.Context, param: click.Parameter, value: str | None) -> Range | None:
    if value is None:
        return None
    assert param.name is not None
    try:
        return Range.parse(value, Measure[param.name.partition("_")[0].upper()].units)
    except ValueError as error:
        raise click.BadParameter(f"{error}.") from error


def _states(
    _ctx: click.Context, _param: click.Parameter, value: tuple[str, ...]
) -> Mapping[Verdict | Trouble, CheckStatus]:
    causes: dict[str, Verdict | Trouble] = {c.value: c for c in (*Verdict, *Trouble)}
    # Fresh figures are judged by thresholds.
    del causes[Verdict.FRESH.value]
    states = {status.name.lower(): status for status in CheckStatus}
    chosen = {}
    for word in value:
        cause, _, state = word.partition("=")
        if cause not in causes or state not in states:
            raise click.BadParameter(
                f"{word!r} is not NAME=STATE, with a NAME of {', '.join(causes)}, "
                f"and a STATE of {', '.join(states)}."
            )
        chosen[causes[cause]] = states[state]
    return chosen


class _Threshold(click.Option):
    """A threshold. The help has those for CRITICAL in one sentence, except for the first."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        return super().get_help_record(ctx) if self.help else None


def _threshold_option(
    *names: str,
    help: str | None = None,  # noqa: A002 - click's word
) -> Callable[[options.F], options.F]:
    return click.option(*names, cls=_Threshold, metavar="RANGE", callback=_threshold, help=help)


def _host_thresholds(
    _ctx: click.Context, _param: click.Parameter, value: tuple[str, ...]
) -> Mapping[HostMeasure, Range]:
    chosen = {}
    for word in value:
        name, _, limit = word.partition("=")
        if name not in list(HostMeasure):
            raise click.BadParameter(
                f"{word!r} is not KEY=RANGE, with a KEY of {', '.join(HostMeasure)}."
            )
        try:
            chosen[HostMeasure(name)] = Range.parse(limit, PERCENT)
        except ValueError as error:
            raise click.BadParameter(f"{error}.") from error
    return chosen


def _host_option(name: str, *, help: str | None = None) -> Callable[[options.F], options.F]:  # noqa: A002
    return click.option(
        name,
        cls=_Threshold,
        metavar="KEY=RANGE",
        multiple=True,
        callback=_host_thresholds,
        help=help,
    )


@click.command("check", cls=_Plugin, short_help="Check memory use, as a monitoring plugin.")
@_threshold_option("-w", "--warning", "used_warning", help="Memory used, in percent  [90%]")
@_threshold_option("-C", "--critical", "used_critical", help="The same, for CRITICAL  [95%]")
@click.option("--pressure", is_flag=True, help="WARNING if a guest is short of memory, not full.")
@_threshold_option("--age-warning", help="Age of the figures.")
@_threshold_option("--age-critical")
@_threshold_option("--swap-warning", help="Swap traffic since the last run, bytes/s.")
@_threshold_option("--swap-critical")
@_threshold_option("--faults-warning", help="Major faults since the last run, per second.")
@_threshold_option("--faults-critical")
@_threshold_option("--oom-warning", help="OOM kills since the last run; needs --via qom.")
@_threshold_option("--oom-critical")
@_host_option("--host-warning", help="Of hosts: available=10:, overcommit=100, used=90.")
@_host_option("--host-critical")
@click.option(
    "--verdict",
    "states",
    metavar="NAME=STATE",
    multiple=True,
    callback=_states,
    help="State for a verdict, such as stale=ok; repeatable.",
)
@click.option(
    "--state",
    type=click.Path(readable=False),
    metavar="FILE",
    help="Where to keep the figures for the next run.",
)
@click.option(
    "--perfdata",
    type=click.Choice(("none", "used", "all")),
    metavar="WHICH",
    default="used",
    help="Performance data: none, used or all  [used]",
)
@options.restrictions
@options.via
@options.data
@options.several
def command(
    settings: Settings,
    *,
    domains: tuple[str, ...],
    states: Mapping[Verdict | Trouble, CheckStatus],
    state: str | None,
    perfdata: str,
    pressure: bool,
    host_warning: Mapping[HostMeasure, Range],
    host_critical: Mapping[HostMeasure, Range],
    **thresholds: Range | None,
) -> int:
    """Check the memory use of running domains, as a monitoring plugin: exit status 0 for OK, 1 for
    WARNING, 2 for CRITICAL, 3 for UNKNOWN and for every error.

    DOMAIN is a name, UUID or shell pattern. RANGE is what is no alarm: 80, 10:, ~:90 or 10:20;
    @10:20 is its opposite. Each --…-warning has a --…-critical.
    """
    policy = Policy(
        thresholds=_thresholds(thresholds, pressure=pressure),
        host_thresholds={
            measure: Thresholds(host_warning.get(measure), host_critical.get(measure))
            for measure in HostMeasure
            if measure in host_warning or measure in host_critical
        },
        states=states,
    )
    hosts = finish.read_selected(settings, domains, keep=False)
    judge = partial(check_hosts, hosts, policy, domains=(*domains, *settings.where))
    if policy.needs_former or state is not None:
        from virtballoon.check.state import compared, default_path

        question = [
            settings.targets,
            sorted(domains),
            settings.via,
            *settings.excluded,
            *settings.where,
        ]
        path = partial(default_path, question) if state is None else partial(Path, state)
        result = compared(path, lambda former: judge(former=former))
    else:
        result = judge()
    if settings.is_unnamed and (problem := _empty_host(settings, hosts[0])) is not None:
        result = result.with_problem(problem)

    def table() -> None:
        text = output(
            result,
            names={host.uri: host.name for host in settings.hosts},
            everything=perfdata == "all",
            perfdata=perfdata != "none",
            quiet=settings.is_quiet,
        )
        settings.stream.write(text)

    finish.print_data(
        settings,
        check_data(result, quiet=settings.is_quiet, generated_at=settings.started, table=table),
    )
    settings.is_complete = True
    return int(result.status)


def _empty_host(settings: Settings, host: HostReport) -> Problem | None:
    """The problem that a host which libvirt chose has no domain at all: it is likely not the one
    that was meant."""
    if host.error is not None or host.domains or host.unmatched:
        return None
    from virtballoon.operations.reading import probe_host

    (target,) = settings.targets
    probe = probe_host(target, timeout=settings.timeout)
    if probe.error is not None:
        return Problem(status=CheckStatus.UNKNOWN, message=str(probe.error))
    if probe.running or probe.defined:
        return None
    text = finish.default_host_hint(settings, host.uri) or "no domain"
    return Problem(status=CheckStatus.UNKNOWN, message=text)


def _thresholds(given: Mapping[str, Range | None], *, pressure: bool) -> dict[Measure, Thresholds]:
    # Pressure is judged in place of fullness, unless both are asked for.
    defaults = {Measure.PRESSURE: PRESSED} if pressure else DEFAULT_THRESHOLDS
    thresholds = {}
    for measure in Measure:
        default = defaults.get(measure, Thresholds())
        warning = given.get(f"{measure}_warning") or default.warning
        critical = given.get(f"{measure}_critical") or default.critical
        if warning is not None or critical is not None:
            thresholds[measure] = Thresholds(warning=warning, critical=critical)
    return thresholds
