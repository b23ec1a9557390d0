"""Keeps the figures of a check in a file, for the next run to compare with."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from virtballoon.check.judging import CheckResult, CheckStatus, Problem, Samples
from virtballoon.errors import VirtballoonError
from virtballoon.model.rates import Sample
from virtballoon.system.atomicfile import Output
from virtballoon.system.lockfile import Held, hold

#: The key that identifies such a file, and its version.
_MARK: Final = "virtballoon-check"
_VERSION: Final = 1

#: Another run holds the file for some milliseconds.
_PATIENCE_SECONDS: Final = 5.0


def default_path(question: Sequence[object]) -> Path:
    """Where the readings of a check are kept: a file for each question, so that two services that
    ask for the same guest do not take each other's former readings.

    :raise VirtballoonError: when the directory cannot be made
    """
    home = os.environ.get("XDG_STATE_HOME", "")
    base = Path(home) if home.startswith("/") else Path("~/.local/state").expanduser()
    folder = base / "virtballoon"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise VirtballoonError(
            f"cannot make {folder}: {error.strerror}", hint="--state FILE names another place"
        ) from error
    digest = hashlib.sha256(json.dumps(question).encode()).hexdigest()
    return folder / f"check-{digest[:16]}.json"


def compared(path: Callable[[], Path], check: Callable[[Samples], CheckResult]) -> CheckResult:
    """Check against what the file has, and keep in it what the next check is to compare with.

    A problem with the file is one more problem of the result, and hides no other.
    """
    result = None
    try:
        file = path()
        # Before the lock file is created.
        _read(file)
        _lock(f"{file}.lock")
        result = check(_read(file))
        _write(file, result.samples)
    except VirtballoonError as error:
        problem = Problem(status=CheckStatus.UNKNOWN, message=str(error))
        return (result or check({})).with_problem(problem)
    return result


def _lock(path: str) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            hold(path)
        except Held:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def _read(path: Path) -> Samples:
    """What the file has; nothing where there is none, or one that is of no use.

    :raise VirtballoonError: when it cannot be read, or is not such a file
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise VirtballoonError(f"cannot read {path}: it is not a regular file")
        data = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise VirtballoonError(f"cannot read {path}: {error.strerror}") from error
    if not data:
        return {}
    try:
        stored = json.loads(data)
    except (ValueError, RecursionError):
        stored = None
    if not isinstance(stored, dict) or _MARK not in stored:
        # A wrong path must not cost a file its content.
        raise VirtballoonError(f"{path} is not the state of a check: it has other content")
    try:
        return {
            uri: {sample.uuid: sample for sample in map(Sample.from_dict, rows)}
            for uri, rows in stored["hosts"].items()
        }
    except (KeyError, TypeError, AttributeError, ValueError):
        # Of another version, or changed by hand.
        return {}


def _write(path: Path, samples: Samples) -> None:
    hosts = {uri: [sample.as_dict() for sample in rows.values()] for uri, rows in samples.items()}
    output = Output(str(path))
    json.dump({_MARK: _VERSION, "hosts": hosts}, output.stream)
    output.finish(replace=True)
