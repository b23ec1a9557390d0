"""What stood in the way to a host, by what libvirt 9.0, OpenSSH 9.2 and netcat really said."""

from __future__ import annotations

import os
from errno import EACCES, ECONNREFUSED, ECONNRESET, EHOSTUNREACH, EIO, ENOENT, EPIPE
from pathlib import Path

import pytest

from virtballoon import (
    AuthError,
    ConnectError,
    HostKeyError,
    HostUnreachable,
    NoDaemon,
)
from virtballoon.hypervisor.uri import (
    bad_credentials,
    configured_default,
    default_uri,
    explain,
    may_start_ssh,
    refused,
    without_prompts,
)

SSH = "qemu+ssh://admin@hv2/system"
TCP = "qemu+tcp://hv2/system"
RESET = "Connection reset by peer"
CHANGED = (
    f"Cannot recv data: {'@' * 59}\r\n"
    "@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\r\n"
    f"{'@' * 59}\r\nIT IS POSSIBLE THAT SOMEONE IS DOING SOMETHING NASTY!\r\n"
    "The fingerprint for the ED25519 key sent by the remote host is\nSHA256:5QvWbt297yNt.\r\n"
    "Host key for hv2 has changed and you have requested strict checking.\r\n"
    f"Host key verification failed.: {RESET}"
)
UNKNOWN = (
    "Cannot recv data: No ED25519 host key is known for hv2 and you have requested strict "
    f"checking.\r\nHost key verification failed.: {RESET}"
)
REFUSED = "Permission denied (publickey,password)"
EOF = "End of file while reading data: {}: Input/output error"
HELPER = "virt-ssh-helper: cannot connect to '/run/libvirt/libvirt-sock-ro'"
NOT_THERE = "Failed to connect socket to '/run/libvirt/libvirt-sock-ro': No such file or directory"


@pytest.mark.parametrize(
    ("uri", "message", "number", "kind", "said"),
    [
        (SSH, CHANGED, ECONNRESET, HostKeyError, "not the one in known_hosts"),
        (SSH, UNKNOWN, ECONNRESET, HostKeyError, "does not know the host's key"),
        (
            SSH,
            f"Cannot recv data: Host key verification failed.: {RESET}",
            ECONNRESET,
            HostKeyError,
            "does not know the host's key",
        ),
        (
            "qemu+libssh2://hv2/system",
            "SSH transport error: No user interaction callback provided: Can't verify the session"
            " host key",
            None,
            HostKeyError,
            "does not know the host's key",
        ),
        (
            SSH,
            "Cannot recv data: Permission denied, please try again.\r\n"
            f"admin@hv2: {REFUSED}.: {RESET}",
            ECONNRESET,
            AuthError,
            f"ssh was refused: {REFUSED}",
        ),
        (
            SSH,
            "Cannot recv data: ssh: Could not resolve hostname hv2: Name or service not known: "
            f"{RESET}",
            ECONNRESET,
            HostUnreachable,
            "ssh: Could not resolve hostname hv2: Name or service not known",
        ),
        (
            SSH,
            f"Cannot recv data: ssh: connect to host hv2 port 22: Connection refused: {RESET}",
            ECONNRESET,
            HostUnreachable,
            "ssh: connect to host hv2 port 22: Connection refused",
        ),
        (
            SSH,
            f"Cannot recv data: ssh: connect to host 2001:db8::1 port 22: Connection timed out: "
            f"{RESET}",
            ECONNRESET,
            HostUnreachable,
            "ssh: connect to host 2001:db8::1 port 22: Connection timed out",
        ),
        (
            SSH,
            "Cannot recv data: Connection timed out during banner exchange\r\nConnection to "
            f"127.0.0.1 port 38913 timed out: {RESET}",
            ECONNRESET,
            HostUnreachable,
            "ssh: Connection timed out during banner exchange",
        ),
        (
            SSH,
            "Cannot recv data: kex_exchange_identification: read: Connection reset by peer\r\n"
            f"Connection reset by 127.0.0.1 port 40265: {RESET}",
            ECONNRESET,
            HostUnreachable,
            "ssh: kex_exchange_identification: read: Connection reset by peer",
        ),
        (SSH, EOF.format(f"{HELPER}: {NOT_THERE}"), EIO, NoDaemon, HELPER),
        (
            SSH,
            EOF.format(
                f"{HELPER}: Unable to create lock '/run/user/7/libvirtd.lock': Permission denied"
            ),
            EIO,
            AuthError,
            "not for this user",
        ),
        (
            SSH,
            EOF.format("nc: /run/libvirt/libvirt-sock: Permission denied"),
            EIO,
            AuthError,
            "not for this user: nc: /run/libvirt/libvirt-sock: Permission denied",
        ),
        (
            SSH,
            EOF.format("nc: /run/libvirt/libvirt-sock: Connection refused"),
            EIO,
            NoDaemon,
            "no libvirtd listens there: nc: /run/libvirt/libvirt-sock: Connection refused",
        ),
        (
            SSH,
            EOF.format("nc: /tmp/nope: No such file or directory"),
            EIO,
            NoDaemon,
            "no libvirtd listens there: nc: /tmp/nope: No such file or directory",
        ),
        (SSH, EOF.format("sh: 1: nc: not found"), EIO, NoDaemon, "nc: not found"),
        (
            SSH,
            EOF.format("bash: line 1: nc: command not found"),
            EIO,
            NoDaemon,
            "nc: command not found",
        ),
        # What ssh said is lost when it ended before libvirt had written to it.
        (SSH, "Cannot write data: Broken pipe", EPIPE, ConnectError, "Broken pipe"),
        # No ssh on this host, or one that may not be run: that is no refusal of the other's.
        (
            SSH,
            "Cannot recv data: libvirt:  error : cannot execute binary /opt/ssh: Permission "
            f"denied: {RESET}",
            ECONNRESET,
            ConnectError,
            "cannot execute binary /opt/ssh",
        ),
        (
            TCP,
            "unable to connect to server at 'hv2:16509': Connection refused",
            ECONNREFUSED,
            NoDaemon,
            "Connection refused",
        ),
        (
            TCP,
            "unable to connect to server at '2001:db8::1:16509': No route to host",
            EHOSTUNREACH,
            HostUnreachable,
            "No route to host",
        ),
        (
            TCP,
            "Unable to resolve address 'hv2' service '16509': Name or service not known",
            None,
            HostUnreachable,
            "Name or service not known",
        ),
        (TCP, f"Cannot recv data: {RESET}", ECONNRESET, ConnectError, RESET),
        ("qemu:///system", NOT_THERE, ENOENT, NoDaemon, "No such file or directory"),
        (
            "qemu+tls://hv2/system",
            "Cannot read CA certificate '/etc/pki/CA/cacert.pem': No such file or directory",
            ENOENT,
            ConnectError,
            "Cannot read CA certificate",
        ),
        # An alias may stand for any URI.
        ("hv2", CHANGED, ECONNRESET, HostKeyError, "not the one in known_hosts"),
        ("hv2", NOT_THERE, ENOENT, ConnectError, "No such file or directory"),
        ("http://[", "no idea", None, ConnectError, "no idea"),
    ],
)
def test_connect_error_by_libvirts_message(
    uri: str, message: str, number: int | None, kind: type[ConnectError], said: str
) -> None:
    error = explain(message, number, uri, code=38)
    assert type(error) is kind
    assert said in error.message
    assert error.hint
    assert (error.code, error.host) == (38, uri)
    if kind is not ConnectError:
        assert "Cannot recv data" not in error.message
        assert "End of file" not in error.message


