"""A signal ends the command in one line, whatever it is about to do."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.process import finished
from tests.unit.command import clean_environment, fill

if TYPE_CHECKING:
    from pathlib import Path

# A real signal, at a moment that cannot be hit from outside.
AT_AN_IMPORT = """
import signal, sys

module, number = sys.argv[1], int(sys.argv[2])

class Hit:
    def find_spec(self, name, *_):
        if name == module:
            signal.raise_signal(number)

sys.meta_path.insert(0, Hit())
from virtballoon.__main__ import main
sys.argv[1:] = sys.argv[3:]
main()
"""


def run(folder: Path, *args: str, ignored: int | None = None) -> subprocess.CompletedProcess[str]:
    def ignore() -> None:
        if ignored is not None:
            signal.signal(ignored, signal.SIG_IGN)

    return finished(
        [sys.executable, "-c", AT_AN_IMPORT, *args],
        env=clean_environment(folder),
        preexec_fn=ignore,
    )


@pytest.mark.parametrize("module", ["click", "libvirt"])
def test_interrupted_while_modules_are_imported(tmp_path: Path, module: str) -> None:
    result = run(tmp_path, module, str(int(signal.SIGINT)), "-c", "test:///default", "list")

    assert (result.returncode, result.stdout) == (130, "")
    assert result.stderr == "virtballoon: interrupted\n"


def test_terminated(tmp_path: Path) -> None:
    result = run(tmp_path, "click", str(int(signal.SIGTERM)), "--version")

    assert (result.returncode, result.stdout) == (-signal.SIGTERM, "")
    assert result.stderr == "virtballoon: terminated\n"


def test_ignored_signal_stays_ignored(tmp_path: Path) -> None:
    number = signal.SIGHUP
    result = run(tmp_path, "click", str(int(number)), "--version", ignored=number)

    assert (result.returncode, result.stderr) == (0, "")


def test_terminated_on_a_frozen_terminal(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    fill(theirs)
    try:
        result = subprocess.run(
            [sys.executable, "-c", AT_AN_IMPORT, "click", str(int(signal.SIGTERM)), "--version"],
            env=clean_environment(tmp_path),
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            timeout=60,
            check=False,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert result.returncode == -signal.SIGTERM


PENDING = """
import sys, threading
from virtballoon.system import cleanup
from virtballoon.__main__ import main

def add(name, hangs):
    remaining = [f"{name} remains"]
    def undo(seconds):
        if hangs:
            threading.Event().wait()
        remaining.clear()
        print("undone", name, flush=True)
    cleanup.pending.append(cleanup.Cleanup(undo, remaining=lambda: remaining))

cleanup.UNDO_SECONDS = 0.2
add("one", False)
add("other", sys.argv.pop(1) == "one")
main()
"""


@pytest.mark.parametrize("undone", ["all", "one"])
@pytest.mark.parametrize(
    ("words", "status", "said"),
    [(["--version"], 0, []), (["qom-path"], 2, ["virtballoon: Missing"])],
)
def test_undoes_what_is_pending_before_the_end(
    tmp_path: Path, undone: str, words: list[str], status: int, said: list[str]
) -> None:
    """With a cleanup of the test's own, since no real one can be made to hang like this."""
    result = finished(
        [sys.executable, "-c", PENDING, undone, *words], env=clean_environment(tmp_path)
    )
    assert result.returncode == status
    assert "undone one" in result.stdout
    assert ("undone other" in result.stdout) == (undone == "all")
    complaints = result.stderr.splitlines()
    remaining = [] if undone == "all" else ["virtballoon: other remains"]
    assert complaints[len(said) :] == remaining
    assert [line[: len(word)] for line, word in zip(complaints, said, strict=False)] == said
