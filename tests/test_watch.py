"""The live view in a real terminal, on real guests, driven by keys."""

from __future__ import annotations

import re
import shlex
import sys
from contextlib import contextmanager
from signal import SIGHUP, SIGINT, SIGKILL, SIGQUIT, SIGSTOP, SIGTERM, Signals
from typing import TYPE_CHECKING

import pytest

from tests.conftest import POLLED, GuestFactory, available
from tests.lab import GuestSpec, Hypervisor, Window
from tests.running import run
from tests.unit.silence import SilentHost

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Those without a guest take longer than tests without a guest may.
pytestmark = [pytest.mark.guest, pytest.mark.once]

TEST = "test:///default"
DEAD = "qemu:///session?socket=/nonexistent/libvirt-sock"


def domains_of(window: Window) -> list[str]:
    """The names that are shown, in their order."""
    rows = (line for line in window.lines[2:] if re.match(r"[▸ ] [^\s:]+ ", line))
    return [line[2:].split()[0] for line in rows]


def watch(window: Window, *words: str) -> None:
    """Start it, and note how the terminal was before and is afterwards."""
    modes = f"stty -g >{window.folder}"
    command = shlex.join(["virtballoon", *words])
    window.run(f"ulimit -c 0; {modes}/before; {command}; echo status=$?; {modes}/after; echo done")
    window.wait_for("q quit")


def left(window: Window) -> int:
    """Its exit status, once it has given the terminal back as it was."""
    window.wait_for(lambda: "done" in window.lines, "it to end")
    before, after = ((window.folder / name).read_text() for name in ("before", "after"))
    assert before == after
    assert window.is_usual
    assert "q quit" not in window.text
    (status,) = (line for line in window.lines if line.startswith("status="))
    return int(status.removeprefix("status="))


@pytest.fixture
def window() -> Iterator[Window]:
    with available(_opened()) as window:
        yield window


@contextmanager
def _opened() -> Iterator[Window]:
    with Window() as window:
        yield window


def test_keys_on_real_guests(fresh: Hypervisor, window: Window) -> None:
    watch(window, "-c", fresh.uri, "watch", "--every", "0.5")
    window.wait_for("fresh")
    title, heading, host, *_ = window.lines
    assert "by need" in title
    assert "source: libvirt" in title
    assert heading.split()[0] == "DOMAIN"
    assert ": ok, " in host
    assert set(domains_of(window)[:4]) == set(POLLED), "whose figures can be trusted come first"
    window.wait_for(lambda: re.search(r"classic .*\[█[█▓░]*·* *\] +[▁▂▃▄▅▆▇█]{2,} ", window.text))

    window.type("s", "s")
    window.wait_for("by name")
    names = domains_of(window)
    assert names == sorted(names)
    assert "suspended" in names
    assert "off" not in names, "it does not run"

    window.type("/", *"MODE")
    window.wait_for("filter: MODE")
    window.wait_for(lambda: domains_of(window) == ["modern"], "the filter")
    window.type("Enter", "Down", "Enter")
    window.wait_for("modern on ")
    for fact in (
        "virtio-non-transitional balloon0",
        "  live 2 s, config 2 s, saved -, QEMU -",
        "minor_faults",
    ):
        assert fact in window.text
    window.type("u")
    window.wait_for(lambda: re.search(r"total_memory +\d{8,}", window.text), "bytes")
    window.type("q", "Escape", "u", "!")
    window.wait_for("not well")
    assert set(domains_of(window)) >= {"unpolled", "nodriver"}
    assert not set(POLLED) & set(domains_of(window))
    window.type("/", *"unpolled", "Enter", "Home", "Down", "Enter", "d")
    window.wait_for("doctor, ")
    assert re.search(r"^remedy +virtballoon ", window.text, re.MULTILINE)
    window.type("q", "Escape", "!", "?")
    window.wait_for("select the line above")
    window.type("q", "Space")
    window.wait_for("PAUSED")
    window.type("Space", "q")
    assert left(window) == 0


