#!/usr/bin/env python3
"""Draws watch.svg next to this file: the live view of a private hypervisor, in a real terminal.

Run it with a Python that has virtballoon and its test dependencies, after tests/lab/setup tmux:

    .cache/newest/bin/python examples/pictures/watch.py
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

from rich.ansi import AnsiDecoder
from rich.cells import cell_len
from rich.console import Console
from rich.style import Style
from rich.terminal_theme import MONOKAI

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

from tests.lab import GuestSpec, Hypervisor, Window, wait_until  # noqa: E402

COLUMNS, LINES = 100, 14
GUESTS = (
    GuestSpec("web1", period=1),
    GuestSpec("web2", period=1),
    GuestSpec("build1", period=1),
    GuestSpec("db1"),
    GuestSpec("mail", period=1),
    GuestSpec("appliance", period=2, driver=False),
    GuestSpec("legacy", model="none", paused=True),
)
CONFIGURATION = """
[hosts.hv1]
uri = "{uri}"
[hosts.hv2]
uri = "qemu+tcp://127.0.0.1:1/system"
"""
THEME = MONOKAI
#: A character's cell, and the size of the font, in the picture's own units.
WIDTH, HEIGHT, FONT = 9.6, 20, 16


def main() -> None:
    """Boot guests, let them use varying memory, and draw the screen."""
    with Hypervisor() as hypervisor:
        guests = hypervisor.boot(GUESTS)
        # The balloon takes part of the maximum.
        guests["mail"].domain.setMemory(96 * 1024)
        with Window(COLUMNS, LINES) as window:
            configuration = window.folder / "config.toml"
            configuration.write_text(CONFIGURATION.format(uri=hypervisor.uri))
            window.run(f"export VIRTBALLOON_CONFIG_FILE={configuration}; clear")
            window.run("virtballoon watch --every 1")
            window.wait_for("fresh")
            for web1, web2, build1 in ((5, 50, 10), (20, 40, 35), (30, 30, 50), (15, 20, 62)):
                guests["web1"].hog(web1)
                guests["web2"].hog(web2)
                guests["build1"].hog(build1)
                updates = _updates(guests["web1"].domain, 2)
                wait_until(updates, 60, "two updates")
            window.type("Down", "Down")
            window.wait_for("\N{BLACK RIGHT-POINTING SMALL TRIANGLE} ")
            screen = window.coloured
            window.type("q")
    (HERE / "watch.svg").write_text(_picture(screen.rstrip("\n").split("\n")), encoding="utf-8")


def _picture(lines: list[str]) -> str:
    """Lines with escape sequences as SVG, each word placed separately, for any font."""
    shapes: list[str] = []
    # Colours continue across lines.
    decoder = AnsiDecoder()
    for row, line in enumerate(lines):
        column = 0
        for segment in decoder.decode_line(line).render(Console()):
            shapes += _shapes(segment.text, segment.style or Style(), column, row)
            column += cell_len(segment.text)
    size = f"{COLUMNS * WIDTH + 20:g} {len(lines) * HEIGHT + 20:g}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-10 -10 {size}" font-size="{FONT}" '
        'font-family="DejaVu Sans Mono, Menlo, Consolas, monospace">\n'
        f'<rect x="-10" y="-10" width="100%" height="100%" rx="6" '
        f'fill="{THEME.background_color.hex}"/>\n' + "\n".join(shapes) + "\n</svg>\n"
    )


def _shapes(text: str, style: Style, column: int, row: int) -> Iterator[str]:
    ink, ground = (
        colour.get_truecolor(THEME) if colour is not None and not colour.is_default else default
        for colour, default in (
            (style.color, THEME.foreground_color),
            (style.bgcolor, THEME.background_color),
        )
    )
    if style.reverse:
        ink, ground = ground, ink
    if ground != THEME.background_color:
        box = f'x="{column * WIDTH:g}" y="{row * HEIGHT}" width="{cell_len(text) * WIDTH:g}"'
        yield f'<rect {box} height="{HEIGHT}" fill="{ground.hex}"/>'
    look = ' font-weight="bold"' if style.bold else ""
    look += ' opacity="0.6"' if style.dim else ""
    y = row * HEIGHT + FONT - 1
    for word in re.finditer(r"\S+", text):
        x = (column + cell_len(text[: word.start()])) * WIDTH
        width = cell_len(word[0]) * WIDTH
        place = f'x="{x:g}" y="{y}" textLength="{width:g}" lengthAdjust="spacingAndGlyphs"'
        yield f'<text {place} fill="{ink.hex}"{look}>{escape(word[0])}</text>'


def _updates(domain: object, number: int) -> object:
    """Whether this many updates have arrived since the first call."""
    seen = {domain.memoryStats().get("last_update")}  # type: ignore[attr-defined]

    def enough() -> bool:
        seen.add(domain.memoryStats().get("last_update"))  # type: ignore[attr-defined]
        return len(seen) > number

    return enough


if __name__ == "__main__":
    main()
