"""URIs and the files that libvirt reads for them, and why a connection could not be made.

libvirt has one error number for every failure to connect. The cases are distinguished by the
system's errno, which libvirt keeps, and by what ssh and the programs on the remote host write,
which libvirt passes on in its own message. ssh's messages are English in every locale; libvirt's
are translated, so little is read from them.
"""

from __future__ import annotations

import errno
import os
import re
from typing import Final

from virtballoon.errors import AuthError, ConnectError, HostKeyError, HostUnreachable, NoDaemon

_SOCKET_HINT: Final = (
    "the user needs access to libvirt's socket (group libvirt), or the right password in auth.conf"
)
_KEY_HINT: Final = "ssh cannot ask here: its key must be in an agent or have no passphrase"
_DAEMON_HINT: Final = "is libvirtd running there, and is the URI right?"
_ROUTE_HINT: Final = "is the host up, and is its name right?"

#: What ssh, netcat and libvirt's helper write; the error for it, with a place for what they wrote;
#: what to do.
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
        r"virt-ssh-helper: cannot connect to '[^'\r\n]*'"
        r"|\b(?:nc|netcat|ncat): [^\r\n]*?(?:No such file or directory|Connection refused)",
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


#: The directory of libvirt's files for all users.
SYSTEM_DIRECTORY: Final = "/etc/libvirt"


def configured_default() -> str | None:
    """``LIBVIRT_DEFAULT_URI``, else ``uri_default`` of libvirt.conf, else None."""
    if uri := os.environ.get("LIBVIRT_DEFAULT_URI"):
        return uri
    found = re.search(r"""^\s*uri_default\s*=\s*(["'])(.+?)\1""", _client_conf(), re.MULTILINE)
    return found[2] if found else None


def default_uri() -> str:
    """The URI that libvirt opens if none is given; without a configured one, that of the QEMU
    driver, which libvirt would find first: the system's for root, else the user's own session."""
    return configured_default() or f"qemu:///{'session' if os.geteuid() else 'system'}"


def _client_conf() -> str:
    # libvirt reads one file only: root's is the system's (virconf.c, virConfLoadConfigPath).
    path = _user_file("libvirt.conf") if os.geteuid() else f"{SYSTEM_DIRECTORY}/libvirt.conf"
    try:
        with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123
            return file.read()
    except OSError:
        return ""


def _user_file(name: str) -> str:
    # As GLib does, which libvirt asks.
    folder = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")  # noqa: PTH111
    return f"{folder}/libvirt/{name}"


def without_alias(uri: str) -> str:
    """The URI that an alias of libvirt.conf's ``uri_aliases`` stands for; any other unchanged."""
    if not re.fullmatch(r"[\w.-]+", uri):
        return uri
    aliases = re.search(r"^\s*uri_aliases\s*=\s*\[(.*?)\]", _client_conf(), re.M | re.S)
    known = re.sub(r"^\s*#.*", "", aliases[1], flags=re.M) if aliases else ""
    named: dict[str, str] = dict(re.findall(r"""["']([\w.-]+)=([^"']+)["']""", known))
    return named.get(uri, uri)


def named_credentials(uri: str) -> str | None:
    """The file with passwords that the environment or the URI names, as virauth.c chooses it."""
    from urllib.parse import unquote

    found = re.search(r"[?&;]authfile=([^&;#]+)", without_alias(uri))
    return os.environ.get("LIBVIRT_AUTH_FILE") or (unquote(found[1]) if found else None)


def refused(
    message: str, uri: str, *, code: int, number: int | None = None, asked: bool = False
) -> AuthError:
    """The error of a host that refused the user, whom libvirt may have asked for a password.

    :param number: the errno that libvirt keeps, if any
    """
    is_network = re.search(r"\+(tcp|tls)$", _scheme(uri)) or re.match(r"\w+://[^/]", uri)
    hint = _SOCKET_HINT
    if number is None and (asked or is_network):
        files = f"{_user_file('auth.conf')} or {SYSTEM_DIRECTORY}/auth.conf"
        hint = f"libvirt takes the user name and password from {named_credentials(uri) or files}"
    return AuthError(message, host=uri, code=code, hint=hint)


def bad_credentials(message: str, uri: str, *, code: int) -> AuthError | None:
    """The error of a named file with passwords that libvirt could not use; None without one."""
    path = named_credentials(uri)
    if path is None:
        return None
    try:
        with open(path):  # noqa: PTH123
            hint = f"is {path} a valid auth.conf?"
    except OSError as error:
        message, hint = f"cannot read {path}: {error.strerror}", "authfile= or LIBVIRT_AUTH_FILE"
        hint = f"{hint} names this file"
    return AuthError(message, host=uri, code=code, hint=hint)


def without_prompts(uri: str) -> str:
    """The URI with ``no_tty=1`` for ssh, unless it has one already: ssh would ask for a password
    or for confirmation of a host's key on the terminal."""
    real = without_alias(uri)
    if "+ssh:" not in real or re.search(r"[?&;]no_tty=", real):
        return uri
    return f"{real}{'&' if '?' in real else '?'}no_tty=1"


def may_start_ssh(uri: str) -> bool:
    """Whether connecting starts ssh or a program that the URI names. Other programs that it may
    start, such as the session's daemon, must not be ended with the connection."""
    return _scheme(without_alias(uri)).endswith(("+ssh", "+ext"))


def named_host(uri: str) -> str | None:
    """The host that the URI names, without user and port; None for a local one."""
    named = re.match(r"[\w.+-]+://(?:[^/?#]*@)?(\[[^]]*\]|[^/?#:]+)", without_alias(uri))
    return named[1].strip("[]") if named else None


def is_remote(uri: str) -> bool:
    """Whether the URI names a host, whose clock may differ from this machine's."""
    return named_host(uri) is not None


def explain(message: str, number: int | None, uri: str, *, code: int) -> ConnectError:
    """The error that says why no connection could be made."""
    scheme = _scheme(without_alias(uri))
    for pattern, kind, text, hint in _SIGNS if "ssh" in scheme or not scheme else ():
        if found := re.search(pattern, message):
            return kind(text.format(found[0]), host=uri, code=code, hint=hint)
    kind, hint = _ERRNOS.get(number or 0, (ConnectError, _DAEMON_HINT))
    if number == errno.ENOENT and re.fullmatch(r"\w+(\+unix)?", scheme):
        # The socket is missing; with TLS it may be another file.
        kind = NoDaemon
    elif re.match(r"Unable to resolve address", message):
        kind, hint = HostUnreachable, _ROUTE_HINT
    return kind(message, host=uri, code=code, hint=hint)


def _scheme(uri: str) -> str:
    found = re.match(r"([\w.+-]+):", uri)
    return found[1].lower() if found else ""
