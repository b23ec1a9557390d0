"""Which libraries the run is with: tests/run names the stack that it means."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import pytest

from tests.conftest import STACK

LIBRARIES = ("click", "libvirt", "lxml", "prometheus_client", "rich")


def homes() -> dict[str, Path]:
    """Where each library is."""
    modules = {name: __import__(name) for name in LIBRARIES}
    return {name: Path(str(module.__file__)) for name, module in modules.items()}


@pytest.mark.skipif(STACK in {None, "newest"}, reason="only in runs of tests/run with these")
def test_the_distributions_libraries_are_the_distributions() -> None:
    for name, home in homes().items():
        assert home.is_relative_to("/usr/lib/python3/dist-packages"), name


@pytest.mark.skipif(STACK != "newest", reason="only in runs of tests/run with these")
def test_the_newest_libraries_are_the_environments_own() -> None:
    for name, home in homes().items():
        assert home.is_relative_to(sys.prefix), name


def test_the_installed_package_is_this_one() -> None:
    # The command that tests run is the installed one; what they import is the checkout's.
    import virtballoon

    assert importlib.metadata.version("virtballoon") == virtballoon.__version__
    checkout = Path(__file__).parent.parent / "virtballoon"
    for file in importlib.metadata.files("virtballoon") or []:
        if file.suffix == ".py" and file.parts[0] == "virtballoon":
            ours = checkout.parent / file
            assert Path(str(file.locate())).read_bytes() == ours.read_bytes(), "install it again"
