"""``virtballoon record``: what it refuses, adds, imports and exports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.command import COLD, EVIL, NOBODY_LISTENS, TEST, assert_refused, clean_environment
from tests.unit.sizing_builders import GIB, HOST, MIB, MIDNIGHT, read, write_lines
from virtballoon.sizing.store import Store

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.command import Command, Result

USAGE = [
    (["--import", "x", "--export"], "--import and --export"),
    (["--import", "x", "--every", "1m"], "--import and --export"),
    (["--import", "x", "web1"], "--import and --export"),
    (["--export", "--exclude", "web1"], "--import and --export"),
    (["--export", "--where", "verdict=fresh"], "--import and --export"),
    (["--every", "0.1"], "at least 1 s"),
    (["--keep", "1h"], "at least 86400 s"),
    (["--store", ""], "must not be empty"),
]


def test_wrong_usage(command: Command) -> None:
    results = command.each(["-c", TEST, "record", *words] for words, _ in USAGE)
    for result, (_, fragment) in zip(results, USAGE, strict=True):
        assert_refused(result, 2, fragment)


def exported(command: Command, store: Path) -> list[dict[str, Any]]:
    result = command("record", "--export", "--store", str(store))
    assert (result.status, result.stderr) == (0, "")
    return [json.loads(line) for line in result.stdout.splitlines()]


def imported(command: Command, store: Path, *files: Path, keep: str = "9999d") -> Result:
    words = [word for file in files for word in ("--import", str(file))]
    return command("record", "--store", str(store), "--keep", keep, *words)


def test_importing_twice_changes_nothing(command: Command, tmp_path: Path) -> None:
    store = tmp_path / "history.db"
    rows = [read(MIDNIGHT + 60 * n, 100 * MIB, name=EVIL) for n in range(5)]
    first = write_lines(tmp_path / "first", *rows[:3], read(MIDNIGHT, balloon=None))
    second = write_lines(tmp_path / "second", *rows[2:])
    result = imported(command, store, second, first)
    assert (result.status, result.stdout) == (0, "")
    assert result.complaints == ["virtballoon: 5 samples added; 1 are no newer than the store's"]
    days = exported(command, store)
    assert [(day["name"], day["covered_seconds"], day["uris"]) for day in days] == [
        (EVIL, 240, [HOST])
    ]
    assert "0 samples added" in imported(command, store, first, second).stderr
    assert exported(command, store) == days


def test_old_days_go(command: Command, tmp_path: Path) -> None:
    store = tmp_path / "history.db"
    lines = write_lines(tmp_path / "lines", read(86400), read(86460))
    assert imported(command, store, lines, keep="90d").status == 0
    assert exported(command, store) == []


@pytest.mark.parametrize("text", ["{}", "[]", "x", "[" * 100_000, "\udcff"])
def test_a_file_with_something_else_adds_nothing(
    command: Command, tmp_path: Path, text: str
) -> None:
    store = tmp_path / "history.db"
    lines = write_lines(tmp_path / "lines", read(MIDNIGHT))
    with lines.open("ab") as file:
        file.write(f"{text}\n".encode(errors="surrogateescape"))
    assert_refused(imported(command, store, lines), 1, f"line 2 of {lines}", "nothing was imported")
    assert exported(command, store) == []


def test_missing_files(command: Command, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    assert_refused(imported(command, tmp_path / "history.db", missing), 1, f"cannot read {missing}")
    assert_refused(
        command("record", "--export", "--store", str(missing)), 1, f"cannot open {missing}"
    )


def test_another_file_is_not_overwritten(command: Command, tmp_path: Path) -> None:
    other = tmp_path / "notes"
    other.write_text("mine\n", encoding="ascii")
    result = command("-c", TEST, "record", "--store", str(other))
    assert_refused(result, 1, f"{other} is not a store of histories")
    assert other.read_text(encoding="ascii") == "mine\n"


def test_a_host_without_fresh_figures(command: Command, node: str, tmp_path: Path) -> None:
    store = tmp_path / "folder" / "history.db"
    result = command("-c", node, "record", "--store", str(store))
    assert "nothing to record: no domain has fresh figures" in result.stderr
    assert exported(command, store) == []


def test_hosts_that_do_not_answer(command: Command, node: str, tmp_path: Path) -> None:
    words = ["record", "--store", str(tmp_path / "history.db")]
    assert command("-c", NOBODY_LISTENS, *words).status == 1
    assert command("-c", NOBODY_LISTENS, "-c", node, *words).status == 3


def test_two_hosts_with_one_uuid_are_told(command: Command, tmp_path: Path) -> None:
    times = range(MIDNIGHT, MIDNIGHT + 240, 60)
    one = write_lines(tmp_path / "one", *map(read, times))
    other = write_lines(tmp_path / "other", *(read(at + 9) for at in times), host="qemu+ssh://hv2/")
    result = imported(command, tmp_path / "history.db", one, other)
    assert result.status == 0
    assert "at the same time: two domains with one UUID" in result.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_repeats_until_a_signal(node: str, tmp_path: Path, number: signal.Signals) -> None:
    store = tmp_path / "history.db"
    words = ["-c", node, "record", "--every", "1", "--store", str(store)]
    with subprocess.Popen(
        [*COLD, *words], stderr=subprocess.PIPE, text=True, env=clean_environment(tmp_path)
    ) as process:
        assert process.stderr is not None
        lines = iter(process.stderr)
        # Each sweep says that there is nothing to record.
        swept = 0
        while swept < 2:
            swept += "nothing to record" in next(lines)
        process.send_signal(number)
        assert "Traceback" not in "".join(lines)
    assert process.returncode == 0
    with Store(store) as opened:
        assert opened.histories() == []


def test_errors_do_not_end_the_repetition(tmp_path: Path) -> None:
    words = ["-c", TEST, "record", "--every", "1", "--store", os.fspath(tmp_path)]
    with subprocess.Popen(
        [*COLD, *words], stderr=subprocess.PIPE, text=True, env=clean_environment(tmp_path)
    ) as process:
        assert process.stderr is not None
        said = [next(process.stderr) for _ in range(2)]
        process.terminate()
    assert said == [f"virtballoon: cannot open {tmp_path}: it is not a regular file\n"] * 2
    assert process.returncode == 0


def test_sizes_are_exported(command: Command, tmp_path: Path) -> None:
    store = tmp_path / "history.db"
    lines = write_lines(tmp_path / "lines", read(MIDNIGHT, 100 * MIB))
    imported(command, store, lines)
    (day,) = exported(command, store)
    assert day["date"] == "2026-11-20"
    assert day["peak"] == {"value": 100 * MIB, "at": MIDNIGHT}
    assert day["latest"]["current_bytes"] == GIB
