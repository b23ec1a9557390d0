"""The command with a configuration: which hosts it visits, what it shows of them, and progress."""

from __future__ import annotations

import csv
import io
import json
import os
import shlex
import signal
import socket
import subprocess
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from tests import process
from tests.process import read_until
from tests.unit.command import (
    COLD,
    CONFIGURATION,
    NOBODY_LISTENS,
    OTHER,
    TEST,
    Command,
    Result,
    assert_refused,
    clean_environment,
)
from tests.unit.silence import SilentHost
from virtballoon.cli.context import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

WIPE = "\r\x1b[2K"


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "config.toml"
    path.write_text(CONFIGURATION)
    return str(path)


def hosts(result: Result) -> list[dict[str, Any]]:
    read = json.loads(result.stdout)["hosts"]
    assert isinstance(read, list)
    return read


# Which hosts are visited.


SELECTED: list[tuple[list[str], list[str]]] = [
    ([], [TEST, OTHER, NOBODY_LISTENS]),
    (["-H", "hv2"], [OTHER]),
    (["-H", "@prod"], [TEST, OTHER]),
    (["-H", "hv2", "-H", "@prod", "--host", "alias"], [OTHER, TEST]),
    (["-H", "hv1", "-H", "alias"], [TEST]),
    (["-c", OTHER], [OTHER]),
    (["-H", "hv1", "-c", OTHER, "-c", TEST], [OTHER, TEST]),
    (["-c", TEST, "-c", TEST], [TEST]),
]


def test_which_hosts_are_visited(command: Command, config: str) -> None:
    common = ["--config-file", config]
    results = command.each(
        [*common, *args, "hosts", "--format", "json"]
        if index % 2
        else ["hosts", *args, *common, "--format", "json"]
        for index, (args, _) in enumerate(SELECTED)
    )

    for result, (_, expected) in zip(results, SELECTED, strict=True):
        uris = [host["uri"] for host in hosts(result)]
        # Of two names that a host has, hosts shows both.
        assert list(dict.fromkeys(uris)) == expected, result.args
        assert result.status == (3 if NOBODY_LISTENS in uris else 0)


def test_hosts_behind_the_command_replace_those_before(command: Command, config: str) -> None:
    args = ("--config-file", "/no/such/file", "-H", "nobody", "list", "--format", "json")
    result = command(*args, "-H", "hv2", "--config-file", config)

    assert [host["uri"] for host in hosts(result)] == [OTHER]


def test_every_command_takes_the_hosts(command: Command, config: str) -> None:
    for args in (["stats", "test"], ["set-interval", "5", "test"]):
        result = command("--config-file", config, "-H", "@prod", *args, "--format", "json")
        assert [host["uri"] for host in hosts(result)] == [TEST, OTHER]
    for result in command.each(
        ["--config-file", config, "-H", "@prod", "qom-path", "test", "--jobs", jobs]
        for jobs in ("1", "2")
    ):
        assert [TEST in line or OTHER in line for line in result.complaints] == [True, True]


