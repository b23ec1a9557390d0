"""``--output``: a file that is either complete or unchanged."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from virtballoon.errors import VirtballoonError
from virtballoon.system.cleanup import Cleanup


class Output:
    """A file that is written at the end, when all data is known.

    :param path: a file, or a link to one, which is replaced; a device or a FIFO is written to
    :ivar stream: what to print to until then
    :raise VirtballoonError: if it cannot be written, as far as that is known before
    """

    def __init__(self, path: str) -> None:
        self.stream = io.StringIO()
        self._path = path
        self._target = Path(os.path.realpath(path))
        with _explained(path):
            self._direct = self._opened()

    def finish(self, *, replace: bool) -> None:
        """Write what was printed; replace a regular file only if wanted.

        :raise VirtballoonError: if it could not be written; a regular file is unchanged then
        """
        data = self.stream.getvalue().encode("utf-8", "backslashreplace")
        with _explained(self._path):
            if self._direct is not None:
                self._direct.write(data)
                self._direct.flush()
            elif replace:
                _replace(self._target, data)

    def _opened(self) -> BinaryIO | None:
        """The target, if it is not a regular file and so cannot be replaced."""
        try:
            status = os.stat(self._path)  # noqa: PTH116 - a Path would lose a slash at the end
        except FileNotFoundError:
            status = None
        if self._path.endswith("/") or (status is not None and stat.S_ISDIR(status.st_mode)):
            raise IsADirectoryError(errno.EISDIR, "it is a directory")
        if status is not None:
            # /dev/stdout can be a file that is appended to, or a socket.
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError):
                    if os.path.samestat(os.fstat(stream.fileno()), status):
                        return stream.buffer
            if not stat.S_ISREG(status.st_mode):
                # Without O_NONBLOCK, this would wait until the FIFO has a reader.
                target = os.open(self._path, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
                os.set_blocking(target, True)
                return open(target, "wb")  # noqa: PTH123
        folder = self._target.parent
        if not folder.is_dir():
            raise FileNotFoundError(errno.ENOENT, f"no directory {folder}")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, f"no write permission in {folder}")
        return None


@contextlib.contextmanager
def _explained(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise VirtballoonError(f"cannot write {path}: {error.strerror}") from error


def _replace(target: Path, data: bytes) -> None:
    temporary = target.with_name(f".virtballoon-{os.urandom(8).hex()}")

    def remove(_seconds: float) -> None:
        with contextlib.suppress(OSError):
            temporary.unlink()

    with Cleanup(remove):
        try:
            # Not readable for others until it has the access rights of the file it replaces.
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            with open(os.open(temporary, flags, 0o600), "wb") as file:  # noqa: PTH123
                file.write(data)
                file.flush()
                _copy_access(target, file.fileno())
                os.fsync(file.fileno())
            temporary.replace(target)
        except BaseException:
            remove(0)
            raise
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    except OSError as error:
        # Not every file system does this for a directory.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(folder)


def _copy_access(target: Path, new: int) -> None:
    """Give the new file the owner and access rights of the old one, and no user more than that."""
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
            # The old group's members count as others now, and others may be in the new group.
            least = mode >> 3 & mode & 0o7
            mode = mode & 0o700 | least << 3 | least
    with contextlib.suppress(OSError):
        # From the directory's default ACL.
        os.removexattr(new, "system.posix_acl_access")
    with contextlib.suppress(OSError):
        # With the ACL and other extended attributes.
        shutil.copystat(target, new)  # type: ignore[arg-type]
    os.utime(new)
    os.fchmod(new, mode)
