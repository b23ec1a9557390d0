"""A hypervisor inside the process: qemu:///embed, with no daemon at all."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import GuestSpec, wait_until
from tests.lab.guest import domain_xml
from tests.process import finished

# Run as root, the driver would run guests as a user of the machine. What is imported later than
# this could lie where only root can read.
PREPARE = """
import importlib, os, pkgutil, sys
import virtballoon
for module in pkgutil.walk_packages(virtballoon.__path__, "virtballoon."):
    importlib.import_module(module.name)
import encodings.unicode_escape, libvirt_qemu
if os.geteuid() == 0:
    os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
os.umask(0o077)
"""
CREATE = """
connection = virtballoon.Connection.open(sys.argv[1], readonly=False)
domain = connection.raw.createXML(sys.argv[2], 1)
host = virtballoon.read_host(connection)
(row,) = host.domains
print(row.name, row.verdict.value, row.interval.live, row.balloon.qom_path)
print(virtballoon.set_interval(domain, 7).outcome.value)
(row,) = virtballoon.read_host(connection, via=virtballoon.Source.QOM).domains
print(row.interval.live, row.interval.qemu)
"""
PARSE = """
import random, threading
from virtballoon.hypervisor import domainxml
def parse():
    while True:
        # Text that has not been parsed before.
        domainxml.parse(f"<domain><name>{random.random()}</name>{'<x/>' * 1000}</domain>")
connection = virtballoon.Connection.open(sys.argv[1], readonly=False)
for _ in range(2):
    threading.Thread(target=parse, daemon=True).start()
for _ in range(20):
    connection.raw.getDomainCapabilities()
print("alive", flush=True)
os._exit(0)
"""
COMMAND = """
from virtballoon.cli import main
main()
"""


@pytest.fixture
def embed() -> Iterator[Path]:
    """A directory for the hypervisor; what runs in it ends with the test."""
    if shutil.which("qemu-system-x86_64") is None:
        reason = "no qemu-system-x86_64: run tests/lab/setup"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    directory = Path(tempfile.mkdtemp(prefix="embed-"))
    if os.geteuid() == 0:
        os.chown(directory, 65534, 65534)
    try:
        yield directory
    finally:
        for pid in qemus(directory):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not qemus(directory), 30, "QEMU to end")
        shutil.rmtree(directory)


def qemus(directory: Path) -> list[int]:
    """The QEMU processes of this hypervisor."""
    found = []
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = cmdline.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"qemu-system" in words[0] and str(directory).encode() in b"\0".join(words):
            found.append(int(cmdline.parent.name))
    return found


def run(script: str, *words: str, directory: Path) -> subprocess.CompletedProcess[str]:
    return finished(
        [sys.executable, "-c", PREPARE + script, *words],
        env={"PATH": os.environ["PATH"], "HOME": str(directory), "XDG_RUNTIME_DIR": str(directory)},
        cwd=directory,
    )


def test_guests_without_a_daemon(embed: Path) -> None:
    uri = f"qemu:///embed?root={embed}"
    xml = domain_xml(GuestSpec("embedded", memory_mib=16, period=3))
    created = run(CREATE, uri, xml, directory=embed)
    assert created.returncode == 0, created.stderr
    assert created.stdout.splitlines() == [
        "embedded suspended 3 /machine/peripheral/balloon0",
        "changed",
        "7 7",
    ]
    # The guest outlives the process, and the next one finds it.
    assert len(qemus(embed)) == 1
    listed = run(COMMAND, "list", "-c", uri, "--format", "json", directory=embed)
    assert listed.returncode == 0, listed.stderr
    (row,) = json.loads(listed.stdout)["hosts"][0]["domains"]
    assert (row["name"], row["verdict"], row["interval"]["live"]) == ("embedded", "suspended", 7)


def test_driver_reads_files_while_xml_is_parsed(embed: Path) -> None:
    """Where lxml and libvirt share one libxml2, as on Debian, lxml's parser in another thread
    crashes the process."""
    parsed = run(PARSE, f"qemu:///embed?root={embed}", directory=embed)
    assert (parsed.returncode, parsed.stdout) == (0, "alive\n"), parsed.stderr
