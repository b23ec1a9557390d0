"""Keys as terminals send them. Taking and giving back a terminal is tested in tests/test_watch.py,
on a real one."""

from __future__ import annotations

import fcntl
import os
import pty
import sys
import termios
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.lab.waiting import wait_until
from tests.unit.command import LONG, fill
from virtballoon.watch import screen
from virtballoon.watch.screen import GONE, Terminal, keys_of


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"q?", ["q", "?"]),
        ("äß漢".encode(), ["ä", "ß", "漢"]),
        (b"\r\n\t\x7f\x08 \x0c", ["enter", "enter", *["backspace"] * 2, "space", "ctrl-l"]),
        (b"\x1b[A\x1b[B\x1bOC\x1bOD", ["up", "down", "right", "left"]),
        (b"\x1b[H\x1b[F\x1b[1~\x1b[4~\x1bOH", ["home", "end", "home", "end", "home"]),
        (b"\x1b[5~\x1b[6~\x02\x06", ["pgup", "pgdn", "pgup", "pgdn"]),
        (b"\x1b[1;5A\x1b[5;3~", ["up", "pgup"]),
        (b"\x1b", ["esc"]),
        (b"\x1b\x1b[A", ["esc", "up"]),
        (b"\x1bq\x1b/", ["esc", "q", "esc", "/"]),
        # Without a function here: a function key, a mouse, a control character.
        (b"\x1b[15~\x1bOP\x1b[<0;1;1M\x01q", ["q"]),
        (b"\xff\xfeq", ["q"]),
        (b"\x1b[A" * 3, ["up"] * 3),
    ],
)
def test_keys(sent: bytes, expected: list[str]) -> None:
    assert keys_of(sent)[: len(expected)] == expected


@given(st.binary(max_size=40))
def test_any_input_gives_names_and_printable_characters(sent: bytes) -> None:
    assert all(key.isprintable() and key for key in keys_of(sent))


def test_rest_of_a_key_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screen, "_ESCAPE_SECONDS", LONG)
    ours, theirs = pty.openpty()

    def unread() -> int:
        return int.from_bytes(fcntl.ioctl(theirs, termios.FIONREAD, b"\0" * 4), sys.byteorder)

    def send() -> None:
        for byte in "\x1b[1;5A漢q".encode():
            wait_until(lambda: not unread(), LONG, "the last byte to be read")
            os.write(ours, bytes([byte]))

    keys: list[str] = []
    try:
        with Terminal(theirs, theirs) as terminal:
            threading.Thread(target=send, daemon=True).start()
            while "q" not in keys:
                keys += terminal.events(LONG)
        assert keys == ["up", "漢", "q"]
    finally:
        os.close(theirs)
        os.close(ours)


def test_terminal_that_is_gone() -> None:
    ours, theirs = pty.openpty()
    try:
        with Terminal(theirs, theirs) as terminal:
            assert terminal.size == (80, 24), "a window that has no size"
            terminal.wake()
            terminal.wake()
            assert terminal.events(60) == []
            os.write(ours, b"\x1b[Aq")
            assert terminal.events(60) == ["up", "q"]
            os.close(ours)
            ours = -1
            assert terminal.events(60) == [GONE]
    finally:
        os.close(theirs)
        if ours >= 0:
            os.close(ours)


def test_restores_a_terminal_that_takes_no_output() -> None:
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    try:
        with Terminal(theirs, theirs) as terminal:
            fill(theirs)
            leaving = threading.Thread(target=terminal.leave, daemon=True)
            leaving.start()
            leaving.join(60)
            assert not leaving.is_alive()
        assert termios.tcgetattr(theirs) == before
        assert os.get_blocking(theirs), "others write there, too"
    finally:
        os.close(ours)
        os.close(theirs)


def test_draws_only_changed_lines() -> None:
    ours, theirs = pty.openpty()

    def drawn(ending: bytes) -> bytes:
        """All that is written up to this."""
        shown = b""
        while not shown.endswith(ending):
            shown += os.read(ours, 65536)
        return shown

    try:
        with Terminal(theirs, theirs) as terminal:
            terminal.draw([[(0, "one")], [(0, "two"), (10, "three")], []])
            drawn(b"\x1b[3;1H\x1b[2K")
            terminal.draw([[(0, "one")], [(0, "two"), (10, "four")], []])
            assert drawn(b"four") == b"\x1b[2;1H\x1b[2K\x1b[2;1Htwo\x1b[2;11Hfour"
            terminal.draw([[(0, "one")]])
            assert drawn(b"J") == b"\x1b[2;1H\x1b[J"
            terminal.redraw()
            terminal.draw([[(0, "one")]])
            assert drawn(b"one") == b"\x1b[2J\x1b[1;1H\x1b[2K\x1b[1;1Hone"
    finally:
        os.close(theirs)
        os.close(ours)
