"""The options that commands share, and what a command does around its function."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from virtballoon.cli.context import OK, PARTLY, PROGRAM, Settings
from virtballoon.errors import ConfigurationError
from virtballoon.hypervisor.uri import default_uri
from virtballoon.model.duration import parse_seconds
from virtballoon.render.formats import FORMATS

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

F = TypeVar("F", bound=Callable[..., Any])


class Seconds(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A time, as a number of seconds."""

    name = "TIME"

    def __init__(self, least: float = 0.001) -> None:
        self._least = least

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number of seconds."""
        try:
            seconds = parse_seconds(value) if isinstance(value, str) else float(value)
        except ValueError as error:
            self.fail(f"{value!r:.40} is {error}.", param, ctx)
        if seconds < self._least:
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
        hosts = Settings(dict(ctx.params)).configuration.hosts
    except ConfigurationError:
        return []
    groups = sorted({f"@{group}" for host in hosts for group in host.groups})
    return offered([*(host.name for host in hosts), *groups], incomplete)


def _complete_domain(
    ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    settings = Settings(dict(ctx.params))
    try:
        targets, jobs = settings.targets, settings.jobs
    except ConfigurationError:
        return []
    from virtballoon.hypervisor.translation import keep_stderr_quiet
    from virtballoon.operations.fleet import domain_names

    keep_stderr_quiet()
    return offered(sorted(domain_names(targets, timeout=2, jobs=jobs)), incomplete)


def _complete_key(
    _ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    from virtballoon.render.documents import domain_columns

    return offered([f"{key}=" for key in domain_columns()], incomplete)


def offered(words: Iterable[str], incomplete: str) -> list[CompletionItem]:
    """The words that a shell completes what has been typed to."""
    from click.shell_completion import CompletionItem

    # The shells' completion scripts do not quote: words that would need it are left out.
    harmless = re.compile(r"[\w.@%+=:,][\w.@%+=:,-]*")
    return [
        CompletionItem(word)
        for word in words
        if word.startswith(incomplete) and harmless.fullmatch(word)
    ]


_FILE: Final[dict[str, Any]] = {
    "type": click.Path(readable=False),
    "callback": _not_empty,
    "metavar": "FILE",
}

#: The options of every command, which are also taken before its name.
HOST_OPTIONS: Final = (
    click.Option(
        ["-c", "--connect"],
        metavar="URI",
        multiple=True,
        callback=_not_empty,
        help="Host by libvirt URI; repeatable.",
    ),
    click.Option(
        ["-H", "--host"],
        metavar="NAME|@GROUP",
        multiple=True,
        shell_complete=_complete_host,
        help="Host or group from the configuration; repeatable.",
    ),
    click.Option(
        ["--config-file"], help="Configuration file, in place of the standard ones.", **_FILE
    ),
    click.Option(
        ["--timeout"], type=Seconds(), metavar="SECONDS", help="Time limit per host  [10s]"
    ),
    click.Option(
        ["--jobs"], type=click.IntRange(min=1), metavar="N", help="Hosts at the same time  [32]"
    ),
    click.Option(["-v", "--verbose"], is_flag=True, help="Log libvirt calls to stderr."),
)

via = click.option(
    "--via",
    type=click.Choice(("libvirt", "qom")),
    help="qom: write access, taints guests  [libvirt]",
)
quiet = click.option("-q", "--quiet", is_flag=True, help="Show only what needs attention.")
output = click.option("--output", help="Write to this file, which is always complete.", **_FILE)
store = click.option("--store", help="File of the history, in place of the standard one.", **_FILE)
log = click.option(
    "--log",
    type=click.Choice(("stderr",)),
    metavar="stderr",
    help="Write log records, not messages.",
)
units = click.option(
    "--units",
    type=click.Choice(("human", "bytes")),
    metavar="UNITS",
    default="human",
    help="Sizes in a table: human or bytes  [human]",
)
Completion = Callable[[click.Context, click.Parameter, str], "list[CompletionItem]"]


def excluding(complete: Completion) -> Callable[[F], F]:
    """The option that leaves out domains."""
    return click.option(
        "--exclude",
        metavar="PATTERN",
        multiple=True,
        callback=_not_empty,
        shell_complete=complete,
        help="Leave out these domains; repeatable.",
    )


def conditions(complete: Completion, name: str = "where") -> Callable[[F], F]:
    """The option that has conditions on domains."""
    return click.option(
        "--where",
        name,
        metavar="KEY=VALUE",
        multiple=True,
        shell_complete=complete,
        help="Only domains with this: also !=, <, >; repeatable.",
    )


def formatted(*names: str) -> Callable[[F], F]:
    """The options of what prints data in these formats, the default first."""
    return _all_of(
        click.option(
            "--format",
            type=click.Choice(names),
            metavar="FORMAT",
            help=f"{', '.join(names)}  [{names[0]}]",
        ),
        click.option("--no-header", is_flag=True, help="Omit the column heads of a table or CSV."),
    )


domain = click.argument("domain", metavar="DOMAIN", shell_complete=_complete_domain)
several = click.argument("domains", nargs=-1, metavar="[DOMAIN…]", shell_complete=_complete_domain)


def _all_of(*options: Callable[[F], F]) -> Callable[[F], F]:
    def add(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return add


#: What restricts the domains that a command is about.
restrictions = _all_of(excluding(_complete_domain), conditions(_complete_key))
#: What commands have that read domains.
domains = _all_of(
    click.option("--all", "inactive", is_flag=True, help="Include domains that do not run."),
    restrictions,
    via,
    several,
)
#: What commands have that print data in every format.
formats = formatted(*FORMATS)
run = _all_of(
    click.option("--lock", help="Exit with status 75 if another run holds it.", **_FILE),
    log,
)
data = _all_of(formats, output, quiet, run)


class Command(click.Command):
    """A command that visits hosts. Its function gets the settings before its own options."""

    def __init__(self, name: str, *, params: Iterable[click.Parameter], **more: Any) -> None:
        super().__init__(name, params=[*params, *HOST_OPTIONS], **more)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command's own options first."""
        own: list[tuple[str, str]] = []
        hosts: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            # The usage line has the arguments, which newer click gives a record, too.
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                (hosts if parameter in HOST_OPTIONS else own).append(record)
        for title, records in (("Options", own), ("Hosts (also before the command)", hosts)):
            with formatter.section(title):
                formatter.write_dl(records)

    def invoke(self, ctx: click.Context) -> int:
        """Set up the process, and call the function."""
        settings = Settings(ctx.params)
        if settings.lock is not None:
            from virtballoon.system.lockfile import hold

            hold(settings.lock)
        if settings.is_logged:
            from virtballoon.cli.log import log_to_stderr

            log_to_stderr(PROGRAM)
        _set_up(settings)
        assert self.callback is not None
        if settings.output is None:
            return int(ctx.invoke(self.callback, settings, **ctx.params))
        from virtballoon.system.atomicfile import Output

        output = Output(settings.output)
        settings.stream = output.stream
        status = int(ctx.invoke(self.callback, settings, **ctx.params))
        output.finish(replace=settings.is_complete or status in {OK, PARTLY})
        return status


def _set_up(settings: Settings) -> None:
    # Errors of the configuration, of the hosts' names or of conditions come first.
    targets, _ = settings.targets, settings.where
    from virtballoon.hypervisor.translation import keep_stderr_quiet

    if not settings.is_verbose:
        keep_stderr_quiet()
        return
    from virtballoon.cli.log import log_calls

    logger = log_calls(PROGRAM)
    for file in settings.configuration.files:
        logger.debug("configuration: %s", file)
    logger.debug("hosts: %s", ", ".join(target or default_uri() for target in targets))
