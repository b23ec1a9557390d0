"""``--output``: a file that is complete, or as it was."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from virtballoon.errors import VirtballoonError
from virtballoon.system.cleanup import unfinished

_ACL: Final = "system.posix_acl_access"


class Output:
    """A file to be written at the end, when everything is known.

    :param path: a file, which is replaced, or its link's target; a device or a FIFO is written to
    :raise VirtballoonError: when that would not work, as far as it can be known before

    :ivar stream: what to print to meanwhile
    """

    def __init__(self, path: str) -> None:
        self.stream = io.StringIO()
        self._path = path
        self._target = Path(os.path.realpath(path))
        with _explained(path):
            self._direct = self._opened()

    def finish(self, *, replace: bool) -> None:
        """Write what was printed.

        :param replace: whether it is worth a file's old content; others are written to anyway
        :raise VirtballoonError: when it could not be written; a file is as it was
        """
        data = self.stream.getvalue().encode("utf-8", "backslashreplace")
        with _explained(self._path):
            if self._direct is not None:
                self._direct.write(data)
                self._direct.flush()
            elif replace:
                _replace(self._target, data)

    def _opened(self) -> BinaryIO | None:
        """The target, where it is no regular file and so cannot be replaced."""
        try:
            status = os.stat(self._path)  # noqa: PTH116 - a Path would lose a slash at the end
        except FileNotFoundError:
            status = None
        if self._path.endswith("/") or (status is not None and stat.S_ISDIR(status.st_mode)):
            raise IsADirectoryError(errno.EISDIR, "it is a directory")
        if status is not None:
            # /dev/stdout can lead to a file that somebody appends to, or to a socket.
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError):
                    if os.path.samestat(os.fstat(stream.fileno()), status):
                        return stream.buffer
            if not stat.S_ISREG(status.st_mode):
                # Without O_NONBLOCK, a FIFO that nobody reads would be waited for.
                target = os.open(self._path, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
                os.set_blocking(target, True)
                return open(target, "wb")  # noqa: PTH123
        folder = self._target.parent
        if not folder.is_dir():
            raise FileNotFoundError(errno.ENOENT, f"there is no directory {folder}")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, f"nothing can be written in {folder}")
        return None


@contextlib.contextmanager
def _explained(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise VirtballoonError(f"cannot write {path}: {error.strerror}") from error


def _replace(target: Path, data: bytes) -> None:
    temporary = target.with_name(f".virtballoon-{os.urandom(8).hex()}")
    unfinished.add(str(temporary))
    try:
        # Nobody else reads it until it has the access of the file that it replaces.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with open(os.open(temporary, flags, 0o600), "wb") as file:  # noqa: PTH123
            file.write(data)
            file.flush()
            _take_access(target, file.fileno())
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    finally:
        unfinished.discard(str(temporary))
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    except OSError as error:
        # Not every file system does this for a directory.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(folder)


def _take_access(target: Path, new: int) -> None:
    """Give the new file the old one's owner and access, and nobody more than they had."""
    try:
        old = target.stat()
    except FileNotFoundError:
        mask = os.umask(0o077)
        os.umask(mask)
        os.fchmod(new, 0o666 & ~mask)
        return
    mode = old.st_mode & 0o777
    try:
        os.fchown(new, old.st_uid, old.st_gid)
    except OSError:
        try:
            os.fchown(new, -1, old.st_gid)
        except OSError:
            # The old group are others now, and others are the group.
            least = mode >> 3 & mode & 0o7
            mode = mode & 0o700 | least << 3 | least
    # The directory may have given it a list of its own.
    with contextlib.suppress(OSError):
        os.removexattr(new, _ACL)
    with contextlib.suppress(OSError):
        os.setxattr(new, _ACL, os.getxattr(target, _ACL))
    os.fchmod(new, mode)
