"""The settings of a run, from the options that several commands take; exit statuses; messages."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, TextIO

import click

from virtballoon.errors import VirtballoonError
from virtballoon.hypervisor.uri import configured_default, default_uri
from virtballoon.model.source import Source
from virtballoon.render.text import printable
from virtballoon.system.journal import WARNING, priority
from virtballoon.system.packages import missing_package

if TYPE_CHECKING:
    from virtballoon.configuration import Configuration, ConfiguredHost
    from virtballoon.model.selection import Where

PROGRAM: Final = "virtballoon"

#: Exit statuses: everything that was asked for; nothing of it; a part of it.
OK: Final = 0
NOTHING: Final = 1
PARTLY: Final = 3

_SHARED: Final = (
    *("connect", "host", "config_file", "timeout", "jobs", "verbose"),
    *("exclude", "where", "via", "format", "no_header", "output", "quiet", "lock", "log"),
)


class Settings:
    """The options that are not a command's own, which are taken out of all of them.

    :ivar started: when the run began, epoch seconds
    :ivar is_complete: whether the output may replace a file whatever the exit status
    :ivar output: the file for data; None for stdout
    :ivar shows_all: whether data has all domains in spite of that, since it goes to a file
    :ivar is_logged: whether the library's log goes to stderr, in place of messages
    """

    def __init__(self, options: dict[str, Any]) -> None:
        given = {name: options.pop(name) for name in _SHARED if name in options}
        self._given = given = {name: value for name, value in given.items() if value}
        self.started = time.time()
        self.stream: TextIO = sys.stdout
        self.is_complete = False
        self.config_file: str | None = given.get("config_file")
        self.excluded: tuple[str, ...] = given.get("exclude", ())
        self.format: str = given.get("format", "table")
        self.has_header = "no_header" not in given
        self.output: str | None = None if given.get("output") == "-" else given.get("output")
        self.is_quiet = "quiet" in given
        self.shows_all = not self.is_quiet or self.output is not None
        self.is_verbose = "verbose" in given
        self.is_logged = "log" in given
        self.lock: str | None = given.get("lock")

    @functools.cached_property
    def configuration(self) -> Configuration:
        """The contents of the configuration files.

        :raise ConfigurationError: when one is wrong
        """
        from virtballoon.configuration import load_configuration
        from virtballoon.hypervisor.domainxml import use_labels

        configuration = load_configuration(self.config_file)
        use_labels(configuration)
        return configuration

    @functools.cached_property
    def hosts(self) -> tuple[ConfiguredHost, ...]:
        """The selected hosts of the configuration: those named, else all unless a URI was given.

        :raise ConfigurationError: when there is no such host or group
        """
        words = self._given.get("host", ())
        if words or "connect" in self._given:
            return self.configuration.select(words)
        return self.configuration.hosts

    @functools.cached_property
    def targets(self) -> tuple[str | None, ...]:
        """The hosts to connect to, each once: those selected, else None for libvirt's default.

        :raise ConfigurationError: when there is no such host or group
        """
        uris = (*self._given.get("connect", ()), *(host.uri for host in self.hosts))
        return tuple(dict.fromkeys(uris)) or (None,)

    @property
    def chosen(self) -> frozenset[str | None] | None:
        """The hosts that options name; None where none does."""
        return frozenset(self.targets) if {"connect", "host"} & self._given.keys() else None

    @property
    def is_unnamed(self) -> bool:
        """Whether libvirt chooses the host: neither options nor configurations name one."""
        return self.targets == (None,) and configured_default() is None

    def named(self, uri: str | None) -> list[ConfiguredHost]:
        """The selected hosts of the configuration that have this URI."""
        return [host for host in self.hosts if host.uri == uri]

    def label(self, target: str | None) -> str:
        """What to call a host: its name in the configuration, else its URI."""
        return next((host.name for host in self.named(target)), target or default_uri())

    @functools.cached_property
    def where(self) -> tuple[Where, ...]:
        """The conditions on domains.

        :raise click.UsageError: when one is wrong
        """
        if "where" not in self._given:
            return ()
        from virtballoon.render.conditions import where

        try:
            return tuple(map(where, self._given["where"]))
        except ValueError as error:
            raise click.UsageError(f"--where: {error}") from None

    def words(self, domains: Sequence[str], *, keep: bool = True) -> tuple[str, ...] | None:
        """The selection of domains; None for every domain.

        :param keep: whether the domains that the configuration excludes are meant
        """
        # It imports dataclasses, which takes a tenth of the time that --version does.
        from virtballoon.model.selection import Exclude, Excluded

        configured = (Excluded(word, keep=keep) for word in self.configuration.excluded)
        return (*domains, *map(Exclude, self.excluded), *configured, *self.where) or None

    @property
    def via(self) -> Source:
        """The source of the figures."""
        return Source(self._given.get("via") or self.configuration.via or Source.LIBVIRT)

    @property
    def timeout(self) -> float:
        """Seconds for a host."""
        from virtballoon.engine.session import DEFAULT_TIMEOUT

        return float(self._given.get("timeout") or self.configuration.timeout or DEFAULT_TIMEOUT)

    @property
    def jobs(self) -> int:
        """The number of hosts that are asked at the same time."""
        from virtballoon.engine.fleet import DEFAULT_JOBS

        return int(self._given.get("jobs") or self.configuration.jobs or DEFAULT_JOBS)


def warn(text: str) -> None:
    """Print a message of one line on stderr."""
    # Blanks stay, since a name may have several.
    line = " ".join(part.strip() for part in text.splitlines())
    click.echo(f"{priority(WARNING)}{PROGRAM}: {printable(line)}", err=True)


def message_of(error: Exception) -> str:
    """What to print of an exception that ends the run."""
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, ImportError):
        return missing_package(error)
    if isinstance(error, VirtballoonError | OSError):
        return str(error)
    return f"internal error: {type(error).__name__}: {error}"
