"""Configuration files: valid and invalid content, precedence, and selection of hosts."""

from __future__ import annotations

import dataclasses
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.unit.builders import CONFIGURATION_FILE
from virtballoon import (
    Configuration,
    ConfigurationError,
    ConfiguredHost,
    Source,
)
from virtballoon import configuration as module
from virtballoon import load_configuration as load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    #: Writes a file, whose path it gives.
    Written = Callable[[str | bytes], str]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    def write(content: str | bytes) -> str:
        path = tmp_path / "config.toml"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return write


def test_reads_every_key(written: Written) -> None:
    file = written(CONFIGURATION_FILE)
    read = load(file)

    assert read == Configuration(
        files=(file,),
        timeout=5.0,
        via=Source.QOM,
        jobs=8,
        hosts=(
            ConfiguredHost(name="hv1", uri="qemu+ssh://root@hv1/system", groups=("prod", "rack 1")),
            ConfiguredHost(name="hv 2", uri="qemu+ssh://root@hv2/system", groups=("prod",)),
            ConfiguredHost(name="lab", uri="qemu:///session"),
        ),
        labels={"team": "/domain/metadata/acme:app/@team"},
        namespaces={"acme": "urn:acme"},
    )
    assert isinstance(read.timeout, float)
    with pytest.raises(dataclasses.FrozenInstanceError):
        read.jobs = 1  # type: ignore[misc]


@pytest.mark.parametrize("content", ["", "[defaults]\n", "[hosts]\n", "# nothing\r\n"])
def test_empty_file(written: Written, content: str) -> None:
    file = written(content)

    assert load(file) == Configuration(files=(file,))


@pytest.mark.parametrize(
    ("time", "seconds"),
    [("5", 5), ("0.5", 0.5), ("'10'", 10), ("'10s'", 10), ("'1.5m'", 90), ("'2h'", 7200)],
)
def test_timeout_with_unit(written: Written, time: str, seconds: float) -> None:
    assert load(written(f"[defaults]\ntimeout = {time}")).timeout == seconds


HOST = '[hosts.a]\nuri = "test:///default"\n'

