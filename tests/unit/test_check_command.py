"""``virtballoon check`` as its callers meet it: 0 to 3 and a status line, whatever goes wrong."""

from __future__ import annotations

import fcntl
import json
import os
import stat
from typing import TYPE_CHECKING

import pytest

from tests.running import parsed
from tests.unit.command import NOBODY_LISTENS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.command import Command


def test_wrong_usage_is_unknown(command: Command, tmp_path: Path) -> None:
    broken = tmp_path / "config.toml"
    broken.write_text("hosts = 3")
    runs = [
        ["check", "--bogus"],
        ["check", "-w"],
        *(["check", "-w", text] for text in ("", "x", "20:10", "80s", ":5")),
        *(["check", option, "1KB"] for option in ("--swap-critical", "--age-warning")),
        *(["check", "--verdict", word] for word in ("", "stale", "stale=bad", "fresh=ok", "x=ok")),
        *(["check", "--host-warning", word] for word in ("", "free=3", "used", "used=1GiB")),
        ["check", "--perfdata", "some"],
        ["check", "-c", ""],
        ["check", "--timeout", "-1"],
        ["check", "-H", "nobody"],
        ["-H", "nobody", "check"],
        ["check", "--config-file", str(broken)],
        ["check", "--output", "/no/such/directory/file"],
    ]
    for result in command.each(runs):
        assert (result.status, result.stderr) == (3, ""), result.args
        first, *_ = result.stdout.splitlines()
        parsed(f"{first}\n")
        assert first.startswith("MEMORY UNKNOWN - "), result.args


def test_before_the_command_is_known_usage_is_everybodys(command: Command) -> None:
    for result in command.each([["--bogus", "check"], ["--timeout", "x", "check"], ["chekc"]]):
        assert (result.status, result.stdout, len(result.complaints)) == (2, "", 1)


@pytest.mark.parametrize("value", ["90", "90%", "10:", "@5:10", "~:90"])
def test_a_threshold_with_the_small_letter_is_explained(command: Command, value: str) -> None:
    result = command("check", "-c", value)
    assert result.status == 3
    assert f"the critical threshold is -C {value}" in result.stdout


def test_help_is_no_trouble(command: Command) -> None:
    result = command("check", "--help")
    assert (result.status, result.stderr) == (0, "")


def test_problems_on_libvirts_test_driver(command: Command, node: str) -> None:
    whole, named, mild, dead, harsh, nobody, off = command.each(
        [
            ["-c", node, "check"],
            ["-c", node, "check", "polled", "--verdict", "stale=warning"],
            ["-c", node, "check", "bare", "--verdict", "no-device=ok"],
            ["check", "-c", node, "-c", NOBODY_LISTENS, "bare"],
            ["check", "-c", NOBODY_LISTENS, "--verdict", "unreachable=critical"],
            ["check", "-c", node, "nobody", "--verdict", "unmatched=critical"],
            ["check", "-c", node, "off"],
        ]
    )
    for result, status in (
        (whole, 3),
        (named, 1),
        (mild, 0),
        (dead, 3),
        (harsh, 2),
        (nobody, 2),
        (off, 3),
    ):
        assert (result.status, result.stderr) == (status, ""), result.args
        parsed(result.stdout)
    assert NOBODY_LISTENS in dead.stdout
    assert off.stdout.startswith("MEMORY UNKNOWN - none of them has figures to judge")