@pytest.mark.parametrize(
    ("uri", "opened"),
    [
        ("qemu:///system", "qemu:///system"),
        (TCP, TCP),
        (SSH, f"{SSH}?no_tty=1"),
        (f"{SSH}?keyfile=/k", f"{SSH}?keyfile=/k&no_tty=1"),
        # Who wants to be asked says so.
        (f"{SSH}?no_tty=0", f"{SSH}?no_tty=0"),
        (f"{SSH}?keyfile=/k&no_tty=0", f"{SSH}?keyfile=/k&no_tty=0"),
    ],
)
def test_ssh_does_not_ask(uri: str, opened: str) -> None:
    assert without_prompts(uri) == opened


def client_files(folder: Path, **files: str) -> None:
    """Libvirt's files of an ordinary user."""
    (folder / "libvirt").mkdir()
    for name, text in files.items():
        (folder / "libvirt" / f"{name}.conf").write_text(text)


@pytest.fixture
def user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The configuration directory of an ordinary user with nothing in it."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for name in ("LIBVIRT_DEFAULT_URI", "LIBVIRT_AUTH_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path


def test_the_default_uri_is_what_libvirt_opens(user: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (configured_default(), default_uri()) == (None, "qemu:///session")

    client_files(user, libvirt=f"#uri_default = 'qemu:///x'\n uri_default = \"{TCP}\"\n")
    assert (configured_default(), default_uri()) == (TCP, TCP)

    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", SSH)
    assert (configured_default(), default_uri()) == (SSH, SSH)

    monkeypatch.delenv("LIBVIRT_DEFAULT_URI")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    # Root's is not in a home directory.
    assert configured_default() != TCP


def test_an_alias_of_ssh_does_not_ask(user: Path) -> None:
    client_files(
        user, libvirt=f'uri_aliases = [\n  # "hv3=qemu:///x",\n  "hv1={TCP}", \'hv2={SSH}\'\n]\n'
    )
    assert without_prompts("hv1") == "hv1"
    assert without_prompts("hv2") == f"{SSH}?no_tty=1"
    assert without_prompts("hv3") == "hv3"
    assert [may_start_ssh(uri) for uri in ("hv1", "hv2", SSH, TCP)] == [False, True, True, False]


@pytest.mark.usefixtures("user")
@pytest.mark.parametrize(
    ("uri", "number", "asked", "said"),
    [
        (TCP, None, False, "/libvirt/auth.conf or /etc/libvirt/auth.conf"),
        ("qemu://hv2/system", None, False, "/libvirt/auth.conf or /etc/libvirt/auth.conf"),
        ("qemu:///system", None, True, "/libvirt/auth.conf or /etc/libvirt/auth.conf"),
        (f"{TCP}?x=1&authfile=/a%20b", None, False, "password from /a b"),
        ("qemu:///system", None, False, "group libvirt"),
        ("qemu:///system", EACCES, False, "group libvirt"),
        (f"{SSH}?authfile=/a", None, False, "group libvirt"),
    ],
)
def test_refused_user_gets_a_hint(uri: str, number: int | None, asked: bool, said: str) -> None:
    error = refused("no", uri, code=45, number=number, asked=asked)
    assert (error.message, error.host, error.code) == ("no", uri, 45)
    assert said in str(error.hint)


def test_a_file_with_passwords_that_cannot_be_used(
    user: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bad_credentials("unknown", TCP, code=1) is None

    monkeypatch.setenv("LIBVIRT_AUTH_FILE", f"{user}/none")
    missing = bad_credentials("unknown", f"{TCP}?authfile=/a", code=1)
    assert missing is not None
    assert missing.message == f"cannot read {user}/none: No such file or directory"

    (user / "none").write_text("[")
    broken = bad_credentials("unknown", TCP, code=1)
    assert broken is not None
    assert (broken.message, broken.hint) == ("unknown", f"is {user}/none a valid auth.conf?")
