"""What the commands share: options, and how they read, print and fail."""

from __future__ import annotations

import contextlib
import functools
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TextIO, TypeVar

import click

from virtballoon.errors import ConfigurationError
from virtballoon.render.formats import CHOICES

if TYPE_CHECKING:
    import logging

    from click.shell_completion import CompletionItem

    from virtballoon.configuration import Configuration, ConfiguredHost
    from virtballoon.errors import VirtballoonError
    from virtballoon.model.outcome import HostChanges
    from virtballoon.model.report import HostReport, HostResult
    from virtballoon.model.source import Source
    from virtballoon.render.formats import Data
    from virtballoon.render.progress import Done, Progress

F = TypeVar("F", bound=Callable[..., Any])

PROGRAM: Final = "virtballoon"

OK: Final = 0
NOTHING: Final = 1
PARTLY: Final = 3

_SHARED: Final = (
    *("connect", "host", "config_file", "via", "timeout", "jobs", "format", "verbose"),
    *("output", "quiet", "lock", "log"),
)


class Settings:
    """The options that every command takes, before its name and behind it; behind wins.

    :ivar stream: where data goes
    :ivar is_complete: whether what was printed is worth a file's old content, whatever the status
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.stream: TextIO = sys.stdout
        self.is_complete = False
        given = {key: options.get(key) for key in _SHARED}
        self._given = {key: value for key, value in given.items() if value not in (None, ())}

    def refined(self, options: Mapping[str, Any]) -> Settings:
        """These with others that win over them."""
        return Settings(self._given | Settings(options)._given)

    @property
    def config_file(self) -> str | None:
        """The configuration file that was named."""
        return self._given.get("config_file")

    @functools.cached_property
    def configuration(self) -> Configuration:
        """What the configuration files say.

        :raise ConfigurationError: when one is wrong
        """
        from virtballoon.configuration import load_configuration

        return load_configuration(self.config_file)

    @functools.cached_property
    def hosts(self) -> tuple[ConfiguredHost, ...]:
        """The hosts of the configuration that are meant: those named, else all unless a URI was.

        :raise ConfigurationError: when there is no such host or group
        """
        words = self._given.get("host", ())
        if words or self._given.get("connect"):
            return self.configuration.select(words)
        return self.configuration.hosts

    @functools.cached_property
    def targets(self) -> tuple[str | None, ...]:
        """The hosts to visit, each once: those meant, else libvirt's default.

        :raise ConfigurationError: when there is no such host or group
        """
        uris = (*self._given.get("connect", ()), *(host.uri for host in self.hosts))
        return tuple(dict.fromkeys(uris)) or (None,)

    @property
    def is_unnamed(self) -> bool:
        """Whether the one host is the one that libvirt chooses, and nothing names it."""
        from virtballoon.hypervisor.uri import configured_default

        return self.targets == (None,) and configured_default() is None

    def named(self, uri: str | None) -> list[ConfiguredHost]:
        """The hosts of the configuration that are meant and have this URI."""
        return [host for host in self.hosts if host.uri == uri]

    @property
    def via(self) -> Source:
        """Where figures come from."""
        from virtballoon.model.source import Source

        return Source(self._given.get("via") or self.configuration.via or Source.LIBVIRT)

    @property
    def timeout(self) -> float:
        """Seconds for a host."""
        from virtballoon.engine.session import DEFAULT_TIMEOUT

        return float(self._given.get("timeout") or self.configuration.timeout or DEFAULT_TIMEOUT)

    @property
    def jobs(self) -> int:
        """How many hosts are visited at a time."""
        from virtballoon.engine.fleet import DEFAULT_JOBS

        return int(self._given.get("jobs") or self.configuration.jobs or DEFAULT_JOBS)

    @property
    def format(self) -> str:
        """How data is printed."""
        return str(self._given.get("format", "table"))

    @property
    def is_verbose(self) -> bool:
        """Whether to show what is asked of libvirt."""
        return bool(self._given.get("verbose"))

    @property
    def output(self) -> str | None:
        """The file that data goes to in place of stdout."""
        path: str | None = self._given.get("output")
        return None if path == "-" else path

    @property
    def is_quiet(self) -> bool:
        """Whether to show only what is not well."""
        return bool(self._given.get("quiet"))

    @property
    def lock(self) -> str | None:
        """The file that keeps other runs out."""
        return self._given.get("lock")

    @property
    def log(self) -> str | None:
        """Where the library's records go."""
        return self._given.get("log")


def _no_empty_uri(
    _ctx: click.Context, _param: click.Parameter, value: tuple[str, ...]
) -> tuple[str, ...]:
    # Libvirt would take it for its default host, where a variable that is unset was meant.
    if not all(value):
        raise click.BadParameter("a URI cannot be empty.")
    return value