WRONG: list[tuple[str | bytes, str]] = [
    ("a", "invalid TOML: "),
    ("[defaults]\nt = 1\nt = 2", "invalid TOML: "),
    (f"jobs = 1{'0' * 5000}", "invalid TOML: Exceeds the limit "),
    (f"jobs = {'[' * 5000}", "invalid TOML: "),
    (b"\n\n# caf\xe9\n", "not UTF-8 (line 3)"),
    (b"\xff\xfea\x00", "not UTF-8 (line 1)"),
    ("jobs = 1", "jobs: unknown key; known keys: defaults, hosts, labels, exclude"),
    ("[exclude]\ndomain = []", "exclude.domain: unknown key; known keys: domains"),
    ("[exclude]\ndomains = 'fw*'", "exclude.domains: must be a list of strings"),
    ("[exclude]\ndomains = ['']", "exclude.domains: a name must not be empty"),
    ("defaults = 1", "defaults: must be a table"),
    ("[[hosts]]", "hosts: must be a table"),
    ("[defaults]\njob = 1", "defaults.job: unknown key; known keys: timeout, via, jobs"),
    ("[defaults]\n'a b' = 1", "defaults.a b: unknown key; known keys: timeout, via, jobs"),
    ("[defaults]\ntimeout = true", "defaults.timeout: must be a time such as 10, '10s' or '5m'"),
    ("[defaults]\ntimeout = ['5s']", "defaults.timeout: must be a time such as 10, '10s' or '5m'"),
    ("[defaults]\ntimeout = 0", "defaults.timeout: must be more than 0 seconds"),
    ("[defaults]\ntimeout = '0m'", "defaults.timeout: must be more than 0 seconds"),
    *(
        (
            f"[defaults]\ntimeout = {time}",
            "defaults.timeout: must be a time such as 10, '10s' or '5m'",
        )
        for time in ("'5 s'", "'5w'", "''", "'-5s'", "-1", "nan", "inf", f"1{'0' * 400}")
    ),
    ("[defaults]\nvia = 'magic'", "defaults.via: must be 'libvirt' or 'qom'"),
    ("[defaults]\nvia = ['qom']", "defaults.via: must be 'libvirt' or 'qom'"),
    ("[defaults]\njobs = 0", "defaults.jobs: must be a whole number above 0"),
    ("[defaults]\njobs = true", "defaults.jobs: must be a whole number above 0"),
    ("[defaults]\njobs = 2.0", "defaults.jobs: must be a whole number above 0"),
    ("[defaults]\njobs = 1979-05-27", "defaults.jobs: must be a whole number above 0"),
    ("hosts.a = 'test:///default'", "hosts.a: must be a table"),
    ("[hosts.a]", "hosts.a.uri: missing"),
    ("[hosts.a]\ngroups = []", "hosts.a.uri: missing"),
    ("[hosts.a]\nurl = 'x'", "hosts.a.url: unknown key; known keys: uri, groups"),
    ("[hosts.a]\nuri = 1", "hosts.a.uri: must be a string that is not empty"),
    ("[hosts.a]\nuri = ''", "hosts.a.uri: must be a string that is not empty"),
    ("[hosts.a]\nuri = '  '", "hosts.a.uri: must be a string that is not empty"),
    (f"{HOST}groups = 'x'", "hosts.a.groups: must be a list of strings"),
    (f"{HOST}groups = {{}}", "hosts.a.groups: must be a list of strings"),
    (
        f"{HOST}groups = ['x', 1]",
        "hosts.a.groups: must be a list of strings",
    ),
    (f"{HOST}groups = ['']", "hosts.a.groups: a name must not be empty"),
    (
        f"{HOST}groups = ['@x']",
        "hosts.a.groups: a name must not start with '@', which marks a group",
    ),
    ("[hosts.'']\nuri = 'x'", "hosts.: a name must not be empty"),
    (
        "[hosts.'@a']\nuri = 'x'",
        "hosts.@a: a name must not start with '@', which marks a group",
    ),
    ("labels = 1", "labels: must be a table"),
    ("[labels]\nteam = 1", "labels.team: must be a string that is not empty"),
    *(
        (
            f"[labels]\n'{name}' = 'x'",
            f"labels.{name}: a label's name has lower-case letters, digits and underscores",
        )
        for name in ("Team", "my team", "a.b", "1st", "a-b", "")
    ),
    ("[labels]\nnamespaces = 'x'", "labels.namespaces: must be a table"),
    ("[labels.namespaces]\n'' = 'x'", "labels.namespaces.: not a valid prefix of a namespace"),
    (
        "[labels.namespaces]\na = ''",
        "labels.namespaces.a: must be a string that is not empty",
    ),
]


@pytest.mark.parametrize(("content", "message"), WRONG, ids=[m[:40] for _, m in WRONG])
def test_rejects_invalid_file(written: Written, content: str | bytes, message: str) -> None:
    file = written(content)
    with pytest.raises(ConfigurationError) as caught:
        load(file)

    if "TOML" in message:
        # The rest is Python's message, which differs between versions.
        assert str(caught.value).startswith(f"{file}: {message}")
    else:
        assert str(caught.value) == f"{file}: {message}"


