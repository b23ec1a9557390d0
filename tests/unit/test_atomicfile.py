"""``--output``: the file has the contents of stdout, or is unchanged."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.process import finished
from tests.unit.command import COLD, Command, clean_environment

if TYPE_CHECKING:
    from collections.abc import Iterable

TEST = "test:///default"
NOBODY_LISTENS = "qemu+unix:///system?socket=/no/such/sock"
NOBODY = 65534

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has other users' files")


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """A report from before."""
    path = tmp_path / "reports" / "report"
    path.parent.mkdir()
    path.write_text("old\n")
    return path


def entries(report: Path) -> list[str]:
    """What is in the report's directory."""
    return sorted(path.name for path in report.parent.iterdir())


def assert_kept(report: Path) -> None:
    assert report.read_text() == "old\n"
    assert entries(report) == [report.name]


def lasting(text: str) -> str:
    """Without what differs from run to run: times, and UUIDs that the test driver makes up."""
    return re.sub(
        r'\d{4,}\.\d|"(elapsed|age)_seconds": [\d.]*|\d{4}-\d\d-\d\dT[\d:]+Z|[\da-f-]{36}',
        "",
        text,
    )


@pytest.mark.parametrize("form", ["table", "json", "jsonl", "csv"])
def test_file_equals_stdout(command: Command, node: str, report: Path, form: str) -> None:
    for words in (["list", "--all"], ["stats", "*"], ["set-interval", "9", "p*"]):
        args = ["-c", node, *words, "--format", form]
        shown, written = command.each([args, [*args, "--output", str(report)]])
        assert (written.status, written.stdout) == (shown.status, "")
        assert written.stderr == shown.stderr
        assert lasting(report.read_text("utf-8")) == lasting(shown.stdout)
        assert entries(report) == [report.name]


def test_partial_result_is_written(command: Command, report: Path) -> None:
    result = command(
        *("-c", TEST, "-c", NOBODY_LISTENS), *("list", "--output", str(report), "--format", "json")
    )

    assert result.status == 3
    assert [host["status"] for host in json.loads(report.read_text())["hosts"]] == [
        "ok",
        "unreachable",
    ]


def refused(report: Path) -> Iterable[tuple[list[str], int]]:
    output = ["--output", str(report)]
    yield ["-c", NOBODY_LISTENS, "list", "--format", "json", *output], 1
    yield ["-c", TEST, "list", "nobody", *output], 1
    yield ["-c", TEST, "list", "--columns", "no-such", *output], 2
    yield ["-c", TEST, "set-interval", "ten", "test", *output], 2


def test_keeps_the_old_file_if_nothing_was_read(command: Command, report: Path) -> None:
    runs = list(refused(report))
    results = command.each(args for args, _ in runs)
    for result, (_, status) in zip(results, runs, strict=True):
        assert result.status == status, result.args
        assert len(result.complaints) == 1
        assert_kept(report)


