"""What the library logs, and ``--log``."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.process import finished
from tests.running import fields
from tests.unit.command import Command, clean_environment
from virtballoon.errors import NoDaemon
from virtballoon.log import FIELDS
from virtballoon.operations.reading import find_qom_path

if TYPE_CHECKING:
    from pathlib import Path

TEST = "test:///default"
NOBODY_LISTENS = "qemu+unix:///system?socket=/no/such/sock"


# What an importer does, in a process of its own: the test driver reads a file with the library
# that lxml has, too, and both in one process can clash.
IMPORTER = """
import json, logging
import virtballoon

class Collect(logging.Handler):
    def emit(self, record):
        fields = {{k: v for k, v in record.__dict__.items() if k.startswith("virtballoon_")}}
        level = {{"level": record.levelname, "message": record.getMessage()}}
        print(json.dumps(level | fields), flush=True)

logging.getLogger().addHandler(Collect())
logging.getLogger("virtballoon").setLevel(logging.INFO)
virtballoon.{}
os._exit(0)
"""


def records(command: Command, call: str) -> list[dict[str, Any]]:
    """What a call of the library logs."""
    result = command(before=IMPORTER.format(call))
    assert result.status == 0, result.stderr
    found: list[dict[str, Any]] = [json.loads(line) for line in result.stdout.splitlines()]
    for record in found:
        assert record.keys() == {"level", "message", *FIELDS}
    return found


def test_record_per_host_and_failure(command: Command, node: str) -> None:
    both = [node, NOBODY_LISTENS]
    unreachable: list[tuple[str, str, str | None]] = [
        ("INFO", NOBODY_LISTENS, None),
        ("WARNING", NOBODY_LISTENS, None),
    ]
    well = ("INFO", node, None)
    expected: dict[str, list[tuple[str, str, str | None]]] = {
        f"read_host({node!r})": [well],
        f"read_hosts({both})": [well, *unreachable],
        f"set_intervals_on_hosts([{node!r}], 9, ['bare', 'polled'])": [
            well,
            ("WARNING", node, "bare"),
        ],
        # Here each host is visited twice.
        f"set_intervals_on_hosts({both}, 9, ['polled'])": [well, *unreachable],
        f"set_intervals_on_hosts({both}, 9, ['nobody'])": [well, *unreachable],
    }
    for call, logged in expected.items():
        found = records(command, call)
        shown = [(r["level"], r["virtballoon_host"], r["virtballoon_domain"]) for r in found]
        assert sorted(shown, key=str) == sorted(logged, key=str), call
        # A failure comes before the host that it is of is done.
        levels = [record["level"] for record in found]
        assert levels[-1] == "INFO"


def test_search_for_a_qom_path_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "virtballoon"):
        host = find_qom_path(NOBODY_LISTENS, "polled")
    assert isinstance(host.error, NoDaemon)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_record_has_the_fields_of_its_message(command: Command, node: str) -> None:
    (record,) = records(command, f"read_host({node!r})")
    assert record["message"].startswith(f"{node}: ok, 4 domains, ")
    assert (record["virtballoon_status"], record["virtballoon_domains"]) == ("ok", 4)
    assert record["virtballoon_elapsed_seconds"] > 0
    warning, _ = records(command, f"set_intervals({node!r}, 9, ['bare'])")
    assert warning["message"].startswith(f"domain 'bare' on {node}: ")
    assert warning["virtballoon_uuid"]


def test_no_output_without_logging_configuration(tmp_path: Path) -> None:
    script = f"import virtballoon, logging; virtballoon.read_host({NOBODY_LISTENS!r})"
    result = finished([sys.executable, "-c", script], env=clean_environment(tmp_path), check=True)
    # Libvirt's own error is there, since the library must not silence it.
    assert [line for line in result.stderr.splitlines() if not line.startswith("libvirt: ")] == []


def test_failures_are_log_records(command: Command, node: str) -> None:
    hosts = ("-c", node, "-c", NOBODY_LISTENS)
    result = command(*hosts, "set-interval", "9", "bare", "polled", "--log", "stderr")
    assert result.status == 3
    assert "bare" in result.stdout
    lines = [fields(line) for line in result.complaints]
    assert sorted((line["level"], line["host"], line.get("domain", "")) for line in lines) == [
        ("info", NOBODY_LISTENS, ""),
        ("info", node, ""),
        ("warning", NOBODY_LISTENS, ""),
        ("warning", node, "bare"),
    ]
    (unreachable,) = [line for line in lines if line.get("code") == "38"]
    assert unreachable["host"] == NOBODY_LISTENS
    assert "No such file" in unreachable["msg"]


def test_usage_errors_and_unmatched_names_are_messages(command: Command, node: str) -> None:
    wrong = command("-c", node, "list", "--log", "stderr", "--sort", "no-such")
    assert (wrong.status, len(wrong.complaints)) == (2, 1)
    nobody = command("-c", node, "list", "--log", "stderr", "nobody")
    assert nobody.status == 1
    assert nobody.complaints[-1] == "virtballoon: no domain matches 'nobody'"
    assert len(nobody.complaints) == 2


def test_quotation_marks_are_quoted(command: Command) -> None:
    for mark in "'\"":
        uri = f"{NOBODY_LISTENS}{mark}x"
        for line in command("-c", uri, "list", "--log", "stderr").complaints:
            assert fields(line)["host"] == uri


def test_lines_cannot_be_forged(command: Command) -> None:
    uri = 'test:///\n"level=error" \x1b[31m\\ \u202e'
    result = command("-c", uri, "list", "--log", "stderr")
    assert result.status == 1
    for line in result.complaints:
        assert line.startswith("time=")
        assert line.isprintable()
        assert fields(line)["level"] in {"info", "warning"}
        assert "\\n" in fields(line)["host"]


def test_verbose_lines_remain(command: Command, node: str) -> None:
    both = command("-v", "-c", node, "list", "--log", "stderr", "polled")
    alone = command("-v", "-c", node, "list", "polled")
    calls = [line for line in both.complaints if not line.startswith("time=")]
    assert len(both.complaints) == len(calls) + 1
    assert len(calls) == len(alone.complaints)
    assert not any(": ok," in line for line in alone.complaints)


# A journal's stream is whatever file systemd says it is.
JOURNAL_READS_STDERR = """
status = os.fstat(2)
os.environ["JOURNAL_STREAM"] = f"{status.st_dev}:{status.st_ino}"
"""


def test_journal_gets_priorities(command: Command, node: str) -> None:
    hosts = ("-v", "-c", node, "-c", NOBODY_LISTENS)
    result = command(*hosts, "list", "--log", "stderr", before=JOURNAL_READS_STDERR)
    priorities = {line[:3] for line in result.complaints if line[3:].startswith("time=")}
    assert priorities == {"<4>", "<6>"}
    for line in result.complaints:
        if line[3:].startswith("time="):
            expected = {"<4>": "warning", "<6>": "info"}[line[:3]]
            assert fields(line[3:])["level"] == expected
        elif not line.startswith("libvirt: "):
            assert line[:3] == ("<4>" if line[3:].startswith("virtballoon: ") else "<7>")
    plain = command("-c", NOBODY_LISTENS, "list", before=JOURNAL_READS_STDERR)
    (complaint,) = plain.complaints
    assert complaint.startswith("<4>virtballoon: ")


@pytest.mark.parametrize("stream", ["", "1:2", "none"])
def test_no_priorities_where_stderr_is_not_the_journal(command: Command, stream: str) -> None:
    result = command("-c", NOBODY_LISTENS, "list", env={"JOURNAL_STREAM": stream})
    (complaint,) = result.complaints
    assert complaint.startswith("virtballoon: ")
