"""``--log``: the library's log records as lines on stderr."""

from __future__ import annotations

import logging
import re
import sys
from datetime import UTC, datetime

from virtballoon.log import FIELDS
from virtballoon.render.text import printable
from virtballoon.system.journal import priority


def log_to_stderr(program: str) -> None:
    """Write every record from INFO on; with its priority if the systemd journal reads stderr."""
    _add(program, _Logfmt(), logging.INFO).setLevel(logging.INFO)
    # A record that cannot be written must not become a traceback.
    logging.raiseExceptions = False


def _add(program: str, formatter: logging.Formatter, level: int) -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logger = logging.getLogger(program)
    logger.addHandler(handler)
    logger.setLevel(level)
    return handler


class _Logfmt(logging.Formatter):
    """A line of ``key=value``, quoted where necessary."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC)
        fields = {
            "time": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "msg": record.getMessage(),
        }
        for name in FIELDS:
            if (value := getattr(record, name, None)) is not None:
                fields[name.removeprefix("virtballoon_")] = str(value)
        line = " ".join(f"{key}={_quoted(value)}" for key, value in fields.items())
        return priority(record.levelno) + line


def _quoted(value: str) -> str:
    if value.isprintable() and re.fullmatch(r"[^\s=\"'\\]+", value):
        return value
    return '"' + printable(value.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def log_calls(program: str) -> logging.Logger:
    """Write the records of DEBUG, which are the calls to libvirt; the others are printed as
    messages, or by :func:`log_to_stderr`."""
    handler = _add(program, logging.Formatter("%(message)s"), logging.DEBUG)
    handler.addFilter(_printable)
    handler.addFilter(lambda record: record.levelno <= logging.DEBUG)
    return logging.getLogger(program)


def _printable(record: logging.LogRecord) -> bool:
    # Domain names may contain control characters.
    record.msg = priority(record.levelno) + printable(record.getMessage())
    record.args = None
    return True