def test_formats_and_files(command: Command, node: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    document, lines, rows, written = command.each(
        [
            *(["-c", node, "check", "--format", form] for form in ("json", "jsonl", "csv")),
            ["-c", node, "check", "--verdict", "stale=critical", "--output", str(file)],
        ]
    )
    assert json.loads(document.stdout)["check"]["exit_status"] == document.status == 3
    first = json.loads(lines.stdout.splitlines()[0])
    assert {"uri", "check"} <= set(first)
    assert rows.stdout.startswith("uri,check.status,name,")
    # Whatever the status, the file is what there is to be known.
    assert (written.status, written.stdout) == (2, "")
    assert file.read_text().startswith("MEMORY CRITICAL - ")


def test_a_status_line_that_cannot_be_written_is_unknown(command: Command, node: str) -> None:
    # Not WARNING, which is what Python and the other commands end with.
    full = "import sys; sys.stdout = open('/dev/full', 'w')"
    result = command("-c", node, "check", before=full)
    assert (result.status, result.stdout, len(result.complaints)) == (3, "", 1)


def test_an_error_of_our_own_is_unknown(command: Command, node: str) -> None:
    broken = "import virtballoon.operations.fleet; virtballoon.operations.fleet.read_hosts = None"
    quiet, verbose = (
        command("-c", node, "check", *words, before=broken) for words in ((), ("-v",))
    )
    assert (quiet.status, quiet.stderr) == (3, "")
    assert quiet.stdout.startswith("MEMORY UNKNOWN - internal error: TypeError: ")
    assert verbose.status == 3
    assert "Traceback" in verbose.stderr


def test_another_run_that_holds_the_lock(command: Command, node: str, tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        result = command("-c", node, "check", "--lock", str(lock))
        other = command("-c", node, "list", "--lock", str(lock))
    assert (result.status, result.stderr) == (3, "")
    assert "is locked by another process" in result.stdout
    assert (other.status, len(other.complaints)) == (75, 1)


RATES = ["check", "--swap-critical", "1MiB", "--verdict", "stale=ok"]


def test_the_state_has_a_file_for_each_question(
    command: Command, node: str, tmp_path: Path
) -> None:
    env = {"XDG_STATE_HOME": str(tmp_path)}
    runs = [
        ["-c", node, *RATES],
        ["-c", node, *RATES, "-w", "50"],
        ["-c", node, *RATES, "bare", "polled"],
        ["-c", node, *RATES, "polled", "bare"],
        ["-c", NOBODY_LISTENS, *RATES],
        # Nothing is kept where nothing is compared.
        ["-c", node, "check", "-w", "50", "off"],
    ]
    for result in command.each(runs, env=env):
        assert "cannot" not in result.stdout.replace("cannot connect", ""), result.args
    folder = tmp_path / "virtballoon"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert len(list(folder.glob("*.json"))) == 3
    assert {path.suffix for path in folder.iterdir()} == {".json", ".lock"}


@pytest.mark.parametrize("content", ["root:x:0:0", "[]", "{}", '{"schema": 1}', "[" * 100_000])
def test_foreign_file_is_not_touched(
    command: Command, node: str, tmp_path: Path, content: str
) -> None:
    file = tmp_path / "file"
    file.write_text(content)
    result = command("-c", node, *RATES, "--state", str(file))
    assert (result.status, result.stderr) == (3, "")
    assert f"{file} is not the state of a check" in result.stdout
    assert file.read_text() == content
    assert list(tmp_path.iterdir()) == [file]


def test_a_state_that_cannot_be_kept_is_unknown(
    command: Command, node: str, tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for place in (fifo, tmp_path, tmp_path / "none" / "file"):
        result = command("-c", node, *RATES, "--state", str(place))
        assert (result.status, result.stderr) == (3, "")
        assert "cannot" in result.stdout, place
    assert "cannot make" in command("-c", node, *RATES, env={"XDG_STATE_HOME": "/dev/null"}).stdout


def test_invalid_or_newer_state_is_replaced(command: Command, node: str, tmp_path: Path) -> None:
    file = tmp_path / "state"
    for content in (
        "",
        '{"virtballoon-check": 2, "hosts": 7}',
        '{"virtballoon-check": 1, "hosts": {"a": [7, {"uuid": 3}, {}], "b": null}}',
    ):
        file.write_text(content)
        result = command("-c", node, *RATES, "--state", str(file))
        assert "state" not in result.stdout, result.stdout
        assert json.loads(file.read_text()) == {"virtballoon-check": 1, "hosts": {node: []}}


def test_runs_at_the_same_time_wait_for_the_state(
    command: Command, node: str, tmp_path: Path
) -> None:
    runs = [["-c", node, *RATES, "--state", str(tmp_path / "state")]] * 4
    results = command.each(runs)
    assert {(r.status, r.stdout, r.stderr) for r in results} == {
        (results[0].status, results[0].stdout, "")
    }
    assert "locked" not in results[0].stdout
