"""By ssh to a host with another version of libvirt, in both directions: between this machine and
the tree of the stack `trixie`."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.conftest import cannot_run
from tests.lab.keeper import Keeper
from tests.lab.kernel import CHECKOUT
from tests.process import finished

RELEASE = "trixie"
STACK = CHECKOUT / ".cache" / RELEASE
TREE = STACK / "root"
#: What runs a program on this machine and in the tree; both have libvirt's binding and the package
#: in the checkout.
HERE = (sys.executable,)
THERE = (CHECKOUT / "tests/stack", RELEASE, "/usr/bin/python3")
#: A host: it prints its URI, and ends with its standard input.
HOST = """
import sys
from tests.lab import GuestSpec, Hypervisor, SshServer
with Hypervisor() as hypervisor, SshServer(hypervisor) as server:
    hypervisor.boot([GuestSpec("web1", period=1)])
    print(server.uri(), flush=True)
    sys.stdin.read()
"""
#: It prints the versions of the client's library and of the daemon.
VERSIONS = """
import libvirt, sys
print(libvirt.getVersion(), libvirt.openReadOnly(sys.argv[1]).getLibVersion())
"""


def check_tree() -> None:
    """Skip the test where there is no other version of libvirt."""
    if platform.freedesktop_os_release().get("VERSION_CODENAME") == RELEASE:
        pytest.skip("this machine has the libvirt of the stack")
    if os.geteuid() != 0:
        cannot_run("must be root to run something in the tree of another release")
    # What installs the package there has installed everything else before.
    if not (STACK / "cache/distribution/bin/virtballoon").exists():
        cannot_run(f"no Debian 13 in {STACK}: run tests/run --stack {RELEASE}")


@contextmanager
def host(python: tuple[str | Path, ...], root: Path, client_root: Path) -> Iterator[str]:
    """A host's URI, for a client in another tree."""
    command = [*python, "-c", HOST]
    with subprocess.Popen(
        command, cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            uri = process.stdout.readline().strip()
            assert uri, "the host did not start: its errors are on stderr"
            (key,) = parse_qs(urlsplit(uri).query)["keyfile"]
            files = Path(key).parent.relative_to("/")
            # The client's configuration and key, at the same path. The server's part is its own.
            shutil.copytree(
                root / files, client_root / files, ignore=shutil.ignore_patterns("server")
            )
            keeper = Keeper(client_root / files)
            try:
                yield uri
            finally:
                keeper.close()
        finally:
            process.stdin.close()


@pytest.mark.guest
@pytest.mark.once
@pytest.mark.parametrize("daemon", ["there", "here"])
def test_another_version_of_libvirt(daemon: str) -> None:
    check_tree()
    roots = {HERE: Path("/"), THERE: TREE}
    server, client = (THERE, HERE) if daemon == "there" else (HERE, THERE)
    with host(server, roots[server], roots[client]) as uri:

        def python(*words: str) -> str:
            result = finished([*client, *words], cwd=CHECKOUT)
            assert result.returncode == 0, result.stderr
            return result.stdout

        def virtballoon(*words: str) -> str:
            return python("-m", "virtballoon", "-c", uri, "--timeout", "60", *words)

        def read(*words: str) -> Any:
            document = json.loads(virtballoon(*words, "--format", "json"))
            (web1,) = document["hosts"][0]["domains"]
            return web1

        library, daemons = python("-c", VERSIONS, uri).split()
        assert library != daemons

        virtballoon("set-interval", "2", "web1", "--wait")
        listed = read("list")
        assert (listed["verdict"], listed["interval"]["live"]) == ("fresh", 2)
        assert 0 < listed["used_bytes"] < listed["stats"]["total_memory"]
        assert read("stats", "--fresh")["age_seconds"] <= 5
        assert read("list", "--via", "qom")["interval"]["qemu"] == 2
