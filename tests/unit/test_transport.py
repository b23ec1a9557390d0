"""What stood in the way to a host, by what libvirt 9.0, OpenSSH 9.2 and netcat really said."""

from __future__ import annotations

from errno import ECONNREFUSED, ECONNRESET, EHOSTUNREACH, EIO, ENOENT, EPIPE

import pytest

from virtballoon import (
    AuthError,
    ConnectError,
    HostKeyError,
    HostUnreachable,
    NoDaemon,
)
from virtballoon.hypervisor.uri import explain, without_prompts

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
        (None, NOT_THERE, ENOENT, NoDaemon, "No such file or directory"),
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
def test_what_stood_in_the_way(
    uri: str | None, message: str, number: int | None, kind: type[ConnectError], said: str
) -> None:
    error = explain(message, number, uri, code=38)
    assert type(error) is kind
    assert said in error.message
    assert error.hint
    assert (error.code, error.host) == (38, uri or "libvirt's default host")
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
