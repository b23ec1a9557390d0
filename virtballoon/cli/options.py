"""The options that commands share, and how a command's help and its usage errors look."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from virtballoon.cli.context import HOST_OPTIONS, OK, PARTLY, PROGRAM, Settings
from virtballoon.errors import ConfigurationError
from virtballoon.model.duration import parse_seconds
from virtballoon.render.formats import FORMATS

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

F = TypeVar("F", bound=Callable[..., Any])


def names_nearest(
    error: click.NoSuchOption, own: click.Command, *others: click.Command
) -> click.UsageError:
    """The error of an unknown option, with the nearest right one.

    :param own: what was called
    :param others: the commands that have further options
    """
    from difflib import get_close_matches

    def names(command: click.Command) -> set[str]:
        return {name for parameter in command.params for name in parameter.opts}

    known = names(own).union(*map(names, others))
    message = f"No such option {error.option_name}."
    for near in get_close_matches(error.option_name, sorted(known), n=1, cutoff=0.7):
        if near != error.option_name:
            message += f" Did you mean {near}?"
        if near not in names(own):
            message += f" {near} follows the command's name."
    return click.UsageError(message, error.ctx)


class Command(click.Command):
    """A command whose help shows its own options first, and those for hosts in a block below."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            raise names_nearest(error, self) from error

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options."""
        own: list[tuple[str, str]] = []
        hosts: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            # The usage line has the arguments, which newer click gives a record, too.
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                (hosts if parameter.name in HOST_OPTIONS else own).append(record)
        for title, records in (("Options", own), ("Hosts (also before the command)", hosts)):
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


class Seconds(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A time, as a number of seconds.

    :param least: the shortest time; None for any above 0
    """

    name = "TIME"

    def __init__(self, least: float | None = None) -> None:
        self._least = least

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number of seconds."""
        try:
            seconds = parse_seconds(value) if isinstance(value, str) else float(value)
        except ValueError as error:
            self.fail(f"{value!r:.40} is {error}.", param, ctx)
        if self._least is None and not seconds:
            self.fail("must be more than 0 seconds.", param, ctx)
        if self._least is not None and seconds < self._least:
            self.fail(f"must be at least {self._least:g} s.", param, ctx)
        return seconds


class Interval(Seconds):
    """A polling interval, as a whole number of seconds. QEMU's limits are checked later."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number of seconds."""
        seconds = super().convert(value, param, ctx)
        if seconds != int(seconds):
            self.fail(f"{value!r} is not a whole number of seconds.", param, ctx)
        return int(seconds)


def _not_empty(_ctx: click.Context, _param: click.Parameter, value: Any) -> Any:
    # libvirt would take an empty URI for its default host, where an unset variable was meant.
    if value == "" or (isinstance(value, tuple) and "" in value):
        raise click.BadParameter("must not be empty.")
    return value