def _no_empty_file(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    if value == "":
        raise click.BadParameter("the name of a file cannot be empty.")
    return value


def positive(_ctx: click.Context, _param: click.Parameter, value: float | None) -> float | None:
    """Refuse what is no number of seconds above 0."""
    if value is not None and not (value > 0 and math.isfinite(value)):
        raise click.BadParameter("it is a number of seconds above 0.")
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


def shared_options(function: F) -> F:
    """Add the options that every command takes."""
    options = (
        click.option(
            "-c",
            "--connect",
            metavar="URI",
            multiple=True,
            callback=_no_empty_uri,
            help="A host, by libvirt's URI; several may be given.  [default: the configuration's "
            "hosts, else libvirt's own]",
        ),
        click.option(
            "-H",
            "--host",
            metavar="NAME|@GROUP",
            multiple=True,
            shell_complete=_complete_host,
            help="A host of the configuration, or a group of them; several may be given.",
        ),
        click.option(
            "--config-file",
            type=click.Path(readable=False),
            callback=_no_empty_file,
            metavar="FILE",
            help="The configuration, in place of /etc/virtballoon/config.toml and "
            "~/.config/virtballoon/config.toml.",
        ),
        click.option(
            "--via",
            type=click.Choice(("libvirt", "qom")),
            help="Whom to ask: libvirt, which marks no guest; or QEMU's object model through the "
            "monitor passthrough, which has every figure, needs write access, and marks each "
            "guest as tainted until it stops.  [default: libvirt]",
        ),
        click.option(
            "--timeout",
            type=float,
            callback=positive,
            metavar="SECONDS",
            help="Time for a host, from connecting to the last domain.  [default: 10]",
        ),
        click.option(
            "--jobs",
            type=click.IntRange(min=1),
            metavar="N",
            help="How many hosts are visited at a time.  [default: 32]",
        ),
        click.option(
            "--format",
            type=click.Choice(CHOICES),
            help="How to print.  [default: table]",
        ),
        click.option(
            "--output",
            type=click.Path(readable=False),
            callback=_no_empty_file,
            metavar="FILE",
            help="Write data to this file, which is complete or as it was; - for stdout.",
        ),
        click.option(
            "-q",
            "--quiet",
            is_flag=True,
            default=None,
            help="Show only the domains that are not well, and nothing where there are none.",
        ),
        click.option(
            "--lock",
            type=click.Path(readable=False),
            callback=_no_empty_file,
            metavar="FILE",
            help="Do nothing, and end with status 75, while another run holds this file.",
        ),
        click.option(
            "--log",
            type=click.Choice(("stderr",)),
            help="Log each host and each failure, in place of messages, as lines of key=value.",
        ),
        click.option(
            "-v",
            "--verbose",
            is_flag=True,
            default=None,
            help="Show on stderr what is asked of libvirt.",
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


def with_settings(function: Callable[..., int]) -> Callable[..., int]:
    """Give a command its settings, from both sides of its name, as the first argument, and set
    the process up for them."""

    @shared_options
    @click.pass_context
    @functools.wraps(function)
    def command(ctx: click.Context, /, **options: Any) -> int:
        settings: Settings = (ctx.find_object(Settings) or Settings({})).refined(options)
        own = {key: value for key, value in options.items() if key not in _SHARED}
        if settings.lock is not None:
            from virtballoon.system.lockfile import hold

            hold(settings.lock)
        if settings.log is not None:
            from virtballoon.cli.log import log_to_stderr

            log_to_stderr(PROGRAM)
        _set_up(settings)
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
    # What is wrong with the configuration, or with the hosts' names, is said before all else.
    targets = settings.targets
    from virtballoon.hypervisor.connection import keep_stderr_quiet
    from virtballoon.hypervisor.uri import default_uri

    if not settings.is_verbose:
        keep_stderr_quiet()
        return
    import logging

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.addFilter(_printable_record)
    # The rest is complained about, or goes where --log says.
    handler.addFilter(lambda record: record.levelno <= logging.DEBUG)
    logger = logging.getLogger(PROGRAM)
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    for file in settings.configuration.files:
        logger.debug("configuration: %s", file)
    logger.debug("hosts: %s", ", ".join(target or default_uri() for target in targets))


def _printable_record(record: logging.LogRecord) -> bool:
    from virtballoon.render.text import printable
    from virtballoon.system.journal import priority

    # A domain's name is not to be trusted.
    record.msg = priority(record.levelno) + printable(record.getMessage())
    record.args = None
    return True


@contextlib.contextmanager
def progress(settings: Settings) -> Iterator[Done | None]:
    """Show on a terminal which of several hosts are awaited; what to call as each is done."""
    with progress_line(settings) as line:
        yield line.done if line is not None else None


@contextlib.contextmanager
def progress_line(settings: Settings, *, guests: bool = False) -> Iterator[Progress | None]:
    """Show on a terminal what is awaited.

    :param guests: whether guests are, which counts with a single host, too
    """
    on_a_terminal = sys.stdout.isatty() and sys.stderr.isatty()
    is_wanted = not (settings.is_verbose or settings.is_quiet or settings.log)
    is_one = len(settings.targets) == 1 and not guests
    if is_one or not is_wanted or not on_a_terminal:
        yield None
        return
    from virtballoon.render.progress import Progress

    names = {uri: settings.named(uri) for uri in settings.targets if uri is not None}
    labels = {uri: hosts[0].name if hosts else uri for uri, hosts in names.items()}
    with Progress(labels or {"": ""}, stream=sys.stderr) as line:
        yield line


def read_meant(
    settings: Settings, domains: Sequence[str], *, inactive: bool
) -> tuple[HostReport, ...]:
    """Read the hosts that are meant, and show on a terminal which of several are awaited.

    :param domains: the words for domains; none for all
    """
    from virtballoon.operations.fleet import read_hosts

    with progress(settings) as each:
        return read_hosts(
            settings.targets,
            domains or None,
            inactive=inactive,
            via=settings.via,
            timeout=settings.timeout,
            jobs=settings.jobs,
            on_result=each,
        )


def units_option(function: F) -> F:
    """Add ``--units``."""
    option = click.option(
        "--units",
        type=click.Choice(("human", "bytes")),
        default="human",
        show_default=True,
        help="Sizes in a table: as a person reads them, or exact.",
    )
    return option(function)


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


def _complete_domain(
    ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    settings = _settings_so_far(ctx)
    try:
        targets, jobs = settings.targets, settings.jobs
    except ConfigurationError:
        return []
    from virtballoon.hypervisor.connection import keep_stderr_quiet
    from virtballoon.operations.fleet import domain_names

    keep_stderr_quiet()
    return _offered(sorted(domain_names(targets, timeout=2, jobs=jobs)), incomplete)


def _settings_so_far(ctx: click.Context) -> Settings:
    options = ctx.parent.params if ctx.parent is not None else {}
    return Settings(options).refined(ctx.params)


def _offered(words: Iterable[str], incomplete: str) -> list[CompletionItem]:
    import re

    from click.shell_completion import CompletionItem

    # The shells' completion scripts do not quote: a word that would need it is not offered.
    harmless = re.compile(r"[\w.@%+=:,][\w.@%+=:,-]*")
    return [
        CompletionItem(word)
        for word in words
        if word.startswith(incomplete) and harmless.fullmatch(word)
    ]


def words_to_reach(settings: Settings, uri: str) -> list[str]:
    """The words of a command line that reach this host with the same configuration, up to the
    command's name."""
    words = [PROGRAM]
    if settings.config_file is not None:
        words += ["--config-file", settings.config_file]
    if settings.targets != (None,):
        names = [named.name for named in settings.named(uri)]
        words += ["-H", names[0]] if names else ["-c", uri]
    return words


def through_libvirt(settings: Settings) -> list[str]:
    """The words of a command line that go through libvirt, whatever the configuration says."""
    from virtballoon.model.source import Source

    return ["--via", "libvirt"] if settings.configuration.via is Source.QOM else []


def complain(text: str) -> None:
    """Say in one line on stderr what is wrong."""
    from virtballoon.render.text import printable
    from virtballoon.system.journal import WARNING, priority

    # Blanks stay, since a name may have several.
    line = " ".join(part.strip() for part in text.splitlines())
    click.echo(f"{priority(WARNING)}{PROGRAM}: {printable(line)}", err=True)


def complain_of_all(
    settings: Settings,
    hosts: Iterable[HostResult[object]],
    errors: Iterable[VirtballoonError | None],
) -> bool:
    """Say what went wrong with hosts as a whole and with domains, unless the log has said it, and
    whether anything did."""
    # A connection that broke is one error, not one of each domain behind it.
    wrong = {id(error): error for error in (*(host.error for host in hosts), *errors) if error}
    for error in wrong.values() if settings.log is None else ():
        complain(str(error))
    return bool(wrong)


def of_default_host(settings: Settings, uri: str) -> str | None:
    """What to say of an empty host that libvirt chose; None where it was named.

    :param uri: the host's URI as libvirt gives it
    """
    if not settings.is_unnamed:
        return None
    text = f"no domain on {uri}, the default since no host is named; "
    if uri.startswith("qemu:///session"):
        return f"{text}for the system's domains use -c qemu:///system (needs the group libvirt)"
    return f"{text}name one with -c URI"


def complain_of_session(settings: Settings, uri: str) -> None:
    """Say which daemon answered, where it may not be the one that was meant: an ordinary user's
    own session."""
    if uri.startswith("qemu:///session") and (text := of_default_host(settings, uri)):
        complain(text)


def print_records(
    settings: Settings,
    hosts: Sequence[HostReport | HostChanges],
    columns: Callable[[], Sequence[str]],
    *,
    generated_at: float,
) -> None:
    """Print hosts and domains for programs.

    :param columns: gives those of CSV without the host's URI
    """
    from virtballoon.render import documents
    from virtballoon.render.formats import Data

    if settings.is_quiet and not hosts:
        return
    data = Data(
        lambda: documents.document(map(documents.host_record, hosts), generated_at=generated_at),
        lambda: (
            {"uri": host.uri} | record
            for host in hosts
            for record in documents.domain_records(host)
        ),
        lambda: ("uri", *columns()),
    )
    print_data(settings, data)


def print_data(settings: Settings, data: Data) -> None:
    """Print data in one of the formats for programs."""
    from virtballoon.render.formats import FORMATS

    text = FORMATS[settings.format](data, True)  # noqa: FBT003
    click.echo(text, file=settings.stream, nl=False)
