"""Text with colours for the live view."""

from __future__ import annotations

from typing import TextIO

from rich.console import Console
from rich.text import Text

from virtballoon.render.table import STYLES
from virtballoon.render.text import is_coloured, terminal_width


def verdict_text(word: str) -> Text:
    """A verdict, or another word that has a colour."""
    return Text(word, style=STYLES.get(word, ""))


def aligned(cell: Text, width: int, *, flush_right: bool = False) -> Text:
    """The cell, cut or filled to this width."""
    fitted = cell.copy()
    fitted.truncate(width, overflow="ellipsis")
    padding = width - fitted.cell_len
    if flush_right:
        fitted.pad_left(padding)
    else:
        fitted.pad_right(padding)
    return fitted


def console(stream: TextIO) -> Console:
    """What prints on this stream: with colours only on a terminal, and never with markup."""
    return Console(
        file=stream,
        width=terminal_width(stream),
        force_terminal=stream.isatty(),
        color_system="auto" if is_coloured(stream) else None,
        markup=False,
        emoji=False,
        highlight=False,
    )
