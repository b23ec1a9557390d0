"""``--lock``: one run at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
from typing import Final

from virtballoon.errors import VirtballoonError

# O_NONBLOCK: opening a FIFO would wait for the other end.
_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK


class Held(VirtballoonError):
    """Another process holds the lock."""

    exit_status: Final = os.EX_TEMPFAIL


def hold(path: str) -> None:
    """Take the lock until the process ends; child processes do not inherit it.

    :raise Held: if another process holds it
    :raise VirtballoonError: if the file cannot be a lock
    """
    try:
        while not _take(path):
            pass
    except BlockingIOError:
        raise Held(
            f"{path} is locked by {_holder(path)}", hint="another run has not ended yet"
        ) from None
    except OSError as error:
        reason = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror
        raise VirtballoonError(f"cannot lock {path}: {reason}") from error


def _take(path: str) -> bool:
    """Take the lock; False if the file was removed or replaced in the meantime."""
    file = os.open(path, _FLAGS, 0o644)
    keep = False
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # A mistyped name must not cost a file its content.
        if not re.fullmatch(rb"\d*\n?", os.pread(file, 64, 0)):
            raise OSError(errno.EINVAL, "not a lock file: it has other content")
        try:
            keep = os.path.samestat(status, os.lstat(path))
        except FileNotFoundError:
            return False
        if keep:
            os.ftruncate(file, 0)
            os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        return keep
    finally:
        if not keep:
            os.close(file)


def _holder(path: str) -> str:
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            pid = file.read(64).strip()
    except OSError:
        pid = b""
    return f"process {int(pid)}" if re.fullmatch(rb"\d{1,20}", pid) else "another process"