def test_named_file_must_be_readable(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for path, reason in [
        (folder / "none", "No such file or directory"),
        (folder, "Is a directory"),
        (Path("/dev/null/config.toml"), "Not a directory"),
    ]:
        with pytest.raises(ConfigurationError) as caught:
            load(path)
        assert str(caught.value) == f"{path}: {reason}"


@contextmanager
def unprivileged() -> Iterator[None]:
    """Without root's permission to read everything."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_rejects_file_without_permission(written: Written) -> None:
    file = written(CONFIGURATION_FILE)
    Path(file).chmod(0)
    with unprivileged(), pytest.raises(ConfigurationError) as caught:
        load(file)
    assert str(caught.value) == f"{file}: Permission denied"


@pytest.fixture
def both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The paths of the system's file and the user's."""
    system = tmp_path / "etc" / "config.toml"
    user = tmp_path / "home" / "virtballoon" / "config.toml"
    system.parent.mkdir()
    user.parent.mkdir(parents=True)
    monkeypatch.setattr(module, "SYSTEM_FILE", str(system))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("VIRTBALLOON_CONFIG_FILE", raising=False)
    return system, user


def test_no_files(both: tuple[Path, Path]) -> None:
    assert load() == Configuration()


def test_user_file_takes_precedence_key_by_key(both: tuple[Path, Path]) -> None:
    system, user = both
    system.write_text(CONFIGURATION_FILE)
    user.write_text(
        "[defaults]\njobs = 2\n"
        "[hosts.hv1]\ngroups = ['mine']\n"
        "[hosts.new]\nuri = 'test:///default'\n"
    )
    read = load()

    assert read.files == (str(system), str(user))
    assert (read.timeout, read.via, read.jobs) == (5, Source.QOM, 2)
    assert [host.name for host in read.hosts] == ["hv1", "hv 2", "lab", "new"]
    assert read.hosts[0].uri == "qemu+ssh://root@hv1/system"
    assert read.hosts[0].groups == ("mine",)


def test_error_names_the_invalid_file(both: tuple[Path, Path]) -> None:
    system, user = both
    system.write_text(CONFIGURATION_FILE)
    user.write_text("[hosts.other]\ngroups = []\n")
    with pytest.raises(ConfigurationError) as caught:
        load()
    assert str(caught.value) == f"{user}: hosts.other.uri: missing"

    user.unlink()
    user.mkdir()
    with pytest.raises(ConfigurationError) as caught:
        load()
    assert str(caught.value) == f"{user}: Is a directory"


def test_named_file_replaces_both(
    both: tuple[Path, Path], written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in both:
        path.write_text("broken")
    file = written(CONFIGURATION_FILE)

    assert load(file).files == (file,)
    monkeypatch.setenv("VIRTBALLOON_CONFIG_FILE", file)
    assert load().files == (file,)
    assert load(os.devnull) == Configuration(files=(os.devnull,))
    monkeypatch.setenv("VIRTBALLOON_CONFIG_FILE", f"{file}.none")
    with pytest.raises(ConfigurationError):
        load()


@pytest.mark.parametrize("config_home", [None, "", "relative"])
def test_default_path_of_user_file(
    both: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    config_home: str | None,
) -> None:
    user = tmp_path / ".config" / "virtballoon" / "config.toml"
    user.parent.mkdir(parents=True)
    user.write_text(CONFIGURATION_FILE)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    if config_home is None:
        monkeypatch.delenv("XDG_CONFIG_HOME")
    else:
        monkeypatch.setenv("XDG_CONFIG_HOME", config_home)

    assert load().files == (str(user),)


def test_home_that_is_not_a_directory(
    both: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", os.devnull)

    assert load() == Configuration()


def test_inaccessible_home(both: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    system, user = both
    user.write_text(CONFIGURATION_FILE)
    user.parent.parent.chmod(0)
    with unprivileged(), monkeypatch.context() as patch:
        # Other users cannot enter this test's directory at all.
        patch.setattr(module, "SYSTEM_FILE", "/no/such/file")
        assert load() == Configuration()
    user.parent.parent.chmod(0o700)
    assert load().files == (str(user),)

    # The system's file must be readable.
    system.write_text(CONFIGURATION_FILE)
    system.parent.chmod(0)
    with unprivileged(), pytest.raises(ConfigurationError) as caught:
        load()
    system.parent.chmod(0o700)
    assert str(caught.value) == f"{system}: Permission denied"


def test_select(written: Written) -> None:
    read = load(written(CONFIGURATION_FILE))

    def names(*words: str) -> list[str]:
        return [host.name for host in read.select(words)]

    assert names() == []
    assert names("lab", "hv1") == ["lab", "hv1"]
    assert names("@prod") == ["hv1", "hv 2"]
    assert names("hv 2", "@prod", "@rack 1", "hv 2") == ["hv 2", "hv1"]


@pytest.mark.parametrize(
    ("word", "what"),
    [
        ("hv9", "host 'hv9'"),
        ("prod", "host 'prod'"),
        ("hv*", "host 'hv*'"),
        ("", "host ''"),
        ("@hv1", "group 'hv1'"),
        ("@", "group ''"),
    ],
)
def test_select_unknown(written: Written, word: str, what: str) -> None:
    file = written(CONFIGURATION_FILE)
    with pytest.raises(ConfigurationError) as caught:
        load(file).select(["hv1", word])
    assert str(caught.value) == f"no {what} in {file}"


def test_select_without_a_file() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Configuration().select(["hv1"])
    assert str(caught.value) == "no host 'hv1': there is no configuration file"