def test_refuses_bad_targets_before_reading(command: Command, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    paths = {
        f"{tmp_path}": "it is a directory",
        f"{tmp_path}/new/": "it is a directory",
        f"{tmp_path}/missing/report": "no directory",
        f"{tmp_path}/loop": "symbolic links",
        f"{tmp_path}/{'x' * 300}": "too long",
    }
    results = command.each(["-c", TEST, "-v", "list", "--output", path] for path in paths)
    for result, fragment in zip(results, paths.values(), strict=True):
        assert (result.status, result.stdout) == (1, "")
        # With -v, a host that is asked has a line of its own.
        assert "openAuth(read-only)" not in result.stderr
        complaint = result.complaints[-1]
        assert fragment in complaint
        assert complaint.isprintable()
    assert command("list", "--output", "").status == 2


def test_minus_is_stdout(command: Command) -> None:
    result = command("-c", TEST, "list", "--output", "file", "--output", "-")

    assert (result.status, "polling-off" in result.stdout) == (0, True)


def test_replaces_the_target_of_a_link(command: Command, report: Path) -> None:
    link = report.parent / "link"
    link.symlink_to(report.name)
    dangling = report.parent / "dangling"
    dangling.symlink_to("new")
    for path in (link, dangling):
        assert command("-c", TEST, "list", "--output", str(path)).status == 0
        assert path.is_symlink()
        assert "polling-off" in path.read_text()
    assert entries(report) == ["dangling", "link", "new", "report"]


def test_mode_of_old_and_new_files(command: Command, report: Path) -> None:
    report.chmod(0o604)
    new = report.parent / "new"
    for path in (report, new):
        result = command("-c", TEST, "list", "--output", str(path), before="os.umask(0o027)")
        assert result.status == 0
    assert stat.S_IMODE(report.stat().st_mode) == 0o604
    assert stat.S_IMODE(new.stat().st_mode) == 0o640


@needs_root
def test_root_keeps_the_owner(command: Command, report: Path) -> None:
    os.chown(report, NOBODY, 1234)
    report.chmod(0o640)
    assert command("-c", TEST, "list", "--output", str(report)).status == 0
    status = report.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (NOBODY, 1234, 0o640)
    assert "polling-off" in report.read_text()


AS_NOBODY = "os.setgroups([]); os.setgid(65534); os.setuid(65534)"


@needs_root
@pytest.mark.parametrize(("before", "after"), [(0o664, 0o644), (0o640, 0o600), (0o604, 0o600)])
def test_access_does_not_grow_if_the_owner_changes(
    command: Command, before: int, after: int
) -> None:
    # Other users have no access to pytest's own directories.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        report = Path(folder) / "report"
        report.touch()
        os.chown(report, 1234, 1234)
        report.chmod(before)
        result = command("-c", TEST, "list", "--output", str(report), before=AS_NOBODY)
        assert result.status == 0, result.stderr
        assert "polling-off" in report.read_text()
        status = report.stat()
        assert (status.st_uid, status.st_gid) == (NOBODY, NOBODY)
        assert stat.S_IMODE(status.st_mode) == after


@needs_root
def test_directory_without_write_permission(command: Command) -> None:
    words = ["-v", "-c", TEST, "list", "--output", "/report"]
    result = command(*words, before=AS_NOBODY)
    assert (result.status, result.stdout) == (1, "")
    assert "openAuth(read-only)" not in result.stderr
    assert result.complaints[-1] == ("virtballoon: cannot write /report: no write permission in /")


def test_device(command: Command) -> None:
    device = Path("/dev/null").stat()
    assert command("-c", TEST, "list", "--output", "/dev/null").status == 0
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    assert Path("/dev/null").stat().st_ino == device.st_ino


def test_fifo(command: Command, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert command("-c", TEST, "list", "--output", str(fifo)).status == 0
        assert b"polling-off" in os.read(reader, 65536)
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    # Without a reader it is an error, at once.
    result = command("-c", TEST, "list", "--output", str(fifo))
    assert (result.status, len(result.complaints)) == (1, 1)


def test_dev_stdout_appends_to_a_file(command: Command, report: Path) -> None:
    appending = f"os.dup2(os.open({str(report)!r}, os.O_WRONLY | os.O_APPEND), 1)"
    assert command("-c", TEST, "list", "--output", "/dev/stdout", before=appending).status == 0
    first, second, *_ = report.read_text().splitlines()
    assert first == "old"
    assert second.startswith("DOMAIN")


def test_file_that_grows_too_large(command: Command, report: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512))"
    words = ["-c", TEST, "list", "--format", "json", "--output", str(report)]
    result = command(*words, before=limit)

    assert (result.status, result.stdout) == (1, "")
    assert result.stderr == f"virtballoon: cannot write {report}: File too large\n"
    assert_kept(report)


@needs_root
def test_full_disk(tmp_path: Path, report: Path) -> None:
    probe = subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False)
    if probe.returncode:
        reason = "mount namespaces are not permitted here"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    script = f"""
        exec unshare -m sh -c '
            mount -t tmpfs -o size=4k none {report.parent}
            echo old >{report}
            "$@" >&2
            ls -A {report.parent}; cat {report}
        ' sh "$@"
    """
    words = ["-c", TEST, "list", "--format", "json", "--output", str(report)]
    result = finished(["sh", "-c", script, "sh", *COLD, *words], env=clean_environment(tmp_path))
    assert result.stderr == f"virtballoon: cannot write {report}: No space left on device\n"
    assert result.stdout == "report\nold\n"


# A real signal, at the moment when the file is half done.
KILLED = """
import signal
from virtballoon.system.cleanup import end_on_signals

def hit(file):
    print(os.listdir({!r}), file=sys.stderr, flush=True)
    signal.raise_signal({})

os.fsync = hit
end_on_signals()
"""


@pytest.mark.parametrize(("number", "status"), [(2, 130), (15, -15), (1, -1)])
def test_interrupted_while_writing(
    command: Command, report: Path, number: int, status: int
) -> None:
    words = ["-c", TEST, "list", "--format", "json", "--output", str(report)]
    result = command(*words, before=KILLED.format(str(report.parent), number))
    seen, complaint = result.complaints
    assert (result.status, result.stdout) == (status, "")
    assert ".virtballoon-" in seen
    assert complaint.startswith("virtballoon: ")
    assert_kept(report)


def test_utf8_in_any_locale(command: Command, node: str, report: Path) -> None:
    ascii_only = "sys.stdout.reconfigure(encoding='ascii')"
    for path in (str(report), "/dev/stdout"):
        result = command(
            *("-c", node, "list", "--format", "csv", "--output", path), before=ascii_only
        )
        assert result.status == 0, result.stderr
        assert "-\u202eevil" in (result.stdout or report.read_text("utf-8"))


@pytest.mark.parametrize("option", ["--output", "--lock"])
def test_completion_offers_files(command: Command, option: str) -> None:
    asked = {
        "_VIRTBALLOON_COMPLETE": "bash_complete",
        "COMP_WORDS": f"virtballoon list {option} re",
        "COMP_CWORD": "3",
    }
    assert command(env=asked).stdout == "file,re\n"