def _complete_host(
    ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    try:
        hosts = _settings_so_far(ctx).configuration.hosts
    except ConfigurationError:
        return []
    groups = sorted({f"@{group}" for host in hosts for group in host.groups})
    return _offered([*(host.name for host in hosts), *groups], incomplete)


def _all_of(*options: Callable[[F], F]) -> Callable[[F], F]:
    def add(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return add


def _file(*names: str, **attributes: Any) -> Callable[[F], F]:
    kind = click.Path(readable=False)
    return click.option(*names, type=kind, callback=_not_empty, metavar="FILE", **attributes)


host_options = _all_of(
    click.option(
        "-c",
        "--connect",
        metavar="URI",
        multiple=True,
        callback=_not_empty,
        help="Host by libvirt URI; repeatable.",
    ),
    click.option(
        "-H",
        "--host",
        metavar="NAME|@GROUP",
        multiple=True,
        shell_complete=_complete_host,
        help="Host or group from the configuration; repeatable.",
    ),
    _file("--config-file", help="Configuration file, in place of the standard ones."),
    click.option("--timeout", type=Seconds(), metavar="SECONDS", help="Time limit per host  [10s]"),
    click.option(
        "--jobs", type=click.IntRange(min=1), metavar="N", help="Hosts at the same time  [32]"
    ),
    click.option(
        "-v", "--verbose", is_flag=True, default=None, help="Log libvirt calls to stderr."
    ),
)


def _complete_domain(
    ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    settings = _settings_so_far(ctx)
    try:
        targets, jobs = settings.targets, settings.jobs
    except ConfigurationError:
        return []
    from virtballoon.hypervisor.translation import keep_stderr_quiet
    from virtballoon.operations.fleet import domain_names

    keep_stderr_quiet()
    return _offered(sorted(domain_names(targets, timeout=2, jobs=jobs)), incomplete)


via_option = click.option(
    "--via",
    type=click.Choice(("libvirt", "qom")),
    help="Source: libvirt, or QEMU's QOM tree (needs write access, taints the guest)  [libvirt]",
)
_format_option = click.option(
    "--format",
    type=click.Choice(tuple(FORMATS)),
    metavar="FORMAT",
    help="table, json, jsonl or csv  [table]",
)
_header_option = click.option(
    "--no-header", is_flag=True, default=None, help="Omit the column heads of a table or CSV."
)
quiet_option = click.option(
    "-q", "--quiet", is_flag=True, default=None, help="Show only what needs attention."
)
output_option = _file("--output", help="Write to this file, which is always complete.")
log_option = click.option(
    "--log",
    type=click.Choice(("stderr",)),
    metavar="stderr",
    help="Write log records to stderr, in place of messages.",
)
run_options = _all_of(
    _file("--lock", help="Exit with status 75 if another run holds this file."), log_option
)
units_option = click.option(
    "--units",
    type=click.Choice(("human", "bytes")),
    metavar="UNITS",
    default="human",
    help="Sizes in a table: human or bytes  [human]",
)
all_option = click.option(
    "--all", "inactive", is_flag=True, help="Include domains that do not run."
)


exclude_option = click.option(
    "--exclude",
    metavar="PATTERN",
    multiple=True,
    callback=_not_empty,
    shell_complete=_complete_domain,
    help="Leave out these domains; repeatable.",
)


def domain_argument(*, nargs: int = -1, required: bool = False) -> Callable[[F], F]:
    """Add DOMAIN, or several."""
    metavar = "DOMAIN…" if nargs != 1 else "DOMAIN"
    return click.argument(
        "domains" if nargs != 1 else "domain",
        nargs=nargs,
        required=required,
        metavar=metavar if required else f"[{metavar}]",
        shell_complete=_complete_domain,
    )


#: What commands have that read domains.
domain_options = _all_of(all_option, exclude_option, via_option, domain_argument())
#: What commands have that print data in every format.
format_options = _all_of(_format_option, _header_option)
data_options = _all_of(format_options, output_option, quiet_option, run_options)


def with_settings(function: Callable[..., int]) -> Callable[..., int]:
    """Add the options for hosts to a command, set up the process, and pass the settings as the
    first argument."""

    @host_options
    @click.pass_context
    @functools.wraps(function)
    def command(ctx: click.Context, /, **options: Any) -> int:
        settings: Settings = (ctx.find_object(Settings) or Settings({})).refined(options)
        if settings.lock is not None:
            from virtballoon.system.lockfile import hold

            hold(settings.lock)
        if settings.is_logged:
            from virtballoon.cli.log import log_to_stderr

            log_to_stderr(PROGRAM)
        _set_up(settings)
        own = Settings.own(options)
        if settings.output is None:
            return function(settings, **own)
        from virtballoon.system.atomicfile import Output

        output = Output(settings.output)
        settings.stream = output.stream
        status = function(settings, **own)
        output.finish(replace=settings.is_complete or status in {OK, PARTLY})
        return status

    return command


def _set_up(settings: Settings) -> None:
    # Errors of the configuration or of the hosts' names come first.
    targets = settings.targets
    from virtballoon.hypervisor.translation import keep_stderr_quiet

    if not settings.is_verbose:
        keep_stderr_quiet()
        return
    from virtballoon.cli.log import log_calls
    from virtballoon.hypervisor.uri import default_uri

    logger = log_calls(PROGRAM)
    for file in settings.configuration.files:
        logger.debug("configuration: %s", file)
    logger.debug("hosts: %s", ", ".join(target or default_uri() for target in targets))


def _settings_so_far(ctx: click.Context) -> Settings:
    options = ctx.parent.params if ctx.parent is not None else {}
    return Settings(options).refined(ctx.params)


def _offered(words: Iterable[str], incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    # The shells' completion scripts do not quote: words that would need it are left out.
    harmless = re.compile(r"[\w.@%+=:,][\w.@%+=:,-]*")
    return [
        CompletionItem(word)
        for word in words
        if word.startswith(incomplete) and harmless.fullmatch(word)
    ]
