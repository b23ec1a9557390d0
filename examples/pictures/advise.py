#!/usr/bin/env python3
"""Draws advise.png next to this file: the report of advise about domains whose use is made up.

Run it with a Python that has virtballoon, on a system with chromium or chromium-headless-shell:

    .cache/newest/bin/python examples/pictures/advise.py
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent))

from tests.unit.sizing_histories import NOW, fleet  # noqa: E402
from virtballoon import advise  # noqa: E402
from virtballoon.render.advice_html import page  # noqa: E402

SIZE = "1100,760"
BROWSERS = ("chromium-headless-shell", "chromium", "google-chrome")


def main() -> None:
    """Write the page, and let a browser draw it."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit(f"none of these is installed: {', '.join(BROWSERS)}")
    rows = [advise(history, now=NOW) for history in sorted(fleet(), key=lambda of: of.name)]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.html")
        report.write_text(page(rows, generated_at=NOW), encoding="utf-8")
        subprocess.run(
            [
                *(browser, "--headless", "--no-sandbox", "--hide-scrollbars"),
                *(f"--window-size={SIZE}", f"--screenshot={HERE / 'advise.png'}"),
                report.as_uri(),
            ],
            check=True,
        )


if __name__ == "__main__":
    main()
