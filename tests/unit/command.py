"""Runs the command line many times without starting Python each time."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

# Starting and ending Python takes most of a run's time. So one process imports everything, and a
# fork of it does no more than main().
_SERVER = """
import gc, json, os, sys
import libvirt, rich.console
import virtballoon.cli.list_domains, virtballoon.cli.set_interval, virtballoon.operations.fleet
import virtballoon.cli.hosts, virtballoon.cli.log
import virtballoon.system.lockfile, virtballoon.system.atomicfile
import virtballoon.cli.finish, virtballoon.configuration, virtballoon.render.table
import virtballoon.cli.export, virtballoon.exporter.metrics, virtballoon.exporter.http
from virtballoon.cli import main

gc.collect()
gc.freeze()

def run(request):
    write = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    for fd, path in enumerate(("/dev/null", request["stdout"], request["stderr"])):
        opened = os.open(path, write if fd else os.O_RDONLY)
        os.dup2(opened, fd)
        os.close(opened)
    os.environ.update(request["env"])
    exec(request["before"], {"os": os, "sys": sys})
    sys.argv = ["virtballoon", *request["args"]]
    try:
        main()
    except SystemExit as end:
        os._exit(end.code)

for line in sys.stdin:
    children = []
    for request in json.loads(line):
        children.append(os.fork())
        if not children[-1]:
            run(request)
            # Whatever else main() may do, it does not return.
            os._exit(99)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    print(json.dumps(statuses), flush=True)
"""

#: What starts the command in a Python of its own.
COLD = (sys.executable, "-c", "from virtballoon.cli import main; main()")


@dataclass(frozen=True)
class Result:
    """What a run left behind."""

    args: tuple[str, ...]
    status: int
    stdout: str
    stderr: str

    @property
    def complaints(self) -> list[str]:
        """The lines on stderr."""
        return self.stderr.splitlines()


class Command:
    """The command line."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server = subprocess.Popen(
            [sys.executable, "-c", _SERVER],
            env=clean_environment(folder),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.communicate()

    def __call__(
        self, *args: str, env: Mapping[str, str] | None = None, before: str = ""
    ) -> Result:
        """Run ``virtballoon`` with these arguments."""
        (result,) = self.each([args], env=env, before=before)
        return result

    def each(
        self,
        runs: Iterable[Sequence[str]],
        *,
        env: Mapping[str, str] | None = None,
        before: str = "",
    ) -> list[Result]:
        """Run it with each of these arguments, all at once.

        :param before: what each process does first, in Python
        """
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        requests: list[dict[str, Any]] = [
            {
                "args": args,
                "env": dict(env or {}),
                "before": before,
                "stdout": str(self._folder / f"stdout{number}"),
                "stderr": str(self._folder / f"stderr{number}"),
            }
            for number, args in enumerate(runs)
        ]
        self._server.stdin.write(json.dumps(requests) + "\n")
        self._server.stdin.flush()
        statuses = json.loads(self._server.stdout.readline())
        return [
            Result(
                args=tuple(request["args"]),
                status=status,
                stdout=Path(request["stdout"]).read_text(encoding="utf-8"),
                stderr=Path(request["stderr"]).read_text(encoding="utf-8"),
            )
            for request, status in zip(requests, statuses, strict=True)
        ]


def clean_environment(home: Path) -> dict[str, str]:
    """An environment in which no setting of whoever runs the tests counts."""
    names = ("PATH", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX")
    kept = {name: os.environ[name] for name in names if name in os.environ}
    return kept | {
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home),
        "XDG_RUNTIME_DIR": str(home),
        # The machine may have a configuration of its own.
        "VIRTBALLOON_CONFIG_FILE": os.devnull,
        "LC_ALL": "C.UTF-8",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }


TEST = "test:///default"
NOBODY_LISTENS = "qemu+unix:///system?socket=/no/such/sock"
EVIL = '-\u202eevil "x", y'


def assert_refused(result: Result, status: int, *fragments: str) -> None:
    """Nothing on stdout, and one line on stderr that says what is the matter."""
    assert result.stdout == ""
    assert len(result.complaints) == 1, result.stderr
    (complaint,) = result.complaints
    assert complaint.startswith("virtballoon: ")
    assert complaint.isprintable()
    assert "Traceback" not in complaint
    assert "internal error: " not in complaint or "libvirt" in complaint
    for fragment in fragments:
        assert fragment in complaint
    assert result.status == status


def only_host(result: Result) -> dict[str, Any]:
    (host,) = json.loads(result.stdout)["hosts"]
    assert isinstance(host, dict)
    return host


#: Far more than a test takes.
LONG = 60.0

OTHER = "test:///default?other"
CONFIGURATION = f"""
[hosts.hv1]
uri = "{TEST}"
groups = ["prod", "rack1"]
[hosts.alias]
uri = "{TEST}"
[hosts.hv2]
uri = "{OTHER}"
groups = ["prod"]
[hosts.gone]
uri = "{NOBODY_LISTENS}"
groups = ["rack1"]
"""


def fill(terminal: int) -> None:
    """Write until it takes no more."""
    os.set_blocking(terminal, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(terminal, b"." * 100)
    os.set_blocking(terminal, True)
