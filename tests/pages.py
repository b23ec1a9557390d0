"""The manual pages, as tests read them."""

from __future__ import annotations

import os
import re
import shutil
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import pytest
from docutils import nodes

from man import build
from virtballoon.cli import cli

if TYPE_CHECKING:
    from collections.abc import Iterator


MAN: Final = Path(__file__).parent.parent / "man"
#: Pages about something else than a command.
OTHER_PAGES: Final = ("virtballoon.3", "virtballoon-stats.7")


def contexts(
    command: click.Command = cli, name: str = "virtballoon", parent: click.Context | None = None
) -> Iterator[tuple[str, click.Context]]:
    """Every command with the name of its page."""
    settings: dict[str, Any] = dict(command.context_settings)
    context = click.Context(command, parent=parent, **settings)
    yield name, context
    if isinstance(command, click.Group):
        for word in command.list_commands(context):
            subcommand = command.get_command(context, word)
            assert subcommand is not None
            yield from contexts(subcommand, f"{name}-{word}", context)


COMMANDS: Final = dict(contexts())
PAGES: Final = (*(f"{name}.1" for name in COMMANDS), *OTHER_PAGES)


@cache
def sections(name: str) -> dict[str, nodes.section]:
    """The sections of a page by their titles; a command's page is meant by its name alone."""
    tree = build.parse(MAN / f"{name if name in OTHER_PAGES else f'{name}.1'}.rst")
    found = [child for child in tree.children if isinstance(child, nodes.section)]
    titles = [section[0].astext() for section in found]
    assert len(set(titles)) == len(titles)
    return dict(zip(titles, found, strict=True))


def terms(section: nodes.Element) -> list[tuple[str, str]]:
    """What the definition lists of a section describe, and how."""
    return [
        (item[0].astext(), item[-1].astext())
        for item in section.findall(nodes.definition_list_item)
    ]


def tags(section: nodes.Element) -> list[str]:
    """What the definition lists of a section describe."""
    return [term for term, _ in terms(section)]


def blocks(section: nodes.Element) -> list[str]:
    """The literal blocks of a section."""
    return [f"{block.astext()}\n" for block in section.findall(nodes.literal_block)]


def words(text: str) -> set[str]:
    return set(re.findall(r"[\w.-]*\w", text))


def tool(name: str) -> str:
    """The path of a program; without it the test is skipped, and fails where CI runs it."""
    path = shutil.which(name)
    if path is None:
        reason = f"{name} is not installed"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return path


def stats_table(section: str) -> list[dict[str, str]]:
    """The table of a section of virtballoon-stats(7)."""
    (block,) = blocks(sections("virtballoon-stats.7")[section])
    heading, *lines = (line.split() for line in block.splitlines())
    return [dict(zip(heading, line, strict=True)) for line in lines]
