"""Options whose value may be left out: ``--wait``, ``--wait 30``, ``--wait=30``."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import click

#: What stands for a value that was left out; it may be written, too.
AUTO: Final = "auto"

_NUMBER: Final = re.compile(r"[+-]?[0-9]*\.?[0-9]+(e[+-]?[0-9]+)?", re.ASCII | re.IGNORECASE)


def seconds_or_auto(
    _ctx: click.Context, _param: click.Parameter, value: str | None
) -> float | str | None:
    """Read the value of such an option: a number of seconds, ``AUTO``, or None for no option."""
    if value is None or value == AUTO:
        return value
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1
    if not (seconds >= 0 and math.isfinite(seconds)):
        raise click.BadParameter(f"it is a number of seconds, not {value!r}.")
    return seconds


def spelt_out(
    command: click.Command,
    ctx: click.Context,
    args: list[str],
    option: str,
    is_complete: Callable[[Mapping[str, Any]], bool],
) -> list[str]:
    """The arguments with a value for ``option`` wherever it has none.

    A number behind it is its value if the arguments are complete without that number, so that a
    number which has to be there for something else is taken for that.
    """
    done: list[str] = []
    rest = list(args)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return [*done, word, *rest]
        if word != option:
            done.append(word)
            continue
        if rest and _NUMBER.fullmatch(rest[0]):
            tried = [*done, f"{option}={rest[0]}", *rest[1:]]
            if is_complete(_parsed(command, ctx, tried)):
                done.append(f"{option}={rest.pop(0)}")
                continue
        done.append(f"{option}={AUTO}")
    return done


def _parsed(command: click.Command, ctx: click.Context, args: list[str]) -> Mapping[str, Any]:
    try:
        return command.make_parser(ctx).parse_args(args)[0]
    except click.UsageError:
        return {}
