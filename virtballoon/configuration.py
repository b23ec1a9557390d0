"""The configuration: hosts by name and by group, and defaults. The only module that knows TOML."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from virtballoon.errors import ConfigurationError
from virtballoon.model.source import Source

#: The file for all users.
SYSTEM_FILE: Final = "/etc/virtballoon/config.toml"

#: The variable that names a file in place of all others.
VARIABLE: Final = "VIRTBALLOON_CONFIG_FILE"

_Check = Callable[[Any], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfiguredHost:
    """A host that the configuration names.

    :ivar name: its name there
    :ivar uri: its libvirt URI
    :ivar groups: the groups that it is in
    """

    name: str
    uri: str
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """What the configuration files say; None for a default that they do not set.

    :ivar files: the files that were read, the later ones winning
    :ivar timeout: seconds for a host
    :ivar via: where figures come from
    :ivar jobs: how many hosts are visited at a time
    :ivar hosts: the hosts, in the order of the files
    """

    files: tuple[str, ...] = ()
    timeout: float | None = None
    via: Source | None = None
    jobs: int | None = None
    hosts: tuple[ConfiguredHost, ...] = ()

    def select(self, words: Iterable[str]) -> tuple[ConfiguredHost, ...]:
        """The hosts that are meant, each once.

        :param words: names of hosts, and of groups with an ``@`` before them
        :raise ConfigurationError: when there is no such host or group
        """
        chosen: dict[str, ConfiguredHost] = {}
        for word in words:
            group = word.removeprefix("@") if word.startswith("@") else None
            meant = [
                host
                for host in self.hosts
                if (host.name == word if group is None else group in host.groups)
            ]
            if not meant:
                what = f"host {word!r}" if group is None else f"group {group!r}"
                where = f" in {' or '.join(self.files)}" if self.files else ""
                hint = "" if self.files else ": there is no configuration file"
                raise ConfigurationError(f"no {what}{where}{hint}")
            chosen |= {host.name: host for host in meant}
        return tuple(chosen.values())


def load_configuration(file: str | os.PathLike[str] | None = None) -> Configuration:
    """Read the configuration files: ``/etc/virtballoon/config.toml``, then the user's
    ``$XDG_CONFIG_HOME/virtballoon/config.toml`` (``~/.config`` where that is not set), which wins
    key by key. Hosts are merged by their names. A file that is not there is passed over.

    :param file: the one file to read instead, which has to be there; None for the one that
        ``VIRTBALLOON_CONFIG_FILE`` in the environment names, else for those above
    :raise ConfigurationError: when a file cannot be read or is wrong
    """
    file = file or os.environ.get(VARIABLE) or None
    files: list[str] = []
    defaults: dict[str, Any] = {}
    hosts: dict[str, dict[str, Any]] = {}
    last_file: dict[str, str] = {}
    for path in _standard_files() if file is None else [os.fspath(file)]:
        content = _content(path, required=file is not None)
        if content is None:
            continue
        files.append(path)
        top = _table_of(path, (), _parsed(path, content), _TOP)
        defaults |= _table_of(path, ("defaults",), top.get("defaults", {}), _DEFAULTS)
        for name, entry in top.get("hosts", {}).items():
            _checked(path, ("hosts", name), name, _name)
            host = _table_of(path, ("hosts", name), entry, _HOST)
            hosts.setdefault(name, {}).update(host)
            last_file[name] = path
    for name, host in hosts.items():
        if "uri" not in host:
            raise _wrong(last_file[name], ("hosts", name, "uri"), "it is missing")
    return Configuration(
        files=tuple(files),
        hosts=tuple(ConfiguredHost(name=name, **host) for name, host in hosts.items()),
        **defaults,
    )


def _standard_files() -> list[str]:
    home = os.environ.get("XDG_CONFIG_HOME", "")
    # The XDG specification has a relative path ignored; so it has no say here, either.
    folder = home if os.path.isabs(home) else os.path.expanduser("~/.config")
    users = os.path.join(folder, "virtballoon", "config.toml")
    return [SYSTEM_FILE, users] if os.path.isabs(folder) else [SYSTEM_FILE]


def _content(path: str, *, required: bool) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        if not required and _is_absent(path, error):
            return None
        raise ConfigurationError(f"{path}: {error.strerror}") from error


def _is_absent(path: str, error: OSError) -> bool:
    # A home directory of /dev/null has no files; one that is closed to us, as systemd's
    # ProtectHome= and sudo make it, has none of ours.
    if isinstance(error, PermissionError) and path != SYSTEM_FILE:
        return not os.access(os.path.dirname(path), os.X_OK, effective_ids=True)
    return isinstance(error, FileNotFoundError | NotADirectoryError)


def _parsed(path: str, content: bytes) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(content.decode())
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(f"{path}: no UTF-8 (at line {line})") from error
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path}: no valid TOML: {error}") from error


def _table_of(
    path: str, keys: tuple[str, ...], table: object, checks: Mapping[str, _Check]
) -> dict[str, Any]:
    """The values of a table, each through the check of its key."""
    values: dict[str, Any] = {}
    for key, value in _checked(path, keys, table, _table).items():
        if key not in checks:
            raise _wrong(path, (*keys, key), f"no such key; there are: {', '.join(checks)}")
        values[key] = _checked(path, (*keys, key), value, checks[key])
    return values


def _checked(path: str, keys: tuple[str, ...], value: object, check: _Check) -> Any:
    try:
        return check(value)
    except ValueError as error:
        raise _wrong(path, keys, str(error)) from error


def _wrong(path: str, keys: Iterable[str], message: str) -> ConfigurationError:
    # As the file would have it.
    dotted = ".".join(
        key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else json.dumps(key, ensure_ascii=False)
        for key in keys
    )
    return ConfigurationError(f"{path}: {dotted}: {message}")


def _table(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"it is a table, not {_kind(value)}")
    return value


def _timeout(value: object) -> float:
    # A bool is an int in Python.
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"it is a number of seconds, not {_kind(value)}")
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not (seconds > 0 and math.isfinite(seconds)):
        raise ValueError(f"it is a number of seconds above 0, not {_short(value)}")
    return seconds


def _via(value: object) -> Source:
    known = [source.value for source in Source]
    if not isinstance(value, str) or value not in known:
        given = repr(value) if isinstance(value, str) else _kind(value)
        raise ValueError(f"it is {' or '.join(map(repr, known))}, not {given}")
    return Source(value)


def _jobs(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"it is a whole number, not {_kind(value)}")
    if value < 1:
        raise ValueError(f"it is 1 or more, not {_short(value)}")
    return value


def _uri(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"it is a string, not {_kind(value)}")
    # Libvirt would take it for its default host.
    if not value.strip():
        raise ValueError("a URI cannot be empty")
    return value


def _groups(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError(f"it is a list of strings, not {_kind(value)}")
    for group in value:
        if not isinstance(group, str):
            raise ValueError(f"it is a list of strings, and {_kind(group)} is in it")
        _name(group)
    return tuple(dict.fromkeys(value))


def _name(name: str) -> None:
    if not name:
        raise ValueError("a name cannot be empty")
    if name.startswith("@"):
        raise ValueError("a name cannot begin with '@', which stands before groups in a selection")


def _kind(value: object) -> str:
    kinds = {
        bool: "a boolean",
        int: "an integer",
        float: "a float",
        str: "a string",
        list: "an array",
        dict: "a table",
    }
    return kinds.get(type(value), "a date or time")


def _short(value: float) -> str:
    # A whole number in TOML can have thousands of digits.
    try:
        text = str(value)
    except ValueError:
        # So many that Python does not print them.
        return "that"
    return text if len(text) <= 20 else f"{text[:17]}..."  # noqa: PLR2004


_TOP: Final[Mapping[str, _Check]] = {"defaults": _table, "hosts": _table}
_DEFAULTS: Final[Mapping[str, _Check]] = {"timeout": _timeout, "via": _via, "jobs": _jobs}
_HOST: Final[Mapping[str, _Check]] = {"uri": _uri, "groups": _groups}
