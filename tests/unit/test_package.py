"""The package as a whole: its names, and what importing it and asking for help do not do."""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

import virtballoon
from tests.process import finished
from tests.unit.command import COLD, clean_environment

HEAVY = ["libvirt", "libvirt_qemu", "lxml", "rich", "prometheus_client", "sqlite3"]


def run_python(code: str, folder: Path) -> Any:
    """What a Python of its own prints last, JSON."""
    result = finished([sys.executable, "-W", "error", "-c", code], env=clean_environment(folder))
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return json.loads(result.stdout.splitlines()[-1])


def test_all_is_the_stub() -> None:
    stub = ast.parse(Path(virtballoon.__file__).with_suffix(".pyi").read_text(encoding="ascii"))
    names = [
        alias.asname
        for statement in stub.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
        if alias.asname == alias.name
    ]
    assert len(names) > 80
    assert virtballoon.__all__ == sorted([*names, "__version__"])


def test_the_debian_package_has_the_same_version() -> None:
    debian = Path(__file__).parents[2] / "examples" / "packaging" / "debian"
    package, version, *_ = (debian / "changelog").read_text().split()
    assert (package, version) == ("virtballoon", f"({virtballoon.__version__})")


def test_every_name_can_be_imported() -> None:
    for name in virtballoon.__all__:
        assert getattr(virtballoon, name) is not None, name
        assert name in dir(virtballoon)
        value = getattr(virtballoon, name)
        if isinstance(value, FunctionType | type):
            assert value.__module__.startswith("virtballoon."), name
            assert value.__name__ == name
            assert value.__doc__, name


def test_a_star_import_gives_all() -> None:
    names: dict[str, object] = {}
    exec("from virtballoon import *", names)

    assert set(virtballoon.__all__) <= names.keys()


def test_an_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = virtballoon.no_such_name  # type: ignore[attr-defined]
    with pytest.raises(ImportError):
        exec("from virtballoon import no_such_name")


def test_importing_imports_nothing_else(tmp_path: Path) -> None:
    new = run_python(
        "import json, sys; before = set(sys.modules); import virtballoon; "
        "print(json.dumps(sorted(set(sys.modules) - before)))",
        tmp_path,
    )

    assert [name for name in new if name.partition(".")[0] == "virtballoon"] == ["virtballoon"]
    assert [
        name
        for name in new
        if name.partition(".")[0] not in sys.stdlib_module_names | {"virtballoon"}
    ] == []


GLOBALS = """
import json, locale, logging, os, signal, sys, threading, warnings

def state():
    loggers = [logging.getLogger(), logging.getLogger("virtballoon")]
    return [
        [(logger.level, logger.propagate) for logger in loggers],
        # Python advises a library to have one that does nothing.
        [h for logger in loggers for h in logger.handlers if type(h) is not logging.NullHandler],
        [repr(signal.getsignal(number)) for number in sorted(signal.valid_signals())],
        [repr(entry) for entry in warnings.filters],
        [repr(hook) for hook in (sys.excepthook, threading.excepthook, sys.unraisablehook)],
        sorted(os.environ.items()), os.getcwd(), locale.setlocale(locale.LC_ALL),
        sys.getrecursionlimit(), threading.active_count(), repr(sys.stdout), repr(sys.stderr),
    ]

before = state()
import virtballoon
for name in virtballoon.__all__:
    getattr(virtballoon, name)
loaded = [name for name in ("rich", "click") if name in sys.modules]
print(json.dumps([before == state(), loaded]))
"""


def test_using_every_name_changes_nothing_global(tmp_path: Path) -> None:
    unchanged, loaded = run_python(GLOBALS, tmp_path)

    assert unchanged
    assert loaded == []


# One Python asks for everything, one thing after another.
LIGHT = f"""
import contextlib, io, json, os, sys
import click
from virtballoon.cli import cli, main

# The command ends its process at once, without what sys.exit() would still do.
os._exit = sys.exit

def run(*args):
    sys.argv = ["virtballoon", *args]
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with contextlib.redirect_stdout(out):
        try:
            main()
        except SystemExit as end:
            status = end.code
    out.seek(0)
    loaded = [name for name in {HEAVY!r} if name in sys.modules]
    return [" ".join(args), status, out.read(), loaded]

commands = cli.list_commands(click.Context(cli))
asked = [["--version"], ["-V"], ["--help"], ["-h"], *([name, "--help"] for name in commands)]
print(json.dumps([run(*args) for args in asked]))
"""


def test_version_and_help_are_light(tmp_path: Path) -> None:
    answers = run_python(LIGHT, tmp_path)

    assert [asked for asked, *_ in answers][:4] == ["--version", "-V", "--help", "-h"]
    assert {"list --help", "stats --help", "set-interval --help", "qom-path --help"} <= {
        asked for asked, *_ in answers
    }
    for asked, status, out, loaded in answers:
        assert (asked, status, loaded) == (asked, 0, [])
        assert out.strip()
        if "elp" in asked:
            assert "Usage: virtballoon" in out
        words = " ".join(out.split())
        if "--via" in words:
            assert "taints guests" in words
            assert "write access" in words
    assert answers[0][2] == f"virtballoon {virtballoon.__version__}\n"
    assert answers[1][2] == answers[0][2]
    assert re.fullmatch(r"\d+\.\d+\.\d+\w*", virtballoon.__version__)


def test_reading_imports_nothing_that_takes_long(tmp_path: Path) -> None:
    slow = ["logging", "json", "csv", "tomllib", "pathlib", "shlex", "difflib"]
    script = f"""
import sys
from virtballoon.hypervisor.translation import keep_stderr_quiet
from virtballoon.operations.reading import read_host
keep_stderr_quiet()
read_host("test:///default")
loaded = [name for name in {slow} if name in sys.modules]
import json
print(json.dumps(loaded))
"""
    assert run_python(script, tmp_path) == []


def test_the_command_starts_cold(tmp_path: Path) -> None:
    result = finished([*COLD, "--version"], env=clean_environment(tmp_path))

    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"virtballoon {virtballoon.__version__}\n"