def test_windows_of_any_size(fresh: Hypervisor, window: Window) -> None:
    watch(window, "-c", fresh.uri, "-c", DEAD, "watch", "--sort", "name", "--every", "0.5")
    window.wait_for(
        lambda: "classic" in window.text and ": unreachable, " in window.text, "both hosts"
    )
    window.resize(200, 50)
    window.wait_for(lambda: "MAXIMUM" in window.lines[1], "the wide heading")
    assert [len(line) for line in window.lines if "classic" in line] > [150]
    assert " (is libvirtd running there, and is the URI right?)" in window.text
    window.resize(24, 6)
    window.wait_for(lambda: "aliased" in window.text, "a narrow list")
    assert "MEMORY" not in window.text
    window.type("End", "Enter")
    window.wait_for("socket=/n…")
    window.resize(1, 1)
    window.type("q", "?", "End", "Home", "q")
    window.resize(80, 24)
    # All that the smaller windows had drawn is gone.
    window.wait_for(lambda: window.text.count("q quit") == 1 and "q quit" in window.lines[23])
    assert window.text.count("virtballoon · ") == 1
    window.type("q")
    # As the last readings were.
    assert left(window) == 3
    assert "virtballoon: on qemu:///session?socket=/nonexistent" in window.text


def test_hosts_and_guests_come_and_go(
    hypervisor: Hypervisor, window: Window, guest_factory: GuestFactory
) -> None:
    (name,) = hypervisor.create_blank(1, prefix="passing-")
    domain = hypervisor.connection.lookupByName(name)
    watch(window, "-c", hypervisor.uri, "watch", "--every", "0.3", "passing-*", "later")
    window.wait_for(lambda: domains_of(window) == [name], "the guest")
    domain.destroy()
    window.wait_for(lambda: domains_of(window) == [], "it to go")
    guest_factory(GuestSpec("later", period=1))
    window.wait_for(lambda: re.search("later .* fresh", window.text), "another one")

    hypervisor.stop_daemon()
    window.wait_for(": unreachable, ")
    window.type("s")
    window.wait_for("by use")
    hypervisor.start_daemon()
    window.wait_for(lambda: re.search("later .* fresh", window.text), "the host to come back")
    # What was before the daemon went, the gap, and what is now.
    window.wait_for(lambda: re.search("later .*[▁-█]·[▁-█]", window.text), "its history")

    window.wait_for("no domain matches 'passing-*'")
    window.type("q")
    assert left(window) == 3


def test_reacts_while_a_guest_hangs_and_a_host_is_silent(
    fresh: Hypervisor, guest_factory: GuestFactory, window: Window, tmp_path: Path
) -> None:
    hung = guest_factory(GuestSpec("hung", period=2, driver=False))
    hung.stop_process()
    with SilentHost(tmp_path / "socket") as silent:
        words = ("-c", silent.uri, "-c", hung.hypervisor.uri, "-c", TEST)
        watch(window, *words, "--timeout", "600", "watch", "--every", "0.2")
        window.wait_for(lambda: "test" in domains_of(window), "the other host")
        window.wait_for(lambda: "classic" in domains_of(window), "the domain next to the hung one")
        window.wait_for(lambda: re.search("hung .* busy", window.text), "the hung domain")
        assert window.text.count("not read yet") == 1
        # The others are read repeatedly all the same.
        window.wait_for(lambda: re.search("classic .*[▁-█]{4,} ", window.text), "four updates")
        window.type("?")
        window.wait_for("select the line above")
        window.type("q", "q")
        assert left(window) == 3
    hung.cont_process()


@pytest.mark.parametrize(
    ("number", "status"),
    [(SIGINT, 130), (SIGTERM, 143), (SIGHUP, 129), (SIGQUIT, 131), (SIGKILL, None)],
)
def test_signal_restores_the_terminal(window: Window, number: Signals, status: int | None) -> None:
    watch(window, "-c", TEST, "watch")
    window.wait_for("polling-off")
    assert not window.is_usual
    if status is None:
        # Nothing can restore it then, which shows that the other cases test something.
        window.signal(number)
        window.wait_for(lambda: "status=137" in window.text, "it to end")
        assert not window.is_usual
        return
    if number is SIGINT:
        window.type("C-c")
    else:
        window.signal(number)
    assert left(window) == status
    said = {SIGINT: "interrupted", SIGTERM: "terminated", SIGHUP: "hung up"}.get(number)
    assert said is None or f"virtballoon: {said}" in window.lines


