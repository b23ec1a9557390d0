"""The library as its manual page and the README show it: their examples run, on real guests, and
they and a whole caller are typed, against the wheel as it is installed."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import pytest

import virtballoon
from tests.conftest import started
from tests.lab import Guest, GuestSpec, Hypervisor, wait_until
from tests.lab.kernel import CACHE, CHECKOUT
from tests.pages import OTHER_PAGES, PAGES, blocks, sections, tool, words
from tests.process import finished
from virtballoon import (
    Busy,
    HostStatus,
    Verdict,
    VirtballoonError,
)

PAGE: Final = "virtballoon.3"
CALLERS: Final = CACHE / "caller" / os.environ.get("VIRTBALLOON_STACK", "newest")
CALLER: Final = Path(__file__).with_name("caller.py")


def readme() -> list[str]:
    """The README's programs."""
    text = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


EXAMPLES: Final = {
    **{
        f"{PAGE}-{n}": code
        for n, code in enumerate(
            code for title in ("SYNOPSIS", "EXAMPLES") for code in blocks(sections(PAGE)[title])
        )
    },
    **{f"README-{n}": code for n, code in enumerate(readme())},
}


# What the page names.


def test_every_public_name_is_in_the_page() -> None:
    text = "\n".join(section.astext() for section in sections(PAGE).values())
    assert set(virtballoon.__all__) <= words(text)


def test_the_page_has_the_tree_of_errors() -> None:
    found: dict[str, str] = {}
    parents: list[str] = []
    (block,) = blocks(sections(PAGE)["ERRORS"])
    for line in block.splitlines():
        depth, name = (len(line) - len(line.lstrip())) // 4, line.split()[0]
        parents[depth:] = [name]
        found[name] = parents[depth - 1] if depth else "Exception"
    errors = [getattr(virtballoon, name) for name in virtballoon.__all__]
    errors = [e for e in errors if isinstance(e, type) and issubclass(e, VirtballoonError)]
    assert found == {error.__name__: error.__base__.__name__ for error in errors}


# What the examples do.


@pytest.fixture(scope="module")
def alone() -> Iterator[Hypervisor]:
    """A hypervisor of these tests alone, since the examples set every guest's interval."""
    with started() as hypervisor:
        yield hypervisor


@pytest.fixture(scope="module")
def booted(alone: Hypervisor) -> dict[str, Guest]:
    """Its guests."""
    return alone.boot([GuestSpec("web1", period=1), GuestSpec("db1", paused=True)])


@pytest.fixture
def web1(alone: Hypervisor, booted: dict[str, Guest]) -> Hypervisor:
    """The hypervisor once a guest has given figures."""
    domain = booted["web1"].domain
    wait_until(
        lambda: virtballoon.read_domain(domain).verdict is Verdict.FRESH, 60, "figures of web1"
    )
    return alone


