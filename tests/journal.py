"""A systemd journal that is private to a test, for what `--log journald` writes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

COMMAND = Path(sys.executable).with_name("virtballoon")
JOURNALD = "/lib/systemd/systemd-journald"

# In a mount namespace of its own: the machine's journal is neither seen nor written.
SCRIPT = f"""
mount -t tmpfs none /run && mount -t tmpfs none /var/log || exit 99
mkdir -p /run/systemd/journal /run/log/journal
{JOURNALD} &
journald=$!
until [ -S /run/systemd/journal/socket ]; do kill -0 $journald || exit 99; sleep 0.01; done
"$@" >&2
status=$?
# It reads what its socket holds before it ends.
kill $journald
wait $journald
journalctl --directory=/run/log/journal --quiet --all --output=json SYSLOG_IDENTIFIER=virtballoon
exit $status
"""


def require() -> None:
    """Skip the test, or fail it, where there can be no such journal."""
    if os.geteuid() != 0:
        _unavailable("only root can have a mount namespace with a journal of its own")
    for program in (JOURNALD, "journalctl", "unshare"):
        if shutil.which(program) is None:
            _unavailable(f"{program} is not installed")
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        _unavailable("mount namespaces are not permitted here")
    library = [sys.executable, "-c", "import systemd.journal"]
    if subprocess.run(library, capture_output=True, check=False).returncode:
        _unavailable("systemd-python is not installed")


def _unavailable(reason: str) -> None:
    (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)


def run(*words: str) -> tuple[subprocess.CompletedProcess[str], list[dict[str, Any]]]:
    """Run the installed command, and read what it left in the journal."""
    result = subprocess.run(
        ["unshare", "-m", "--propagation", "private", "sh", "-c", SCRIPT, "sh", COMMAND, *words],
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode != 99, result.stderr
    return result, [json.loads(line) for line in result.stdout.splitlines()]
