"""Runs the command line many times without starting Python each time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# Starting and ending Python takes most of a run's time. So one process imports everything, and a
# fork of it does no more than main().
_SERVER = """
import gc, json, os, sys
import libvirt, lxml.etree, rich.console
import virtballoon.cli.list_domains, virtballoon.cli.set_interval, virtballoon.fleet
import virtballoon.render.table
from virtballoon.cli import main

gc.collect()
gc.freeze()
for line in sys.stdin:
    request = json.loads(line)
    child = os.fork()
    if child:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(status, flush=True)
        continue
    write = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    for fd, path in enumerate(("/dev/null", request["stdout"], request["stderr"])):
        opened = os.open(path, write if fd else os.O_RDONLY)
        os.dup2(opened, fd)
        os.close(opened)
    os.environ.update(request["env"])
    sys.argv = ["virtballoon", *request["args"]]
    try:
        main()
    except SystemExit as end:
        os._exit(end.code)
"""

#: What starts the command in a Python of its own.
COLD = (sys.executable, "-c", "from virtballoon.cli import main; main()")


@dataclass(frozen=True)
class Result:
    """What a run left behind."""

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
        self._out, self._err = folder / "stdout", folder / "stderr"
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

    def __call__(self, *args: str, env: Mapping[str, str] | None = None) -> Result:
        """Run ``virtballoon`` with these arguments."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        request = {
            "args": args,
            "env": dict(env or {}),
            "stdout": str(self._out),
            "stderr": str(self._err),
        }
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        status = int(self._server.stdout.readline())
        out, err = (path.read_text(encoding="utf-8") for path in (self._out, self._err))
        return Result(status, out, err)


def clean_environment(home: Path) -> dict[str, str]:
    """An environment in which no setting of whoever runs the tests counts."""
    kept = {
        key: os.environ[key] for key in ("PATH", "PYTHONPATH", "VIRTUAL_ENV") if key in os.environ
    }
    return kept | {
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home),
        "XDG_RUNTIME_DIR": str(home),
        "LC_ALL": "C.UTF-8",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
