"""``--lock``: one run at a time."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.lab.waiting import wait_until
from tests.unit.command import COLD, Command, clean_environment

if TYPE_CHECKING:
    from pathlib import Path

TEST = "test:///default"
HELD = 75


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    """Where a lock will be."""
    return tmp_path / "lock"


def test_lock_is_free_for_the_next_run(command: Command, lock: Path) -> None:
    for _ in range(2):
        assert (
            command("-c", TEST, "list", "--lock", str(lock), before="os.umask(0o027)").status == 0
        )
    assert lock.read_text().strip().isdigit()
    assert stat.S_IMODE(lock.stat().st_mode) == 0o640


def test_second_run_while_the_first_hangs(command: Command, lock: Path, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        # It takes connections and never says a word.
        listener.bind(str(path))
        listener.listen()
        silent = f"qemu+unix:///session?socket={path}"
        words = ["-c", silent, "list", "--timeout", "600", "--lock", str(lock)]
        with subprocess.Popen(
            [*COLD, *words], env=clean_environment(tmp_path), stderr=subprocess.DEVNULL
        ) as first:
            try:
                wait_until(lambda: lock.exists() and lock.read_text(), 60, "the first run's lock")
                second = command("-v", "-c", TEST, "list", "--lock", str(lock))
            finally:
                first.terminate()
    assert (second.status, second.stdout) == (HELD, "")
    # With -v, a host that is asked has a line of its own.
    (complaint,) = second.complaints
    assert f"{lock} is locked by process {first.pid}" in complaint
    assert command("-c", TEST, "list", "--lock", str(lock)).status == 0


def test_lock_of_another_program(command: Command, lock: Path) -> None:
    lock.touch()
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        result = command("-c", TEST, "list", "--lock", str(lock))
    assert (result.status, result.stdout) == (HELD, "")
    assert "is locked by another process" in result.stderr
    assert lock.read_text() == ""


def test_refuses_other_files(command: Command, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("target")
    (tmp_path / "report").write_text("precious\n")
    os.mkfifo(tmp_path / "fifo")
    expected = {
        "link": "symbolic link",
        "report": "not a lock file",
        "fifo": "not a regular file",
        ".": "directory",
        "missing/lock": "No such file or directory",
    }
    results = command.each(
        ["-v", "-c", TEST, "list", "--lock", str(tmp_path / name)] for name in expected
    )
    for result, fragment in zip(results, expected.values(), strict=True):
        assert (result.status, result.stdout) == (1, "")
        (complaint,) = result.complaints
        assert fragment in complaint
    assert (tmp_path / "report").read_text() == "precious\n"
    assert not (tmp_path / "target").exists()


def test_lock_file_that_is_replaced_in_between(command: Command, lock: Path) -> None:
    # This moment cannot be hit from outside.
    replaced = f"""
import fcntl
flock = fcntl.flock
def hit(*args):
    fcntl.flock = flock
    os.rename({str(lock)!r}, {str(lock) + ".old"!r})
    flock(*args)
fcntl.flock = hit
"""
    assert command("-c", TEST, "list", "--lock", str(lock), before=replaced).status == 0
    assert lock.read_text().strip().isdigit()


def test_child_process_does_not_inherit_it(command: Command, lock: Path) -> None:
    # Libvirt closes what it knows nothing of; this does not.
    execute = f"""
from virtballoon.system.lockfile import hold
hold({str(lock)!r})
os.execlp("ls", "ls", "-l", "/proc/self/fd")
"""
    result = command(before=execute)
    assert result.status == 0
    assert "/proc/" in result.stdout
    assert str(lock) not in result.stdout
