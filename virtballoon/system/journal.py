"""The priority of a line on stderr if the systemd journal reads it (``sd-daemon(3)``)."""

from __future__ import annotations

import os

#: A level of :mod:`logging`, which is not imported just for it.
WARNING = 30

#: The lowest level of each of syslog's priorities.
_PRIORITIES = ((40, 3), (30, 4), (20, 6), (0, 7))


def priority(level: int) -> str:
    """What to put before a line, such as ``<4>``; nothing if the journal does not read stderr.

    :param level: one of :mod:`logging`'s
    """
    try:
        stderr = os.fstat(2)
    except OSError:
        return ""
    if os.environ.get("JOURNAL_STREAM") != f"{stderr.st_dev}:{stderr.st_ino}":
        return ""
    return f"<{next(number for least, number in _PRIORITIES if level >= least)}>"
