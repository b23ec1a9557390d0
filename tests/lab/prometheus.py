"""A Prometheus of the lab's own."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
import urllib.request
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

from .hypervisor import find_program
from .keeper import Keeper
from .kernel import SETUP, LabUnavailable
from .waiting import wait_until

_READY_TIMEOUT = 60.0


class Prometheus:
    """A Prometheus on the loopback, with its data in a directory of its own: a context manager
    that leaves no process and no file.

    :param configuration: its configuration, which may be JSON, too
    :param past: what it has stored before, as OpenMetrics with times
    :ivar url: its address
    """

    def __init__(self, configuration: dict[str, Any], *, past: str | None = None) -> None:
        self._configuration = configuration
        self._past = past

    def __enter__(self) -> Self:
        try:
            program = find_program("prometheus")
        except LabUnavailable:
            raise LabUnavailable(f"no prometheus: run {SETUP} prometheus") from None
        self.directory = Path(tempfile.mkdtemp(prefix="lab-", dir="/tmp"))
        self._keeper = Keeper(self.directory)
        try:
            configuration = self.directory / "prometheus.json"
            configuration.write_text(json.dumps(self._configuration))
            data = self.directory / "data"
            if self._past is not None:
                (self.directory / "past").write_text(self._past)
                # It reads the file once for each block.
                words = ["tsdb", "create-blocks-from", "--max-block-duration=1458h", "openmetrics"]
                subprocess.run(
                    [find_program("promtool"), *words, self.directory / "past", data],
                    check=True,
                    capture_output=True,
                )
            options = {
                "config.file": configuration,
                "storage.tsdb.path": data,
                "storage.tsdb.retention.time": "60d",
                # The kernel chooses the port.
                "web.listen-address": "127.0.0.1:0",
            }
            command = [program, *(f"--{name}={value}" for name, value in options.items())]
            self._keeper.start(command, {})
            self._address = wait_until(self._listens, _READY_TIMEOUT, "Prometheus to listen")
            self.url = f"http://{self._address}"
            wait_until(self._is_ready, _READY_TIMEOUT, "Prometheus to be ready")
        except BaseException:
            self._keeper.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._keeper.close()

    def log(self) -> str:
        """Return what it wrote."""
        return (self.directory / "output").read_text(errors="replace")

    def _listens(self) -> str | None:
        found = re.search(r'msg="Listening on" address=(127\.0\.0\.1:\d+)', self.log())
        return found[1] if found else None

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self._address}/-/ready", timeout=10) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def api(self, path: str, **parameters: str) -> Any:
        """Ask its HTTP API, and return the data."""
        query = urlencode(parameters)
        url = f"http://{self._address}/api/v1/{path}?{query}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            document = json.load(answer)
        assert document["status"] == "success", document
        return document["data"]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Evaluate an expression now: labels and value of each series."""
        result = self.api("query", query=expression)["result"]
        return [(series["metric"], float(series["value"][1])) for series in result]
