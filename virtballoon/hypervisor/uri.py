"""The way to a host: what its URI says of it, and what stood in it when no connection came about.

libvirt has one error number for all that can stand in the way. What tells the cases apart is the
system's errno, which libvirt keeps, and what ssh and the programs on the far side write, which
libvirt passes on within its own message. ssh's words are English in every locale; libvirt's are
not, so that little is read from them.
"""

from __future__ import annotations

import errno
import re
from typing import Final

from virtballoon.errors import AuthError, ConnectError, HostKeyError, HostUnreachable, NoDaemon

_KEY_HINT: Final = "ssh cannot ask here: its key must be in an agent or have no passphrase"
_DAEMON_HINT: Final = "is libvirtd running there, and is the URI right?"
_ROUTE_HINT: Final = "is the host up, and is its name right?"

#: What ssh, netcat and libvirt's helper write; what we say of it, and with it what they wrote
#: where there is a place for it; what to do.
_SIGNS: Final[tuple[tuple[str, type[ConnectError], str, str], ...]] = (
    (
        r"REMOTE HOST IDENTIFICATION HAS CHANGED",
        HostKeyError,
        "the host's ssh key is not the one in known_hosts",
        "make sure that it is the right host, then have ssh-keygen -R forget the old key",
    ),
    (
        r"Host key verification failed|Can't verify the session host key",
        HostKeyError,
        "ssh does not know the host's key",
        "accept it once with ssh, as the same user, or add it to known_hosts",
    ),
    (
        r"Permission denied \([\w,.@-]+\)|Too many authentication failures",
        AuthError,
        "ssh was refused: {}",
        _KEY_HINT,
    ),
    (
        r"Could not resolve hostname [^\r\n]*?(?=: Connection reset|\r|\n|$)",
        HostUnreachable,
        "ssh: {}",
        _ROUTE_HINT,
    ),
    (
        r"connect to host \S+ port \d+: [^\r\n:]+",
        HostUnreachable,
        "ssh: {}",
        "is the host up, and does its ssh server listen there?",
    ),
    (
        r"Connection timed out during banner exchange|kex_exchange_identification: [^\r\n]+"
        r"|Connection (?:closed|reset) by \S+ port \d+",
        HostUnreachable,
        "ssh: {}",
        "is that an ssh server, and does it let this host in?",
    ),
    (
        r"\b(?:virt-ssh-helper|nc|netcat|ncat): [^\r\n]*Permission denied",
        AuthError,
        "libvirt's socket there is not for this user: {}",
        "log in as one who may open it",
    ),
    (
        r"virt-ssh-helper: cannot connect to '[^'\r\n]*'",
        NoDaemon,
        "no libvirtd listens there: {}",
        _DAEMON_HINT,
    ),
    (
        r"\b(?:nc|netcat|ncat): [^\r\n]*?(?:No such file or directory|Connection refused)",
        NoDaemon,
        "no libvirtd listens there: {}",
        _DAEMON_HINT,
    ),
    (
        r"[^\s:]+: (?:command )?not found",
        NoDaemon,
        "ssh found no way to libvirtd there: {}",
        "is libvirt installed there? It brings virt-ssh-helper",
    ),
)
_ERRNOS: Final[dict[int, tuple[type[ConnectError], str]]] = {
    errno.ECONNREFUSED: (NoDaemon, _DAEMON_HINT),
    errno.EHOSTUNREACH: (HostUnreachable, _ROUTE_HINT),
    errno.ENETUNREACH: (HostUnreachable, _ROUTE_HINT),
    errno.ETIMEDOUT: (HostUnreachable, _ROUTE_HINT),
}


def without_prompts(uri: str) -> str:
    """The URI, with ``no_tty=1`` for ssh where it does not say: a password or the question
    whether a host's key is right would be asked on the terminal, in the midst of a table, of a
    job in the background, or of nobody."""
    if "+ssh:" not in uri or re.search(r"[?&;]no_tty=", uri):
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}no_tty=1"


def may_start_ssh(uri: str | None) -> bool:
    """Whether connecting may start ssh, or a program of the user's: any other program that it
    starts, such as a daemon of the session, is not ours to end."""
    scheme = _scheme(uri)
    return not scheme or scheme.endswith(("+ssh", "+ext"))


def explain(message: str, number: int | None, uri: str | None, *, code: int) -> ConnectError:
    """What stood in the way.

    :param message: libvirt's message
    :param number: the errno that libvirt keeps, if any
    :param uri: the host's URI as it was asked for; None for libvirt's default
    :param code: libvirt's error number
    """
    host = uri or "libvirt's default host"
    scheme = _scheme(uri)
    # An alias of libvirt's configuration has no scheme and may mean any.
    for pattern, kind, text, hint in _SIGNS if "ssh" in scheme or not scheme else ():
        if found := re.search(pattern, message):
            return kind(text.format(found[0]), host=host, code=code, hint=hint)
    kind, hint = _ERRNOS.get(number or 0, (ConnectError, _DAEMON_HINT))
    if number == errno.ENOENT and (uri is None or re.fullmatch(r"\w+(\+unix)?", scheme)):
        # Of a socket; TLS has files of its own that can be missing.
        kind = NoDaemon
    elif re.match(r"Unable to resolve address", message):
        kind, hint = HostUnreachable, _ROUTE_HINT
    return kind(message, host=host, code=code, hint=hint)


def _scheme(uri: str | None) -> str:
    found = re.match(r"([\w.+-]+):", uri or "")
    return found[1].lower() if found else ""