def test_crash_restores_the_terminal(window: Window) -> None:
    # An error that is not in the code.
    program = window.folder / "program.py"
    program.write_text(
        "from virtballoon.watch import view\n"
        "view.View.press = lambda self, key: 1 / 0\n"
        "from virtballoon.__main__ import main\n"
        "main()\n"
    )
    modes = f"stty -g >{window.folder}"
    command = shlex.join([sys.executable, str(program), "-c", TEST, "watch"])
    window.run(f"{modes}/before; {command}; echo status=$?; {modes}/after; echo done")
    window.wait_for("polling-off")
    window.type("s")
    assert left(window) == 1
    assert "internal error: ZeroDivisionError" in window.text


def test_stopped_and_continued(window: Window) -> None:
    window.run(f"virtballoon -c {TEST} watch")
    window.wait_for("polling-off")
    window.type("C-z")
    window.wait_for(lambda: window.is_usual and "q quit" not in window.text, "it to stop")
    window.run("fg")
    window.wait_for("polling-off")
    assert not window.is_usual
    # Stopped without warning, it restores nothing, but redraws everything afterwards.
    window.signal(SIGSTOP)
    window.wait_for(lambda: window.has_prompt, "it to stop")
    window.run("clear; fg")
    window.wait_for("q quit")
    window.type("q")
    window.wait_for(lambda: window.is_usual, "it to end")


def test_no_colours(window: Window) -> None:
    watch(window, "-c", TEST, "watch")
    window.wait_for("polling-off")
    assert re.search(r"\x1b\[[\d;]*3[1-7]", window.coloured)
    window.type("q")
    assert left(window) == 0
    window.run("clear; export NO_COLOR=1")
    watch(window, "-c", TEST, "watch")
    window.wait_for("polling-off")
    window.type("Down")
    window.wait_for("\u25b8 test")
    assert not re.search(r"\x1b\[[\d;]*3[1-7]", window.coloured)


def test_one_frame(fresh: Hypervisor) -> None:
    result = run(fresh, "watch", "--once", "--sort", "name", "classic", "modern", COLUMNS="70")
    assert (result.returncode, result.stderr) == (0, "")
    heading, host, *rows = result.stdout.splitlines()
    assert heading.split() == ["DOMAIN", "USED%", "USED", "MEMORY", "AGE", "VERDICT"]
    assert ": ok, 2 domains, read 0 s ago" in host
    assert [row.split()[0] for row in rows] == ["classic", "modern"]
    assert all(len(line) <= 70 and "\x1b" not in line for line in result.stdout.splitlines())
    usual = run(fresh, "-c", DEAD, "-c", fresh.uri, "watch", "--once", "classic", "nobody")
    assert usual.returncode == 3
    assert max(map(len, usual.stdout.splitlines())) == 80
    assert "unreachable" in usual.stdout
    assert usual.stderr.count("virtballoon: ") == 2
    assert run(fresh, "-c", DEAD, "watch", "--once").returncode == 1
    quiet = run(fresh, "watch", "--once", "--quiet", "classic", "modern")
    assert (quiet.returncode, quiet.stdout) == (0, "")


def test_without_a_screen(window: Window) -> None:
    cases = (
        (f"TERM=dumb virtballoon -c {TEST} watch", "cannot"),
        (f"virtballoon -c {TEST} -v watch", "2>FILE"),
        (f"virtballoon -c {TEST} watch --log stderr", "2>FILE"),
        (f"virtballoon -c {TEST} watch </dev/null", "--once"),
    )
    for number, (line, complaint) in enumerate(cases):
        window.run(f"clear; {line}; echo status{number}=$?")
        window.wait_for(f"status{number}=2")
        assert complaint in window.text.replace("\n", "")
        assert window.is_usual
    # Elsewhere it is welcome.
    errors = window.folder / "errors"
    window.run(f"clear; virtballoon -c {TEST} -v watch 2>{errors}")
    window.wait_for("polling-off")
    window.type("q")
    window.wait_for(lambda: window.is_usual, "it to end")
    assert "openAuth(read-only)" in errors.read_text()
