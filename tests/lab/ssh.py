"""A way to a hypervisor by ssh: a server and a client of the lab's own."""

from __future__ import annotations

import ctypes.util
import shlex
import subprocess
import tempfile
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import urlencode

from .hypervisor import find_program, hand_over, lab_user, unprivileged
from .keeper import Keeper
from .kernel import SETUP, LabUnavailable
from .link import start_listeners

if TYPE_CHECKING:
    from .hypervisor import Hypervisor

_PACKAGES = "openssh-server libnss-wrapper netcat-openbsd"
_USER = "tester"
_SERVER = """\
HostKey {directory}/server/host_key
AuthorizedKeysFile {directory}/key.pub
PidFile none
StrictModes no
UsePAM no
PermitUserRC no
SetEnv XDG_RUNTIME_DIR={hypervisor.directory}/run
PasswordAuthentication {passwords}
KbdInteractiveAuthentication no
"""
_CLIENT = """\
UserKnownHostsFile {directory}/known_hosts
GlobalKnownHostsFile none
HostKeyAlias lab
IdentitiesOnly yes
IdentityAgent none
"""


class SshServer:
    """An ssh server on the loopback: a context manager that leaves no process and no file.

    It runs as the lab's user and lets in its user alone, under another name and with a home and a
    shell of the lab's, which nss_wrapper makes out to it: so it is the same for root and others,
    and needs neither a user nor a directory of the machine. No file of the tester's ~/.ssh plays a
    part.

    :param hypervisor: the one whose user is let in
    :param passwords: whether it asks for a password who has no key

    :ivar directory: the files of the server and the client
    """

    def __init__(self, hypervisor: Hypervisor, *, passwords: bool = False) -> None:
        self._hypervisor = hypervisor
        self._passwords = passwords
        self._number = count(1)

    def __enter__(self) -> Self:
        wrapper = ctypes.util.find_library("nss_wrapper")
        try:
            sshd = find_program("sshd")
            find_program("nc")
        except LabUnavailable:
            wrapper = None
        if wrapper is None:
            raise LabUnavailable(f"no ssh server: run {SETUP} {_PACKAGES}")
        self.directory = Path(tempfile.mkdtemp(prefix="lab-", dir="/tmp"))
        self._keeper = Keeper(self.directory)
        try:
            self._furnish()
            environment = {
                "LD_PRELOAD": wrapper,
                "NSS_WRAPPER_PASSWD": f"{self.directory}/server/passwd",
                "NSS_WRAPPER_GROUP": f"{self.directory}/server/group",
            }
            settings = [f"{name}={value}" for name, value in environment.items()]
            server = ["env", *settings, sshd, "-i", "-e", "-f", f"{self.directory}/sshd_config"]
            command = ["--run", "--", *unprivileged(server)]
            (self.port,) = start_listeners(self._keeper, self.directory, command)
        except BaseException:
            self._keeper.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._keeper.close()

    def _furnish(self) -> None:
        user = lab_user()
        # The client's files are the tester's: libvirt takes root's privileges from it.
        self.directory.chmod(0o755)
        server = self.directory / "server"
        (server / "home").mkdir(parents=True)
        for name in ("server/host_key", "key", "other_key"):
            self._make_key(name)
        for name, text in {
            "server/passwd": f"{_USER}:x:{user.pw_uid}:{user.pw_gid}::{server}/home:/bin/sh\n",
            "server/group": f"{_USER}:x:{user.pw_gid}:\n",
            "sshd_config": _SERVER.format(
                directory=self.directory,
                hypervisor=self._hypervisor,
                passwords="yes" if self._passwords else "no",
            ),
            "ssh_config": _CLIENT.format(directory=self.directory),
            "known_hosts": f"lab {(server / 'host_key.pub').read_text()}",
            "other_hosts": f"lab {(self.directory / 'other_key.pub').read_text()}",
        }.items():
            (self.directory / name).write_text(text)
        hand_over(server)

    def _make_key(self, name: str) -> None:
        keygen = [find_program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-C", ""]
        subprocess.run([*keygen, "-f", f"{self.directory}/{name}"], check=True)

    def uri(self, *options: str, port: int | None = None, **parameters: object) -> str:
        """The hypervisor's URI by way of this server.

        :param options: settings for the client, as they stand in its configuration; they come
            before the lab's own
        :param port: another port than this server's
        :param parameters: other parameters of the URI
        """
        # libvirt's URI takes a client, but none of the settings that keep it from ~/.ssh.
        client = self.directory / f"client{next(self._number)}"
        command = [find_program("ssh"), "-F", f"{self.directory}/ssh_config"]
        command += [f"-o{option}" for option in options]
        client.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
        client.chmod(0o755)
        parameters = {"command": client, "keyfile": self.directory / "key", **parameters}
        query = urlencode(parameters, safe="/")
        return f"qemu+ssh://{_USER}@127.0.0.1:{port or self.port}/session?{query}"
