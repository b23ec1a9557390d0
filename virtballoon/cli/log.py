"""``--log``: the library's records, to stderr or to the journal."""

from __future__ import annotations

import logging
import re
import socket
import sys
from datetime import UTC, datetime
from typing import Final

import click

from virtballoon.errors import VirtballoonError
from virtballoon.log import FIELDS
from virtballoon.render.text import printable

_JOURNAL: Final = "/run/systemd/journal/socket"


def send_to(destination: str, program: str) -> None:
    """Show every record from INFO on.

    :param destination: ``stderr`` or ``journald``
    :raise click.UsageError: when the journal's library is missing
    :raise VirtballoonError: when there is no journal
    """
    handler: logging.Handler
    if destination == "stderr":
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_Logfmt())
    else:
        handler = _Journal(program)
    handler.setLevel(logging.INFO)
    logger = logging.getLogger(program)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    # A record that cannot be written must not become a traceback.
    logging.raiseExceptions = False


def _fields(record: logging.LogRecord) -> dict[str, str]:
    given = {name: getattr(record, name, None) for name in FIELDS}
    return {name: str(value) for name, value in given.items() if value is not None}


class _Logfmt(logging.Formatter):
    """A line of ``key=value``, quoted where need be."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC)
        fields = {
            "time": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "msg": record.getMessage(),
        } | {key.removeprefix("virtballoon_"): value for key, value in _fields(record).items()}
        return " ".join(f"{key}={_quoted(value)}" for key, value in fields.items())


def _quoted(value: str) -> str:
    if value.isprintable() and re.fullmatch(r"[^\s=\"'\\]+", value):
        return value
    return '"' + printable(value.replace("\\", "\\\\").replace('"', '\\"')) + '"'


class _Journal(logging.Handler):
    """The journal, with the fields in its own spelling: ``VIRTBALLOON_HOST`` and so on."""

    def __init__(self, program: str) -> None:
        super().__init__()
        try:
            from systemd.journal import JournalHandler
        except ImportError:
            raise click.UsageError(
                "--log journald needs the library systemd-python "
                "(python3-systemd, or virtballoon[journald])"
            ) from None
        try:
            # Its library takes a journal that is not there for one that has heard.
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
                journal.connect(_JOURNAL)
        except OSError as error:
            raise VirtballoonError(f"no journal at {_JOURNAL}: {error.strerror}") from error
        self._journal = JournalHandler(SYSLOG_IDENTIFIER=program)

    def emit(self, record: logging.LogRecord) -> None:
        # Of its own, since that handler sends all that a record has, and no lone surrogates.
        sent = logging.LogRecord(
            record.name,
            record.levelno,
            record.pathname,
            record.lineno,
            printable(record.getMessage()),
            None,
            None,
            record.funcName,
        )
        for name, value in _fields(record).items():
            setattr(sent, name.upper(), value.encode("utf-8", "backslashreplace"))
        self._journal.emit(sent)
