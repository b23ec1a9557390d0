#!/usr/bin/env python3
"""Draws dashboard.svg next to this file: the dashboard's queries on a real Prometheus that has
scraped real guests, without Grafana.

Run it with a Python that has virtballoon and its test dependencies, after
tests/lab/setup prometheus:

    .cache/newest/bin/python examples/pictures/dashboard.py
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

from tests.lab import Guest, GuestSpec, Hypervisor, Link, Prometheus, wait_until  # noqa: E402

DASHBOARD = HERE.parent / "grafana" / "virtballoon.json"
COMMAND = Path(sys.executable).with_name("virtballoon")
GUESTS = (
    GuestSpec("web1", period=1),
    GuestSpec("build1", period=1, swap_mib=32),
    GuestSpec("db1"),
    GuestSpec("mail", period=1),
    GuestSpec("appliance", period=1, driver=False),
)
#: Memory that the guests use in each step, in MiB.
HOGS = ((5, 10), (20, 40), (35, 70), (30, 85), (30, 30), (15, 60), (10, 80), (25, 20))
STEP_SECONDS = 10
CONFIGURATION = """
[hosts.hv1]
uri = "{uri}"
[hosts.hv2]
uri = "qemu+tcp://127.0.0.1:1/system"
"""

#: A column and a row of the dashboard's grid, and the margin of a panel, in the picture's units.
COLUMN, ROW, MARGIN = 40, 27, 4
INK, FAINT, GROUND, PANEL = "#d8d9da", "#8e9096", "#111217", "#1b1d22"
COLOURS = ("#7eb26d", "#eab839", "#6ed0e0", "#ef843c", "#e24d42", "#5195ce", "#ba43a9", "#705da0")
MOST_NAMES = 8


@dataclass(frozen=True)
class Line:
    """One series: its name, and its values by time."""

    name: str
    labels: dict[str, str]
    points: list[tuple[float, float]]


def main() -> None:
    """Let guests use varying memory, and draw what Prometheus has recorded."""
    # The host of a local URI goes by its own name.
    with Hypervisor() as hypervisor, Link(hypervisor.socket) as link:
        guests = hypervisor.boot(GUESTS)
        configuration = hypervisor.directory / "hosts.toml"
        configuration.write_text(CONFIGURATION.format(uri=link.uris[0]))
        environment = os.environ | {"VIRTBALLOON_CONFIG_FILE": str(configuration)}
        command = [str(COMMAND), "export", "--listen", "127.0.0.1:0"]
        with subprocess.Popen(
            command, env=environment, stderr=subprocess.PIPE, text=True
        ) as exporter:
            try:
                assert exporter.stderr is not None
                address = exporter.stderr.readline().split()[-1]
                picture = _scraped(address, guests)
            finally:
                exporter.terminate()
    (HERE / "dashboard.svg").write_text(picture, encoding="utf-8")


def _scraped(address: str, guests: dict[str, Guest]) -> str:
    job = {"job_name": "virtballoon", "static_configs": [{"targets": [address]}]}
    job |= {"scrape_interval": "1s", "scrape_timeout": "1s"}
    with Prometheus({"scrape_configs": [job]}) as prometheus:
        started = time.time()
        for number, (web1, build1) in enumerate(HOGS):
            guests["web1"].hog(web1)
            guests["build1"].hog(build1)
            due = started + (number + 1) * STEP_SECONDS
            # Until Prometheus has scraped it.
            last = f"timestamp(virtballoon_up) > {due}"
            wait_until(lambda last=last: prometheus.query(last), 60, "newer figures")
        dashboard = json.loads(DASHBOARD.read_text())
        return drawn(dashboard, Source(prometheus, started, time.time()))


class Source:
    """Queries Prometheus like Grafana."""

    def __init__(self, prometheus: Prometheus, start: float, end: float) -> None:
        self.prometheus, self.start, self.end = prometheus, start, end

    def lines(self, panel: dict[str, Any]) -> Iterator[Line]:
        """The series of all queries of a panel."""
        for target in panel["targets"]:
            asked = target["expr"].replace("$__rate_interval", "10s")
            query = re.sub(r"\$\w+", ".*", asked)
            span = {"start": f"{self.start}", "end": f"{self.end}", "step": "1"}
            for series in self.prometheus.api("query_range", query=query, **span)["result"]:
                labels = series["metric"]
                legend = target["legendFormat"]
                name = re.sub(r"\{\{(\w+)\}\}", lambda m, has=labels: has.get(m[1], ""), legend)
                points = [(float(at), float(value)) for at, value in series["values"]]
                yield Line(name, labels, points)


def drawn(dashboard: dict[str, Any], source: Source) -> str:
    """A dashboard as SVG, each panel at its place."""
    shapes: list[str] = []
    bottom = 0
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        x, y = place["x"] * COLUMN + MARGIN, place["y"] * ROW + MARGIN
        width, height = place["w"] * COLUMN - 2 * MARGIN, place["h"] * ROW - 2 * MARGIN
        bottom = max(bottom, (place["y"] + place["h"]) * ROW)
        lines = list(source.lines(panel))
        content = DRAWERS[panel["type"]](panel, lines, width, height)
        shapes += [
            f'<g transform="translate({x},{y})">',
            f'<rect width="{width}" height="{height}" rx="3" fill="{PANEL}"/>',
            _text(10, 19, panel["title"], weight="bold"),
            *content,
            "</g>",
        ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {24 * COLUMN} {bottom}" '
        'font-family="Inter, Helvetica, Arial, DejaVu Sans, sans-serif" font-size="12">\n'
        f'<rect width="100%" height="100%" fill="{GROUND}"/>\n' + "\n".join(shapes) + "\n</svg>\n"
    )


def _stat(_panel: dict[str, Any], lines: list[Line], width: int, height: int) -> Iterator[str]:
    for index, line in enumerate(lines):
        x = width * (2 * index + 1) / (2 * len(lines))
        yield _text(x, height / 2 + 22, f"{line.points[-1][1]:g}", size=34, fill=COLOURS[0])
        yield _text(x, height - 14, line.name, fill=FAINT, anchor="middle")


def _bars(_panel: dict[str, Any], lines: list[Line], width: int, height: int) -> Iterator[str]:
    rows = sorted((line for line in lines if line.points[-1][1]), key=lambda one: one.name)
    most = max(line.points[-1][1] for line in rows)
    space = (height - 36) / len(rows)
    for index, line in enumerate(rows):
        y, value = 30 + index * space, line.points[-1][1]
        long = (width - 150) * value / most
        colour = (
            COLOURS[0] if line.name in {"fresh", "suspended", "incoming", "shutoff"} else COLOURS[1]
        )
        yield _text(92, y + space / 2 + 4, line.name, anchor="end")
        yield f'<rect x="100" y="{y + 2:.1f}" width="{long:.1f}" height="{space - 4:.1f}" '
        yield f'fill="{colour}"/>'
        yield _text(108 + long, y + space / 2 + 4, f"{value:g}")


def _table(_panel: dict[str, Any], lines: list[Line], width: int, height: int) -> Iterator[str]:
    now = max(line.points[-1][0] for line in lines)
    columns = ("domain", "host", "verdict")
    for index, name in enumerate(columns):
        yield _text(10 + index * width / 3, 40, name, fill=COLOURS[5])
    rows = [line.labels for line in lines if line.points[-1][0] == now]
    for row, labels in enumerate(rows[: (height - 48) // 18]):
        for index, name in enumerate(columns):
            yield _text(10 + index * width / 3, 60 + row * 18, labels.get(name, ""))


def _curves(panel: dict[str, Any], lines: list[Line], width: int, height: int) -> Iterator[str]:
    unit = panel["fieldConfig"]["defaults"].get("unit", "")
    values = [value for line in lines for _, value in line.points]
    times = [at for line in lines for at, _ in line.points]
    low, high = min(0.0, *values), max(values) * 1.05 or 1.0
    left, right, top, bottom = 66, width - 12, 32, height - 42
    start, end = min(times), max(times)

    def down(value: float) -> float:
        return bottom - (value - low) / (high - low) * (bottom - top)

    def along(at: float) -> float:
        return left + (at - start) / (end - start) * (right - left)

    for step in range(4):
        value = low + (high - low) * step / 3
        y = down(value)
        yield f'<path d="M{left} {y:.1f}H{right}" stroke="#2c2f36"/>'
        yield _text(left - 6, y + 4, _amount(value, unit), fill=FAINT, anchor="end", size=10)
    for step in range(5):
        at = start + (end - start) * step / 4
        clock = time.strftime("%H:%M:%S", time.gmtime(at))
        anchor = "end" if at == end else "middle"
        yield _text(along(at), bottom + 14, clock, fill=FAINT, anchor=anchor, size=10)
    x = 10.0
    for index, line in enumerate(lines[:MOST_NAMES]):
        colour = COLOURS[index % len(COLOURS)]
        pairs = " ".join(f"{along(at):.1f},{down(value):.1f}" for at, value in line.points)
        yield f'<polyline points="{pairs}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
        name = line.name.replace(" on hv1", "")
        if x + 6.2 * len(name) < width - 20:
            yield f'<rect x="{x}" y="{height - 15}" width="10" height="3" fill="{colour}"/>'
            yield _text(x + 14, height - 10, name, size=10)
        x += 24 + 5.8 * len(name)


#: How each type of panel is drawn.
DRAWERS = {"stat": _stat, "bargauge": _bars, "table": _table, "timeseries": _curves}


def _amount(value: float, unit: str) -> str:
    if unit == "percentunit":
        return f"{value:.0%}"
    if unit in {"bytes", "binBps"}:
        for name in ("B", "KiB", "MiB", "GiB"):
            if abs(value) < 1024 or name == "GiB":
                return f"{value:.0f} {name}" + "/s" * (unit == "binBps")
            value /= 1024
    return f"{value:.2g}" + {"s": " s", "ops": "/s"}.get(unit, "")


def _text(
    x: float,
    y: float,
    text: str,
    *,
    size: int = 12,
    fill: str = INK,
    anchor: str = "",
    weight: str = "normal",
) -> str:
    anchor = anchor or ("middle" if size > 20 else "start")
    look = f'font-size="{size}" fill="{fill}" text-anchor="{anchor}" font-weight="{weight}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {look}>{escape(text)}</text>'


if __name__ == "__main__":
    main()
