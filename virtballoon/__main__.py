"""What the installed command runs, and ``python -m virtballoon``."""

from __future__ import annotations

import gc

from virtballoon.system.cleanup import end_on_signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def main() -> NoReturn:
    """Run the command line; signals count before the rest is imported, which takes a while."""
    end_on_signals()
    # What start-up creates stays: looking for garbage in it would take a twentieth of a list.
    gc.set_threshold(50_000)
    try:
        from virtballoon.cli import main as run
    except ImportError as error:
        from virtballoon.system.packages import fail_without

        fail_without(error)
    run()


if __name__ == "__main__":
    main()