def test_without_hosts_in_the_configuration(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("[defaults]\njobs = 3\n")
    result = command(
        "--config-file", str(path), "hosts", "--format", "json", env={"LIBVIRT_DEFAULT_URI": TEST}
    )

    (host,) = hosts(result)
    assert (host["uri"], host["name"], host["groups"]) == (TEST, None, [])


def test_the_file_that_the_environment_names(command: Command, config: str) -> None:
    result = command("hosts", "--format", "jsonl", env={"VIRTBALLOON_CONFIG_FILE": config})
    lines = [json.loads(line) for line in result.stdout.splitlines()]

    assert [line["name"] for line in lines] == ["hv1", "alias", "hv2", "gone"]


# What is refused before anything is done.


def test_rejects_invalid_usage(command: Command, config: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("[defaults]\njobs = true\n")
    cases = [
        (["-H", "hv9"], f"no host 'hv9' in {config}"),
        (["-H", "hv1", "-H", "@hv1"], f"no group 'hv1' in {config}"),
        (["-H", "\x1b[31m"], "no host '\\x1b[31m'"),
        (["-c", TEST, "-H", ""], f"no host '' in {config}"),
        (["--config-file", f"{config}.none"], f"{config}.none: No such file or directory"),
        (["--config-file", ""], "must not be empty"),
        (["--config-file", str(broken), "-c", TEST], f"{broken}: defaults.jobs: must be a whole"),
        (["--jobs", "0"], "x>=1"),
        (["--jobs", "many"], "many"),
    ]
    results = command.each(
        [command_word, *more, "--config-file", config, *args]
        for args, _ in cases
        for command_word, *more in (["list"], ["set-interval", "5", "--all"], ["hosts"])
    )

    for index, result in enumerate(results):
        assert_refused(result, 2, cases[index // 3][1])


def test_a_host_without_a_file(command: Command, tmp_path: Path) -> None:
    # The machine's own file is not kept out, so that only the refusal is certain.
    env = {"VIRTBALLOON_CONFIG_FILE": "", "XDG_CONFIG_HOME": str(tmp_path)}

    assert_refused(command("list", "-H", "no such host", env=env), 2, "no host 'no such host'")


# Defaults.


def test_options_win_over_defaults(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[defaults]\ntimeout = "0.000000001"\nvia = "qom"\njobs = 1\n')
    common = ["--config-file", str(path), "-c", TEST, "list", "test"]

    late, qom, read = command.each(
        [
            [*common, "--via", "libvirt"],
            [*common, "--timeout", "5"],
            [*common, "--timeout", "5", "--via", "libvirt", "--jobs", "2"],
        ]
    )
    assert "no answer within" in late.stderr
    assert_refused(qom, 1, "no QEMU")
    assert read.status == 0


def test_jobs(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("[defaults]\njobs = 3\n")

    assert Settings({"config_file": os.devnull}).jobs == 32
    assert Settings({"config_file": str(path)}).jobs == 3
    assert Settings({"config_file": str(path), "jobs": 5, "host": ()}).jobs == 5


def test_hosts_asks_through_libvirt_whatever_the_default(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[defaults]\nvia = "qom"\n')
    result = command("-v", "--config-file", str(path), "-c", TEST, "hosts")

    assert result.status == 0
    assert "openAuth(read-only)" in result.stderr
    assert f"configuration: {path}" in result.complaints
    assert "openAuth(read-write)" not in result.stderr


# What hosts shows.


def test_hosts(command: Command, config: str) -> None:
    common = ["--config-file", config, "hosts"]
    table, document, lines, cells, some, none = command.each(
        [
            common,
            [*common, "--format", "json"],
            [*common, "--format", "jsonl"],
            [*common, "--format", "csv"],
            [*common, "-H", "@prod"],
            [*common, "-H", "gone"],
        ]
    )

    records = hosts(document)
    assert [record["name"] for record in records] == ["hv1", "alias", "hv2", "gone"]
    first, last = records[0], records[-1]
    # A host with two names was asked once.
    assert first["elapsed_seconds"] == records[1]["elapsed_seconds"]
    assert (first["hostname"], first["status"], first["groups"]) == (
        socket.gethostname(),
        "ok",
        ["prod", "rack1"],
    )
    assert (first["running"], first["defined"]) == (1, 1)
    assert (last["hostname"], last["status"], last["running"]) == (None, "unreachable", None)
    assert last["error"]["code"] == 38
    untimed = [{**record, "elapsed_seconds": 0} for record in records]
    for_jsonl = [json.loads(line) for line in lines.stdout.splitlines()]
    assert [{**record, "elapsed_seconds": 0} for record in for_jsonl] == untimed
    rows = list(csv.DictReader(io.StringIO(cells.stdout, newline=""), strict=True))
    assert [row["groups"] for row in rows] == ["prod,rack1", "", "prod", "rack1"]
    assert [row["running"] for row in rows] == ["1", "1", "1", ""]

    heading, *shown = table.stdout.splitlines()
    titles = ["NAME", "STATUS", "HOSTNAME", "RUNNING", "DEFINED", "TOTAL", "AVAILABLE", "CURRENT"]
    titles += ["OVERCOMMIT", "USED", "TIME", "GROUPS", "URI"]
    assert heading.split() == titles
    assert [row.split()[:2] for row in shown] == [
        ["hv1", "ok"],
        ["alias", "ok"],
        ["hv2", "ok"],
        ["gone", "unreachable"],
    ]
    for result, status, complaints in [(table, 3, 1), (document, 3, 1), (some, 0, 0), (none, 1, 1)]:
        assert result.status == status
        assert len(result.complaints) == complaints
        assert all(NOBODY_LISTENS in line for line in result.complaints)


def test_names_from_the_configuration_do_no_harm(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(
        f'[hosts."\\u001b[31m\\u202e"]\nuri = "{TEST}"\ngroups = ["\\u202ex"]\n', encoding="utf-8"
    )
    result = command("--config-file", str(path), "hosts")

    assert all(line.isprintable() for line in result.stdout.splitlines())
    assert r"\x1b[31m\u202e" in result.stdout


# The command that turns polling on.


def test_the_advice_works_for_hosts_of_the_configuration(command: Command, config: str) -> None:
    for args in (
        ["--config-file", config, "-H", "@prod"],
        ["--config-file", config, "-c", TEST],
    ):
        result = command(*args, "list", "test")
        advice = [line for line in result.complaints if "not polled" in line]
        assert len(advice) == result.stdout.count("polling-off")
        for line in advice:
            program, *words = shlex.split(line.partition("turn polling on: ")[2])
            assert program == "virtballoon"
            done = command(*words, "--format", "json")
            assert (done.status, done.stderr) == (0, "")
            (host,) = hosts(done)
            assert host["domains"][0]["outcome"] == "changed"


def test_the_advice_goes_through_libvirt(command: Command, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(f'[defaults]\nvia = "qom"\n[hosts.hv1]\nuri = "{TEST}"\n')
    result = command("list", "--via", "libvirt", env={"VIRTBALLOON_CONFIG_FILE": str(path)})

    (advice,) = result.complaints
    assert advice.endswith(": virtballoon -H hv1 set-interval 10 --via libvirt test")

    result = command("doctor", "--via", "libvirt", env={"VIRTBALLOON_CONFIG_FILE": str(path)})
    assert "virtballoon -H hv1 set-interval --via libvirt 10 test" in result.stdout


# Completion.


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["list", "-H", ""], ["hv1", "alias", "hv2", "gone", "@prod", "@rack1"]),
        (["-H", "hv"], ["hv1", "hv2"]),
        (["list", "--host", "@"], ["@prod", "@rack1"]),
        (["list", "-H", "@prod", "t"], ["test"]),
        (["stats", ""], ["test"]),
        (["-H", "nobody", "list", ""], []),
        (["--config-file", "/no/such/file", "list", "-H", ""], []),
        (["--config-file", "/etc/vir"], ["/etc/vir"]),
    ],
    ids=" ".join,
)
def test_completion(command: Command, config: str, words: list[str], offered: list[str]) -> None:
    result = command(
        env={
            "VIRTBALLOON_CONFIG_FILE": config,
            "_VIRTBALLOON_COMPLETE": "bash_complete",
            "COMP_WORDS": "\n".join(["virtballoon", *(word or "''" for word in words)]),
            "COMP_CWORD": str(len(words)),
        }
    )

    assert result.stderr == ""
    assert [line.partition(",")[2] for line in result.stdout.splitlines() if line] == offered


# Progress.


def on_a_terminal(
    folder: Path, *args: str, stdout: bool = True, term: str = "xterm"
) -> AbstractContextManager[tuple[subprocess.Popen[str], int]]:
    """Start the command on a terminal of 60 columns; the terminal's other end to read from."""
    env = {**clean_environment(folder), "TERM": term, "NO_COLOR": "1"}
    return process.on_a_terminal([*COLD, *args], 60, env=env, stdin=False, stdout=stdout)


def mute_and_others(silent: SilentHost, folder: Path) -> Sequence[str]:
    path = folder / "config.toml"
    path.write_text(
        f'[hosts."\\u0007mute"]\nuri = "{silent.uri}"\n'
        f'[hosts.hv1]\nuri = "{TEST}"\n[hosts.gone]\nuri = "{NOBODY_LISTENS}"\n'
    )
    return "--config-file", str(path), "--timeout", "600"


def test_progress_is_shown_and_wiped(tmp_path: Path) -> None:
    with SilentHost(tmp_path / "socket") as silent:
        options = mute_and_others(silent, tmp_path)
        with on_a_terminal(tmp_path, *options, "list", "test") as (run, terminal):
            waiting = read_until(terminal, "2 of 3 hosts done, waiting for \\x07mute")
            silent.close()
            rest = read_until(terminal)
            assert run.wait(60) == 3

    assert "DOMAIN" not in waiting
    assert waiting.startswith(f"{WIPE}0 of 3 hosts done, waiting for \\x07mute, hv1, gone{WIPE}")
    shown = rest.rpartition(WIPE)[2]
    assert shown.startswith("DOMAIN")
    assert "hosts done" not in shown
    assert "no answer" in shown or "reset" in shown


def test_progress_is_wiped_when_interrupted(tmp_path: Path) -> None:
    with SilentHost(tmp_path / "socket") as silent:
        options = mute_and_others(silent, tmp_path)
        for args in (["stats", "*"], ["set-interval", "5", "--all"]):
            with on_a_terminal(tmp_path, *options, *args) as (run, terminal):
                read_until(terminal, "2 of 3 hosts done")
                run.send_signal(signal.SIGINT)
                rest = read_until(terminal)
                assert run.wait(60) == 130
            assert rest.rpartition(WIPE)[2].split() == ["virtballoon:", "interrupted"]


def test_progress_fits_the_terminal(tmp_path: Path) -> None:
    uris = [arg for i in range(40) for arg in ("-c", f"{NOBODY_LISTENS}&{i}")]
    with on_a_terminal(tmp_path, *uris, "qom-path", "x") as (run, terminal):
        seen = read_until(terminal)
        assert run.wait(60) == 1

    lines = [part for part in seen.split(WIPE) if "hosts done" in part]
    assert len(lines) == 41
    assert {len(line) for line in lines[:38]} == {59}
    assert lines[0].endswith("…")
    assert lines[-1] == "40 of 40 hosts done"


NO_PROGRESS: list[tuple[list[str], dict[str, Any]]] = [
    ([], {}),
    (["-c", OTHER], {"stdout": False}),
    (["-c", OTHER, "-v"], {}),
    (["-c", OTHER], {"term": "dumb"}),
]


def test_no_progress(tmp_path: Path) -> None:
    with ExitStack() as stack:
        runs = [
            stack.enter_context(on_a_terminal(tmp_path, "hosts", "-c", TEST, *args, **terminal))
            for args, terminal in NO_PROGRESS
        ]
        for run, terminal in runs:
            seen = read_until(terminal)
            assert run.wait(60) == 0
            assert "hosts done" not in seen
            assert WIPE not in seen