def run(code: str, hypervisor: Hypervisor, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program in a Python of its own, whose default host is this one."""
    configuration = folder / "config.toml"
    # Two names for one host are two hosts to whoever reads them.
    configuration.write_text(
        f'[hosts.hv1]\nuri = "{hypervisor.uri}"\ngroups = ["prod"]\n'
        '[hosts.hv2]\nuri = "qemu:///session?socket=/no/such/sock"\ngroups = ["prod"]\n',
        encoding="utf-8",
    )
    return subprocess.run(
        # What a reader would put into a file.
        [sys.executable, "-W", "error", "-c", code.replace("qemu:///system", hypervisor.uri)],
        cwd=folder,
        env={
            "PATH": os.environ["PATH"],
            "LIBVIRT_DEFAULT_URI": hypervisor.uri,
            "VIRTBALLOON_CONFIG_FILE": str(configuration),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(name: str, web1: Hypervisor, tmp_path: Path) -> None:
    result = run(EXAMPLES[name], web1, tmp_path)
    # libvirt itself prints errors, unless the program has a handler for them.
    ours = re.sub("^libvirt: .*\n", "", result.stderr, flags=re.MULTILINE)
    assert (result.returncode, ours) == (0, "")
    expected = {
        "SYNOPSIS": r"db1 suspended \S+\nweb1 fresh \d\.\d+\n",
        "FRESH": r"'db1': suspended\n(?:'web1': \d+%\n)?",
        "@prod": r"(?s)(?=.*^\S+: 2 domains$)(?=.*/no/such/sock).*",
        "domain.usage.used_bytes": r"db1 suspended \S+ \S+\nweb1 fresh \d\.\d+ \d+\n",
    }
    key = (
        "SYNOPSIS"
        if name == f"{PAGE}-0"
        else next(key for key in expected if key in EXAMPLES[name])
    )
    assert re.fullmatch(expected[key], result.stdout, re.MULTILINE), result.stdout


def test_several_threads_read_on_one_connection(web1: Hypervisor) -> None:
    connection = web1.conn()
    try:
        with ThreadPoolExecutor(4) as pool:
            hosts = list(pool.map(lambda _: virtballoon.read_host(connection), range(12)))
    finally:
        connection.close()
    for host in hosts:
        assert host.error is None
        assert [(row.name, row.error) for row in host.domains] == [("db1", None), ("web1", None)]


def test_a_guest_that_hangs_leaves_one_thread_behind(
    web1: Hypervisor, booted: dict[str, Guest]
) -> None:
    def left() -> list[threading.Thread]:
        return [t for t in threading.enumerate() if t.name == "virtballoon-call"]

    wait_until(lambda: not left(), 60, "the threads of earlier calls to end")
    db1 = booted["db1"]
    connection = web1.conn()
    try:
        calm = virtballoon.read_host(connection, timeout=120)
        assert calm.status is HostStatus.OK
        # Time enough for what answers, however busy the machine is.
        timeout = 3 + 20 * calm.elapsed_seconds
        db1.stop_process()
        for _ in range(2):
            rows = virtballoon.read_host(connection, timeout=timeout).domains
            errors = {row.name: row.error and type(row.error) for row in rows}
            assert errors == {"db1": Busy, "web1": None}
        # The others had an answer, and end as soon as they are told; one that waits behind the
        # first for the guest would be sent away by libvirt after 30 s.
        wait_until(lambda: len(left()) == 1, 15, "no thread but that of the guest that hangs")
    finally:
        db1.cont_process()
    wait_until(lambda: not left(), 60, "the thread to end with its call")
    connection.close()


# What is installed.


def needs(module: str) -> None:
    """Skip what needs a module that is not there; where everything should be, fail."""
    if importlib.util.find_spec(module) is None:
        newest = os.environ.get("VIRTBALLOON_STACK", "newest") == "newest"
        fails = os.environ.get("CI") == "true" and newest
        (pytest.fail if fails else pytest.skip)(f"no {module} in this environment")


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution."""
    return built("sdist", CHECKOUT, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def unpacked(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution's files."""
    folder = tmp_path_factory.mktemp("unpacked")
    quietly("tar", "-xf", sdist, "-C", folder)
    (directory,) = folder.iterdir()
    return directory


@pytest.fixture(scope="module")
def wheel(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source distribution."""
    return built("wheel", unpacked, tmp_path_factory.mktemp("wheel"))


def built(target: str, source: Path, folder: Path, umask: int = 0o022) -> Path:
    """Build a distribution from a directory."""
    needs("hatchling")
    words = (sys.executable, "-m", "hatchling", "build", "-t", target, "-d", folder)
    quietly(*words, cwd=source, umask=umask)
    (distribution,) = folder.iterdir()
    return distribution


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """An environment with nothing but the wheel: one for each stack, always at the same place, so
    that mypy knows again what it has seen."""
    environment = CALLERS / "environment"
    quietly(sys.executable, "-m", "venv", "--clear", "--without-pip", environment)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    quietly(*pip, "--python", environment, "install", "--no-deps", "--no-index", wheel)
    return environment


def quietly(*command: str | Path, **options: Any) -> None:
    """Run a program, whose output counts only where it fails."""
    result = finished(command, **{"cwd": CHECKOUT} | options)
    assert result.returncode == 0, result.stdout + result.stderr


def files(directory: Path) -> set[str]:
    """The paths of a directory's files."""
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


@pytest.mark.once
@pytest.mark.skipif(not (CHECKOUT / ".git").exists(), reason="not in a git checkout")
def test_the_source_distribution_is_the_checkout(unpacked: Path) -> None:
    # In a container the checkout can be another user's.
    git = ["git", "-c", "safe.directory=*", "ls-files", "-co", "--exclude-standard"]
    listed = finished(git, cwd=CHECKOUT, check=True).stdout.splitlines()
    present = {name for name in listed if (CHECKOUT / name).exists()}
    assert files(unpacked) == present | {"PKG-INFO"}


@pytest.mark.once
def test_the_wheel_is_the_package(installed: Path) -> None:
    (package,) = installed.glob("lib/python*/site-packages/virtballoon")
    expected = {name for name in files(CHECKOUT / "virtballoon") if "__pycache__" not in name}
    assert expected > {"__init__.pyi", "py.typed", "schema.json"}
    assert {name for name in files(package) if "__pycache__" not in name} == expected
    (information,) = package.parent.glob("*.dist-info")
    assert (information / "licenses/LICENSE").exists()


@pytest.mark.once
def test_a_second_build_gives_the_same_bytes(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    for first, target in ((sdist, "sdist"), (wheel, "wheel")):
        second = built(target, CHECKOUT, tmp_path / target, umask=0o077)
        assert second.read_bytes() == first.read_bytes()


def test_the_wheel_has_every_page_where_man_looks(installed: Path) -> None:
    reader = tool("man" if shutil.which("man") else "mman")
    share = installed / "share" / "man"
    assert files(share) == {f"man{page[-1]}/{page}" for page in PAGES}
    for page in OTHER_PAGES:
        name, _, section = page.rpartition(".")
        command = [reader, "-M", str(share), "-w", section, name]
        result = finished(command)
        assert result.stdout.strip() == str(share / f"man{section}" / page)


def test_a_caller_is_typed(installed: Path, tmp_path: Path) -> None:
    needs("mypy")
    for name, code in EXAMPLES.items():
        (tmp_path / f"example_{name.replace('.', '_').replace('-', '_')}.py").write_text(code)
    (tmp_path / "caller.py").write_bytes(CALLER.read_bytes())
    # Only libvirt's own binding, which has no types, is passed over.
    (tmp_path / "mypy.ini").write_text("[mypy]\n[mypy-libvirt]\nignore_missing_imports = True\n")
    command: list[str | Path] = [
        *(sys.executable, "-m", "mypy", "--strict", "--config-file", "mypy.ini"),
        *("--python-executable", installed / "bin" / "python"),
        *("--cache-dir", CALLERS / "types"),
        *sorted(path.name for path in tmp_path.glob("*.py")),
    ]
    # Not from the checkout, where the package itself would be found.
    result = finished(command, cwd=tmp_path)
    assert result.stdout == f"Success: no issues found in {len(EXAMPLES) + 1} source files\n"
