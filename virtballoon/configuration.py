"""Configuration files: named and grouped hosts, and defaults of options."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

from virtballoon.errors import ConfigurationError
from virtballoon.model.duration import parse_seconds
from virtballoon.model.source import Source
from virtballoon.model.value import Value

#: The system-wide file.
SYSTEM_FILE: Final = "/etc/virtballoon/config.toml"

_Check = Callable[[Any], Any]


class ConfiguredHost(Value):
    """A host of the configuration, and the groups it belongs to."""

    name: str
    uri: str
    groups: tuple[str, ...] = ()


class Configuration(Value):
    """The contents of the configuration files; None for a default that is not set.

    :ivar files: the files that were read; later ones take precedence
    :ivar timeout: time limit per host, in seconds
    :ivar jobs: number of hosts read at the same time
    :ivar hosts: the hosts, in the order of the files
    :ivar labels: the XPath expression of each label, from the root of a domain's XML
    :ivar namespaces: the namespaces in them, by their prefixes
    :ivar excluded: names, UUIDs and shell patterns of domains that are left out where all are meant
    """

    files: tuple[str, ...] = ()
    timeout: float | None = None
    via: Source | None = None
    jobs: int | None = None
    hosts: tuple[ConfiguredHost, ...] = ()
    labels: Mapping[str, str] = MappingProxyType({})
    namespaces: Mapping[str, str] = MappingProxyType({})
    excluded: tuple[str, ...] = ()

    def select(self, words: Iterable[str]) -> tuple[ConfiguredHost, ...]:
        """The selected hosts, each once.

        :param words: names of hosts, and of groups with a leading ``@``
        :raise ConfigurationError: if there is no such host or group
        """
        chosen: dict[str, ConfiguredHost] = {}
        for word in words:
            group = word.removeprefix("@") if word.startswith("@") else None
            selected = [
                host
                for host in self.hosts
                if (host.name == word if group is None else group in host.groups)
            ]
            if not selected:
                what = f"host {word!r}" if group is None else f"group {group!r}"
                where = f" in {' or '.join(self.files)}" if self.files else ""
                hint = "" if self.files else ": there is no configuration file"
                raise ConfigurationError(f"no {what}{where}{hint}")
            chosen |= {host.name: host for host in selected}
        return tuple(chosen.values())


def load_configuration(file: str | os.PathLike[str] | None = None) -> Configuration:
    """Read the configuration files: ``/etc/virtballoon/config.toml``, then the user's
    ``$XDG_CONFIG_HOME/virtballoon/config.toml`` (default: ``~/.config``), whose values take
    precedence, key by key. Hosts are merged by name. Missing files are skipped.

    :param file: the file to read instead, which must exist; default: the environment variable
        ``VIRTBALLOON_CONFIG_FILE``
    :raise ConfigurationError: if a file cannot be read or is invalid
    """
    file = file or os.environ.get("VIRTBALLOON_CONFIG_FILE") or None
    files: list[str] = []
    defaults: dict[str, Any] = {}
    hosts: dict[str, dict[str, Any]] = {}
    labels: dict[str, str] = {}
    namespaces: dict[str, str] = {}
    excluded: tuple[str, ...] = ()
    last_file: dict[str, str] = {}
    for path in _standard_files() if file is None else [os.fspath(file)]:
        content = _content(path, required=file is not None)
        if content is None:
            continue
        files.append(path)
        top = _table_of(path, (), _parsed(path, content), _TOP)
        defaults |= _table_of(path, ("defaults",), top.get("defaults", {}), _DEFAULTS)
        exclude = _table_of(path, ("exclude",), top.get("exclude", {}), _EXCLUDE)
        excluded = exclude.get("domains", excluded)
        for name, entry in top.get("hosts", {}).items():
            _checked(path, ("hosts", name), name, _name)
            host = _table_of(path, ("hosts", name), entry, _HOST)
            hosts.setdefault(name, {}).update(host)
            last_file[name] = path
        own = dict(top.get("labels", {}))
        prefixes = _checked(path, ("labels", "namespaces"), own.pop("namespaces", {}), _table)
        labels |= _named(path, ("labels",), own, _label)
        namespaces |= _named(path, ("labels", "namespaces"), prefixes, _prefix)
    for name, host in hosts.items():
        if "uri" not in host:
            raise _wrong(last_file[name], ("hosts", name, "uri"), "missing")
    return Configuration(
        files=tuple(files),
        hosts=tuple(ConfiguredHost(name=name, **host) for name, host in hosts.items()),
        labels=labels,
        namespaces=namespaces,
        excluded=excluded,
        **defaults,
    )


def _standard_files() -> list[str]:
    home = os.environ.get("XDG_CONFIG_HOME", "")
    # The XDG specification says to ignore relative paths.
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
    # A home directory can be /dev/null, or inaccessible (systemd's ProtectHome=, sudo).
    if isinstance(error, PermissionError) and path != SYSTEM_FILE:
        return not os.access(os.path.dirname(path), os.X_OK, effective_ids=True)
    return isinstance(error, FileNotFoundError | NotADirectoryError)


def _parsed(path: str, content: bytes) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(content.decode())
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(f"{path}: not UTF-8 (line {line})") from error
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path}: invalid TOML: {error}") from error


def _table_of(
    path: str, keys: tuple[str, ...], table: object, checks: Mapping[str, _Check]
) -> dict[str, Any]:
    """Check each value of a table by its key."""
    values: dict[str, Any] = {}
    for key, value in _checked(path, keys, table, _table).items():
        if key not in checks:
            raise _wrong(path, (*keys, key), f"unknown key; known keys: {', '.join(checks)}")
        values[key] = _checked(path, (*keys, key), value, checks[key])
    return values


def _named(
    path: str, keys: tuple[str, ...], table: Mapping[str, object], check: _Check
) -> dict[str, str]:
    """Check the keys of a table of strings."""
    for key, value in table.items():
        _checked(path, (*keys, key), key, check)
        _checked(path, (*keys, key), value, _string)
    return {key: str(value) for key, value in table.items()}


def _checked(path: str, keys: tuple[str, ...], value: object, check: _Check) -> Any:
    try:
        return check(value)
    except ValueError as error:
        raise _wrong(path, keys, str(error)) from error


def _wrong(path: str, keys: Iterable[str], message: str) -> ConfigurationError:
    return ConfigurationError(f"{path}: {'.'.join(keys)}: {message}")


def _table(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("must be a table")
    return value


def _timeout(value: object) -> float:
    try:
        seconds = parse_seconds(str(value))
    except ValueError as error:
        raise ValueError("must be a time such as 10, '10s' or '5m'") from error
    if not seconds:
        raise ValueError("must be more than 0 seconds")
    return seconds


def _via(value: object) -> Source:
    for source in Source:
        if source == value:
            return source
    raise ValueError(f"must be {' or '.join(repr(source.value) for source in Source)}")


def _jobs(value: object) -> int:
    # A bool is an int in Python.
    if type(value) is not int or value < 1:
        raise ValueError("must be a whole number above 0")
    return value


def _string(value: object) -> str:
    # libvirt would take an empty URI for its default.
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be a string that is not empty")
    return value


def _strings(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError("must be a list of strings")
    if "" in value:
        raise ValueError("a name must not be empty")
    return tuple(dict.fromkeys(value))


def _groups(value: object) -> tuple[str, ...]:
    groups = _strings(value)
    for group in groups:
        _name(group)
    return groups


def _name(name: str) -> None:
    if not name:
        raise ValueError("a name must not be empty")
    if name.startswith("@"):
        raise ValueError("a name must not start with '@', which marks a group")


def _label(name: str) -> None:
    if not re.fullmatch("[a-z][a-z0-9_]*", name):
        raise ValueError("a label's name has lower-case letters, digits and underscores")


def _prefix(name: str) -> None:
    if not re.fullmatch("[A-Za-z_][A-Za-z0-9_.-]*", name):
        raise ValueError("not a valid prefix of a namespace")


_TOP: Final[Mapping[str, _Check]] = {
    "defaults": _table,
    "hosts": _table,
    "labels": _table,
    "exclude": _table,
}
_DEFAULTS: Final[Mapping[str, _Check]] = {"timeout": _timeout, "via": _via, "jobs": _jobs}
_EXCLUDE: Final[Mapping[str, _Check]] = {"domains": _strings}
_HOST: Final[Mapping[str, _Check]] = {"uri": _string, "groups": _groups}
