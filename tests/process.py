"""Runs programs."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def finished(words: Sequence[str | Path], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, with nothing to read on stdin, and return what it has printed."""
    options = {"stdin": subprocess.DEVNULL, "timeout": 300, "check": False} | options
    return subprocess.run(words, capture_output=True, text=True, **options)  # noqa: PLW1510
