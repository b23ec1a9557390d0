"""Options whose value may be left out: which word is whose."""

from __future__ import annotations

import click
import pytest

from virtballoon.cli.set_interval import command as set_interval
from virtballoon.cli.stats import command as stats


def parsed(command: click.Command, line: str) -> dict[str, object]:
    # As the group gives it; click keeps the option for help that is asked for first.
    help_options = ["-h", "--help"]
    context = command.make_context(command.name, line.split(), help_option_names=help_options)
    return context.params


@pytest.mark.parametrize(
    ("line", "wait", "seconds", "domains"),
    [
        ("10 web1", None, 10, ["web1"]),
        ("10 web1 --wait", "auto", 10, ["web1"]),
        ("10 --wait web1", "auto", 10, ["web1"]),
        ("10 --wait=30 web1", 30.0, 10, ["web1"]),
        ("10 --wait 30 web1", 30.0, 10, ["web1"]),
        ("10 web1 --wait 30", 30.0, 10, ["web1"]),
        ("10 web1 --wait 2.5 web2", 2.5, 10, ["web1", "web2"]),
        ("--wait 30 10 web1", 30.0, 10, ["web1"]),
        ("--wait 30 -c test:///default 10 web1", 30.0, 10, ["web1"]),
        # A number that is needed as the interval is the interval.
        ("--wait 10 web1", "auto", 10, ["web1"]),
        ("--wait 10 --timeout 5 web1", "auto", 10, ["web1"]),
        ("--wait 10 --all", "auto", 10, []),
        ("--wait 30 10 --all", 30.0, 10, []),
        ("--wait=30 10 --all", 30.0, 10, []),
        ("--wait --live 10 web1", "auto", 10, ["web1"]),
        ("--wait=auto 10 web1", "auto", 10, ["web1"]),
        # Domains that are called like numbers or like the option.
        ("10 --wait -- 30", "auto", 10, ["30"]),
        ("10 30 --wait", "auto", 10, ["30"]),
        ("--wait 30 10 40", 30.0, 10, ["40"]),
        ("10 -- --wait", None, 10, ["--wait"]),
        ("10 --wait 30days", "auto", 10, ["30days"]),
    ],
)
def test_wait(line: str, wait: object, seconds: int, domains: list[str]) -> None:
    params = parsed(set_interval, line)
    found = (params["wait"], params["seconds"], list(params["domains"]))  # type: ignore[call-overload]
    assert found == (wait, seconds, domains)


@pytest.mark.parametrize("value", ["x", "-1", "nan", "inf", ""])
def test_no_time_to_wait(value: str) -> None:
    with pytest.raises(click.UsageError, match="number of seconds"):
        parsed(set_interval, f"10 --wait={value} web1")


@pytest.mark.parametrize(
    ("line", "fresh", "domains"),
    [
        ("web1", None, ["web1"]),
        ("--fresh web1", "auto", ["web1"]),
        ("web1 --fresh", "auto", ["web1"]),
        ("--fresh 30 web1", 30.0, ["web1"]),
        ("web1 --fresh 0", 0.0, ["web1"]),
        ("web1 --fresh 1e6", 1e6, ["web1"]),
        ("--fresh=2.5 web1", 2.5, ["web1"]),
        # A number that is needed as a domain is a domain.
        ("--fresh 30", "auto", ["30"]),
        ("--fresh 30 40", 30.0, ["40"]),
        ("--fresh -- 30", "auto", ["30"]),
        ("--fresh --rates 3 web1", "auto", ["web1"]),
    ],
)
def test_fresh(line: str, fresh: object, domains: list[str]) -> None:
    params = parsed(stats, line)
    assert (params["fresh"], list(params["domains"])) == (fresh, domains)  # type: ignore[call-overload]
