"""``--log journald``, with a real journal that is private to the test."""

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
NOBODY_LISTENS = "qemu+unix:///system?socket=/no/such/sock"

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


def unavailable(reason: str) -> None:
    (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)


@pytest.fixture(autouse=True)
def _possible() -> None:
    """What the journal of a test needs."""
    if os.geteuid() != 0:
        unavailable("only root can have a mount namespace with a journal of its own")
    for program in (JOURNALD, "journalctl", "unshare"):
        if shutil.which(program) is None:
            unavailable(f"{program} is not installed")
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        unavailable("mount namespaces are not permitted here")
    library = [sys.executable, "-c", "import systemd.journal"]
    if subprocess.run(library, capture_output=True, check=False).returncode:
        unavailable("systemd-python is not installed")


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


def test_hosts_and_failures_are_in_the_journal() -> None:
    hosts = ("-c", "test:///default", "-c", NOBODY_LISTENS)
    result, entries = run(*hosts, "list", "--log", "journald")
    assert result.returncode == 3
    assert "No such file" not in result.stderr
    well = next(entry for entry in entries if entry.get("VIRTBALLOON_HOST") == "test:///default")
    assert (well["PRIORITY"], well["_TRANSPORT"]) == ("6", "journal")
    assert well["MESSAGE"].startswith("test:///default: ok, 1 domain, ")
    assert (well["VIRTBALLOON_STATUS"], well["VIRTBALLOON_DOMAINS"]) == ("ok", "1")
    assert float(well["VIRTBALLOON_ELAPSED_SECONDS"]) > 0
    failure, unreachable = (
        entry for entry in entries if entry.get("VIRTBALLOON_HOST") == NOBODY_LISTENS
    )
    assert (failure["PRIORITY"], failure["VIRTBALLOON_CODE"]) == ("4", "38")
    assert "No such file" in failure["MESSAGE"]
    assert unreachable["VIRTBALLOON_STATUS"] == "unreachable"


def test_a_name_forges_no_field(tmp_path: Path) -> None:
    name = "a\nPRIORITY=0\nVIRTBALLOON_HOST=forged\n\t\x7f\u202e"
    node = tmp_path / "node.xml"
    node.write_text(
        "<node><domain type='test'>"
        f"<name>{name.encode('ascii', 'xmlcharrefreplace').decode()}</name>"
        "<memory>65536</memory><os><type>hvm</type></os>"
        "<devices><memballoon model='none'/></devices></domain></node>".replace("\n", "&#10;")
    )
    uri = f"test://{node}"
    forged = "test:///x\nPRIORITY=0\n"
    hosts = ("-c", uri, "-c", forged)
    result, entries = run(*hosts, "--log", "journald", "set-interval", "9", "--", name)
    assert result.returncode == 1, result.stderr
    assert {entry["PRIORITY"] for entry in entries} == {"4", "6"}
    assert all(entry["MESSAGE"].isprintable() for entry in entries)
    hosts_named = {entry["VIRTBALLOON_HOST"] for entry in entries}
    assert hosts_named == {uri, forged}
    (failure,) = [entry for entry in entries if "VIRTBALLOON_DOMAIN" in entry]
    domain = failure["VIRTBALLOON_DOMAIN"]
    # What is not printable is an array of bytes in journalctl's JSON.
    assert (domain if isinstance(domain, str) else bytes(domain).decode()) == name
    assert failure["VIRTBALLOON_HOST"] == uri
