"""The man pages: they name every command, option, argument, verdict and field, no others, and
their examples are commands that exist."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import pytest

import virtballoon
from virtballoon import configuration
from virtballoon.cli import cli, hosts
from virtballoon.model.memory import STATISTICS, UsedFormula
from virtballoon.model.outcome import Outcome
from virtballoon.model.report import HostStatus
from virtballoon.model.source import Source
from virtballoon.model.statistics import STATISTIC_BY_NAME
from virtballoon.model.verdict import State, Verdict
from virtballoon.render.columns import RECORD
from virtballoon.watch.view import BINDINGS

if TYPE_CHECKING:
    from collections.abc import Iterator

MAN: Final = Path(__file__).parent.parent / "man"
SECTIONS: Final = (
    "NAME",
    "SYNOPSIS",
    "DESCRIPTION",
    "OPTIONS",
    "EXIT STATUS",
    "ENVIRONMENT",
    "FILES",
    "EXAMPLES",
    "SEE ALSO",
)
#: Pages about something else than a command.
OTHER_PAGES: Final = ("virtballoon.3", "virtballoon-stats.7")
MACRO: Final = re.compile(r"\.(?:B|I|BR|IR|RB|RI|BI|IB) ")
COLUMNS: Final = 80


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
every_command = pytest.mark.parametrize("name", COMMANDS)


PAGES: Final = (*(f"{name}.1" for name in COMMANDS), *OTHER_PAGES)
every_page = pytest.mark.parametrize("page", PAGES)


def source(name: str) -> str:
    """The text of a page; a command's is meant by its name alone."""
    path = MAN / (name if name in OTHER_PAGES else f"{name}.1")
    # Other characters than these need an encoding that a page cannot name.
    return path.read_text("ascii")


def unescaped(line: str) -> str:
    """A line of roff as it is read, a macro for fonts included."""
    if MACRO.match(line):
        # These macros join their arguments.
        separator = " " if line.startswith((".B ", ".I ")) else ""
        line = separator.join(re.findall(r'"[^"]*"|\S+', line)[1:]).replace('"', "")
    line = re.sub(r"\\f(?:\[\w*\]|.)", "", line)
    for escape, character in {
        r"\-": "-",
        r"\(aq": "'",
        r"\(ti": "~",
        r"\ ": " ",
        r"\&": "",
        r"\e": "\\",
    }.items():
        line = line.replace(escape, character)
    return line


