"""``--quiet``: silent when all is well, the exceptions alone when not."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING

import pytest

from tests.unit.command import EVIL, NOBODY_LISTENS, only_host
from virtballoon.model.verdict import Verdict

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.command import Command

FORMS = ("table", "json", "jsonl", "csv")


def test_what_is_well() -> None:
    assert [verdict.value for verdict in Verdict if verdict.is_well] == [
        "fresh",
        "suspended",
        "incoming",
        "no-device",
        "shutoff",
    ]


def test_silence_when_all_is_well(command: Command, node: str, tmp_path: Path) -> None:
    well = ["list", "bare", "off"], ["stats", "bare", "off"], ["set-interval", "9", "polled", "ba*"]
    runs = [["-c", node, *words, "-q", "--format", form] for words in well for form in FORMS]
    for result in command.each(runs):
        assert (result.status, result.stdout, result.stderr) == (0, "", ""), result.args
    file = tmp_path / "file"
    result = command("-c", node, "list", "--quiet", "bare", "off", "--output", str(file))
    assert (result.status, result.stdout, result.stderr) == (0, "", "")
    assert "no-device" in file.read_text()


@pytest.mark.parametrize("words", [["list", "--all"], ["stats", "*"]], ids=["list", "stats"])
def test_the_exceptions_alone(command: Command, node: str, words: list[str]) -> None:
    table, document, lines, rows = command.each(
        ["-c", node, *words, "-q", "--format", form] for form in FORMS
    )
    assert table.status == 0
    assert "polled" in table.stdout
    assert "bare" not in table.stdout
    advised = [line for line in table.complaints if "set-interval 10" in line]
    assert len(advised) == (words[0] == "list")
    names = [row["name"] for row in only_host(document)["domains"]]
    assert names == [EVIL, "passing", "polled"]
    assert [json.loads(line)["name"] for line in lines.stdout.splitlines()] == names
    assert [row["name"] for row in csv.DictReader(rows.stdout.splitlines())] == names


def test_a_failed_change_alone(command: Command, node: str) -> None:
    words = ["-c", node, "set-interval", "-q", "9", "bare", "polled"]
    table, document = command.each([*words, "--format", form] for form in ("table", "json"))
    assert (table.status, document.status) == (3, 3)
    _, row = table.stdout.splitlines()
    assert row.split()[:2] == ["bare", "failed"]
    assert len(table.complaints) == 1
    assert [row["name"] for row in only_host(document)["domains"]] == ["bare"]


def test_a_host_that_is_not_there(command: Command, node: str) -> None:
    hosts = ["-c", node, "-c", NOBODY_LISTENS, "-c", "test:///default", "list", "-q"]
    alone, well, document = command.each(
        [
            ["-c", NOBODY_LISTENS, "list", "-q", "--format", "json"],
            [*hosts, "bare", "--format", "csv"],
            [*hosts, "passing", "--format", "json"],
        ]
    )
    # There is no domain to show; the host is complained about.
    assert (alone.status, alone.stdout, len(alone.complaints)) == (1, "", 1)
    assert (well.status, well.stdout, len(well.complaints)) == (3, "", 1)
    # Where there is one, a host without any that is well is left out.
    shown = json.loads(document.stdout)["hosts"]
    assert [host["uri"] for host in shown] == [node, NOBODY_LISTENS]


def test_a_file_has_everything_and_stderr_the_exceptions(
    command: Command, node: str, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    words = ["-c", node, "list", "-q", "--all", "--output", str(file), "--format", "csv"]
    result = command(*words)
    assert (result.status, result.stdout) == (0, "")
    with file.open(encoding="utf-8", newline="") as lines:
        assert len(list(csv.DictReader(lines))) == 5
    *exceptions, advice = result.complaints
    assert [line.rpartition(": ")[2].partition(",")[0] for line in exceptions] == [
        "polling-off",
        "polling-off",
        "stale",
    ]
    assert f"domain 'polled' on {node}: stale, figures " in exceptions[-1]
    assert all(line.isprintable() for line in result.complaints)
    assert "to turn polling on: " in advice


def test_a_path_is_no_exception(command: Command) -> None:
    result = command("-c", "test:///default", "qom-path", "nobody")
    assert (result.status, len(result.complaints)) == (1, 1)