def sections(name: str) -> dict[str, list[str]]:
    """The lines of a page's sections, unescaped."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in source(name).splitlines():
        if line.startswith(".SH "):
            heading = line.removeprefix(".SH ").strip('"')
            assert heading not in found, f"{name} has {heading} twice"
            found[heading] = lines = []
        else:
            lines.append(unescaped(line))
    return found


def tags(lines: list[str]) -> list[str]:
    """What the tagged paragraphs of a section describe."""
    return [line for macro, line in pairwise(lines) if macro == ".TP"]


def option_words(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--?[A-Za-z][a-z-]*", text))


def words(text: str) -> set[str]:
    return set(re.findall(r"[\w.-]*\w", text))


def options(name: str) -> list[click.Option]:
    context = COMMANDS[name]
    parameters = context.command.get_params(context)
    return [parameter for parameter in parameters if isinstance(parameter, click.Option)]


def examples(name: str) -> list[str]:
    """The lines of a page's examples, continued ones joined."""
    text = "\n".join(sections(name)["EXAMPLES"])
    blocks: list[str] = re.findall(r"^\.EX\n(.*?)^\.EE$", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(blocks).replace("\\\n", " ").splitlines()


def invocations(name: str) -> list[list[str]]:
    """The arguments of each virtballoon in a page's examples, in $(…) and before | and > too."""
    found = []
    for line in examples(name):
        for call in re.findall(r"(?:^|\$\()\s*virtballoon\b((?:'[^']*'|[^|;&()<>])*)", line):
            found.append(shlex.split(call))
    return found


def tool(name: str) -> str:
    """The path of a program; without it the test is skipped, and fails where CI runs it."""
    path = shutil.which(name)
    if path is None:
        reason = f"{name} is not installed"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return path


def test_one_page_per_command_and_the_others() -> None:
    assert sorted(path.name for path in MAN.iterdir()) == sorted(PAGES)


def test_every_page_is_installed_in_its_section() -> None:
    project = tomllib.loads((MAN.parent / "pyproject.toml").read_text(encoding="utf-8"))
    shared = project["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"]
    assert shared == {f"man/{page}": f"share/man/man{page[-1]}/{page}" for page in PAGES}


@every_page
def test_header_has_name_and_version(page: str) -> None:
    name, _, section = page.rpartition(".")
    header = shlex.split(unescaped((MAN / page).read_text("ascii").splitlines()[0]))
    titles = {
        "1": "User Commands",
        "3": "Library Functions Manual",
        "7": "Miscellaneous Information",
    }
    assert header[:3] == [".TH", name.upper(), section]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", header[3])
    assert header[4:] == [f"virtballoon {virtballoon.__version__}", titles[section]]


@every_command
def test_sections(name: str) -> None:
    page = sections(name)
    assert set(SECTIONS) <= set(page)
    assert [heading for heading in page if heading in SECTIONS] == list(SECTIONS)
    assert all(any(line and line[0] != "." for line in lines) for lines in page.values())
    assert page["NAME"][0].startswith(f"{name} - ")


@every_command
def test_options_are_those_of_the_command(name: str) -> None:
    described = tags(sections(name)["OPTIONS"])
    known = {word for option in options(name) for word in option.opts}
    assert {word for tag in described for word in option_words(tag)} == known


@every_command
def test_an_option_stands_with_all_its_forms_and_values(name: str) -> None:
    described = tags(sections(name)["OPTIONS"])
    for option in options(name):
        assert not option.secondary_opts
        (tag,) = [tag for tag in described if option.opts[0] in option_words(tag)]
        assert option_words(tag) == set(option.opts)
        value = tag.rpartition(max(option.opts, key=len))[2]
        if isinstance(option.type, click.Choice):
            assert value == f" {'|'.join(option.type.choices)}"
        elif option.metavar is not None:
            assert value == f" {option.metavar.replace('…', '...')}"
        else:
            assert option.is_flag
            assert not value


@every_command
def test_arguments_are_those_of_the_command(name: str) -> None:
    arguments = {
        (parameter.metavar or "").strip("[]…")
        for parameter in COMMANDS[name].command.params
        if isinstance(parameter, click.Argument)
    }
    page = sections(name)
    assert {tag for tag in tags(page["OPTIONS"]) if not option_words(tag)} == arguments
    for argument in arguments:
        assert argument in "\n".join(page["SYNOPSIS"])


@every_command
def test_synopsis_has_no_other_option(name: str) -> None:
    known = {word for option in options(name) for word in option.opts}
    synopsis = sections(name)["SYNOPSIS"]
    assert option_words("\n".join(synopsis)) <= known
    assert any(line.startswith(name.replace("-", " ", 1)) for line in synopsis)


@every_command
def test_no_option_is_named_that_there_is_not(name: str) -> None:
    known = {word for page in COMMANDS for option in options(page) for word in option.opts}
    virsh = {"--hmp", "--period"}
    text = "\n".join(line for lines in sections(name).values() for line in lines)
    assert {word for word in option_words(text) if word.startswith("--")} <= known | virsh


def test_main_page_has_every_command() -> None:
    described = tags(sections("virtballoon")["COMMANDS"])
    assert [f"virtballoon-{word}" for word in described] == list(COMMANDS)[1:]


def test_main_page_has_every_verdict() -> None:
    assert tags(sections("virtballoon")["VERDICTS"]) == [v.value for v in Verdict]


def test_main_page_has_every_field() -> None:
    page = sections("virtballoon")
    columns = re.findall(r"^uri name .*?\n\.EE$", "\n".join(page["OUTPUT"]), re.M | re.S)
    assert columns[0].split()[:-1] == ["uri", *RECORD]
    described = words(" ".join(tags(page["OUTPUT"])))
    top = {key.partition(".")[0] for key in RECORD}
    assert described == top | {
        *("schema", "generated_at", "hosts"),
        *("uri", "hostname", "status", "error", "elapsed_seconds", "domains"),
    }
    nested = {key.rpartition(".")[2] for key in RECORD if not key.startswith("stats.")}
    enums = {m.value for enum in (State, HostStatus, Source) for m in enum}
    assert nested | enums <= words("\n".join(page["OUTPUT"]))


def test_main_page_has_every_key_of_the_configuration(tmp_path: Path) -> None:
    text = "\n".join(sections("virtballoon")["CONFIGURATION"])
    block = re.search(r"^\.EX\n(.*?)^\.EE$", text, flags=re.MULTILINE | re.DOTALL)
    assert block is not None
    path = tmp_path / "config.toml"
    path.write_text(block[1], encoding="ascii")
    read = virtballoon.load_configuration(path)
    assert [host.name for host in read.hosts] == ["hv1", "hv2"]
    assert tags(text.splitlines()) == [*configuration._DEFAULTS, *configuration._HOST]


def test_main_page_has_every_statistic() -> None:
    text = words("\n".join(sections("virtballoon")["STATISTICS"]))
    assert {*STATISTICS, *(formula.value for formula in UsedFormula)} <= text


def test_stats_page_has_every_statistic() -> None:
    description = sections("virtballoon-stats")["DESCRIPTION"]
    assert words(" ".join(tags(description))) == {
        *STATISTICS,
        "used",
        "used_ratio",
        "current",
        "maximum",
        "rss",
    }


def test_hosts_page_has_every_field() -> None:
    description = sections("virtballoon-hosts")["DESCRIPTION"]
    assert {column.partition(".")[0] for column in hosts._COLUMNS} <= words("\n".join(description))
    assert {column.rpartition(".")[2] for column in hosts._COLUMNS} <= words("\n".join(description))


def test_watch_page_has_every_key() -> None:
    page = sections("virtballoon-watch")
    described = [
        (label, what.rstrip(".").lower())
        for macro, label, what in zip(
            page["KEYS"], page["KEYS"][1:], page["KEYS"][2:], strict=False
        )
        if macro == ".TP"
    ]
    assert described == [(binding.label, binding.what.lower()) for binding in BINDINGS]


def test_set_interval_page_has_every_outcome() -> None:
    description = sections("virtballoon-set-interval")["DESCRIPTION"]
    assert tags(description) == [outcome.value for outcome in Outcome]


@every_page
def test_other_pages_that_it_names_are_there(page: str) -> None:
    text = "\n".join(unescaped(line) for line in (MAN / page).read_text("ascii").splitlines())
    named = re.findall(r"\b(virtballoon[a-z-]*) ?\((\d)\)", text)
    assert {f"{name}.{section}" for name, section in named} <= set(PAGES)
    see_also = text.partition(".SH SEE ALSO")[2]
    referred = {
        f"{name}.{section}"
        for name, section in re.findall(r"^(virtballoon[a-z-]*) ?\((\d)\)", see_also, re.MULTILINE)
    }
    assert (set(PAGES) - {page} if page == "virtballoon.1" else {"virtballoon.1"}) <= referred


@every_command
def test_examples_exist(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run: list[str] = []
    for page, context in COMMANDS.items():
        if not isinstance(context.command, click.Group):
            # Parse everything, validate values, and stop short of doing it.
            def invoke(_context: click.Context, page: str = page) -> Any:
                run.append(page)

            monkeypatch.setattr(context.command, "invoke", invoke)
    calls = invocations(name)
    assert calls
    for arguments in calls:
        try:
            cli.main(arguments, prog_name="virtballoon", standalone_mode=False)
        except click.ClickException as error:
            pytest.fail(f"virtballoon {shlex.join(arguments)}: {error.format_message()}")
    assert len(run) == len(calls)
    assert name in (*run, "virtballoon")


@every_command
def test_examples_can_be_copied(name: str) -> None:
    text = source(name)
    blocks = re.findall(r"^\.EX\n(.*?)^\.EE$", text, flags=re.MULTILINE | re.DOTALL)
    assert blocks
    # A bare one of these is set as a typographic hyphen, quote or accent.
    assert not re.search(r"(?<!\\)[-'`^~]", "".join(blocks))


@every_page
def test_mandoc_has_no_complaint(page: str) -> None:
    command = [tool("mandoc"), "-T", "lint", "-W", "warning", str(MAN / page)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@every_page
def test_groff_has_no_complaint(page: str) -> None:
    plain = ["-P-c", "-P-b", "-P-o", "-P-u"]  # no colours, no overstriking
    command = [tool("groff"), "-man", "-ww", "-Tutf8", *plain, str(MAN / page)]
    result = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert [line for line in result.stdout.splitlines() if len(line) > COLUMNS] == []


# What virtballoon-stats(7) says of each statistic.


def stats_table(section: str) -> list[dict[str, str]]:
    """The table of a section."""
    text = "\n".join(sections("virtballoon-stats.7")[section])
    block = re.search(r"^\.EX\n(.*?)^\.EE$", text, flags=re.MULTILINE | re.DOTALL)
    assert block is not None
    heading, *lines = (line.split() for line in block[1].splitlines())
    return [dict(zip(heading, line, strict=True)) for line in lines]


def test_reference_has_the_names_of_each() -> None:
    assert stats_table("NAMES") == [
        {
            "name": statistic.name,
            "libvirt": statistic.libvirt or "-",
            "Linux": "+".join(statistic.meminfo or statistic.vmstat),
        }
        for statistic in STATISTIC_BY_NAME.values()
    ]


def test_reference_has_the_versions_of_each() -> None:
    rows = stats_table("VERSIONS")
    assert all(re.fullmatch(r"-|\d{4}-\d\d", row.pop("Windows")) for row in rows)
    assert rows == [
        {
            "name": statistic.name,
            "unit": statistic.unit.value,
            "kind": statistic.kind.value,
            "QEMU": statistic.qemu_since,
            "Linux": statistic.linux_since,
            "libvirt": statistic.libvirt_since or "-",
        }
        for statistic in STATISTIC_BY_NAME.values()
    ]


def test_reference_describes_each_once() -> None:
    described = " ".join(tags(sections("virtballoon-stats.7")["STATISTICS"])).replace(",", " ")
    assert sorted(described.split()) == sorted(STATISTIC_BY_NAME)


def test_main_page_has_the_unit_and_the_key_of_each() -> None:
    text = "\n".join(sections("virtballoon")["STATISTICS"])
    for statistic in STATISTIC_BY_NAME.values():
        key = statistic.libvirt or "(--via qom only)"
        line = rf"^{statistic.name} +{statistic.unit.value} +{re.escape(key)}$"
        assert re.search(line, text, re.MULTILINE), statistic.name
