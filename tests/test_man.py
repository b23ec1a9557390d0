"""The man pages: they name every command, option, argument, verdict and field, no others, and
their examples are commands that exist."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any, Final

import click
import pytest
from docutils import nodes

import virtballoon
from man import build
from tests.pages import (
    COMMANDS,
    MAN,
    OTHER_PAGES,
    PAGES,
    blocks,
    sections,
    stats_table,
    tags,
    terms,
    tool,
    words,
)
from tests.process import finished
from virtballoon import configuration
from virtballoon.cli import cli
from virtballoon.hypervisor import labels
from virtballoon.model.hostmemory import HostFigures, HostMemory
from virtballoon.model.memory import Anomaly, UsedFormula
from virtballoon.model.outcome import Outcome
from virtballoon.model.report import HostStatus
from virtballoon.model.source import Source
from virtballoon.model.statistics import STATISTIC_BY_NAME
from virtballoon.model.verdict import State, Verdict
from virtballoon.render.documents import domain_columns, memory_record, probe_columns
from virtballoon.watch.view import BINDINGS

SECTIONS: Final = (
    "SYNOPSIS",
    "DESCRIPTION",
    "OPTIONS",
    "EXIT STATUS",
    "ENVIRONMENT",
    "FILES",
    "EXAMPLES",
    "SEE ALSO",
)
#: The options that virtballoon(1) describes for every command.
HOST_WORDS: Final = (
    "--connect",
    "--host",
    "--config-file",
    "--timeout",
    "--jobs",
    "--verbose",
    "--help",
)
PAGE_NAME: Final = re.compile(r"\b(virtballoon[a-z-]*)\((\d)\)")
COLUMNS: Final = 80


COMMON: Final = sections("virtballoon")["COMMON OPTIONS"]


every_command = pytest.mark.parametrize("name", COMMANDS)


every_page = pytest.mark.parametrize("page", PAGES)


def option_words(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--?[A-Za-z][a-z-]*", text))


def options(name: str) -> list[click.Option]:
    context = COMMANDS[name]
    parameters = context.command.get_params(context)
    return [parameter for parameter in parameters if isinstance(parameter, click.Option)]


def referred(name: str) -> set[str]:
    """The options for which a command's page refers to virtballoon(1)."""
    texts = [
        " ".join(p.astext().split()) for p in sections(name)["OPTIONS"].findall(nodes.paragraph)
    ]
    found = [text for text in texts if "described in virtballoon(1)" in text]
    if not found:
        return set()
    (text,) = found
    assert "and those that choose hosts" in text
    listed = option_words(text.partition("described in")[0]) | set(HOST_WORDS)
    return {word for option in options(name) if listed & set(option.opts) for word in option.opts}


def examples(name: str) -> list[str]:
    """The lines of a page's examples, continued ones joined."""
    return "".join(blocks(sections(name)["EXAMPLES"])).replace("\\\n", " ").splitlines()


def invocations(name: str) -> list[list[str]]:
    """The arguments of each virtballoon in a page's examples, in $(…) and before | and > too."""
    found = []
    for line in examples(name):
        for call in re.findall(r"(?:^|\$\()\s*virtballoon\b((?:'[^']*'|[^|;&()<>])*)", line):
            found.append(shlex.split(call))
    return found


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the pages for man(1)."""
    directory = tmp_path_factory.mktemp("man")
    build.build(directory, virtballoon.__version__)
    return directory


def test_one_page_per_command_and_the_others(built: Path) -> None:
    assert sorted(path.name for path in built.iterdir()) == sorted(PAGES)


@every_page
def test_header_has_name_and_version(page: str, built: Path) -> None:
    name, _, section = page.rpartition(".")
    header = shlex.split((built / page).read_text("ascii").splitlines()[0])
    assert header[:3] == [".TH", name.upper(), section]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", header[3])
    assert header[4:] == [f"virtballoon {virtballoon.__version__}", build.GROUPS[section]]


@every_page
def test_name_has_one_line(page: str, built: Path) -> None:
    name, _, _ = page.rpartition(".")
    text = (built / page).read_text("ascii")
    (line,) = re.findall(r"^\.SH NAME\n(.*)\n\.SH ", text, re.MULTILINE)
    assert line.startswith(f"{name} \\- ")


@every_command
def test_sections(name: str) -> None:
    page = sections(name)
    # What virtballoon(1) says of these is true of every command.
    optional = set() if name == "virtballoon" else {"ENVIRONMENT", "FILES"}
    assert set(SECTIONS) - optional <= set(page)
    found = [heading for heading in page if heading in SECTIONS]
    assert found == [heading for heading in SECTIONS if heading in found]
    assert all(len(section) > 1 for section in page.values())


@every_command
def test_options_are_those_of_the_command(name: str) -> None:
    described = tags(sections(name)["OPTIONS"])
    known = {word for option in options(name) for word in option.opts}
    found = {word for tag in described for word in option_words(tag)}
    assert found.isdisjoint(referred(name))
    assert found | referred(name) == known


@every_command
def test_an_option_stands_with_all_its_forms_and_values(name: str) -> None:
    shared = [*tags(sections("virtballoon")["OPTIONS"]), *tags(COMMON)]
    own = tags(sections(name)["OPTIONS"])
    for option in options(name):
        assert not option.secondary_opts
        described = shared if option.opts[0] in referred(name) else own
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


def test_every_common_option_is_referred_to() -> None:
    named = {word for name in list(COMMANDS)[1:] for word in referred(name)}
    assert {word for tag in tags(COMMON) for word in option_words(tag)} <= named


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
        assert argument in page["SYNOPSIS"].astext()


@every_command
def test_synopsis_has_no_other_option(name: str) -> None:
    known = {word for option in options(name) for word in option.opts}
    synopsis = sections(name)["SYNOPSIS"].astext()
    assert option_words(synopsis) <= known
    assert name.replace("-", " ", 1) in synopsis


@every_command
def test_page_names_only_existing_options(name: str) -> None:
    known = {word for page in COMMANDS for option in options(page) for word in option.opts}
    virsh = {"--hmp", "--period"}
    text = "\n".join(section.astext() for section in sections(name).values())
    assert {word for word in option_words(text) if word.startswith("--")} <= known | virsh


def test_main_page_has_every_command() -> None:
    described = tags(sections("virtballoon")["COMMANDS"])
    assert [f"virtballoon-{word}" for word in described] == list(COMMANDS)[1:]


def test_main_page_has_every_verdict() -> None:
    assert tags(sections("virtballoon")["VERDICTS"]) == [v.value for v in Verdict]


def test_readme_has_every_verdict() -> None:
    text = (MAN.parent / "README.md").read_text("utf-8").partition("## Verdicts")[2]
    assert re.findall(r"^\| `([a-z-]+)` \|", text, re.MULTILINE) == [v.value for v in Verdict]


def test_main_page_has_every_field() -> None:
    page = sections("virtballoon")
    (columns,) = blocks(page["OUTPUT"])
    assert columns.split() == ["uri", *domain_columns()]
    described = words(" ".join(tags(page["OUTPUT"])))
    top = {key.partition(".")[0] for key in domain_columns()}
    assert described == top | {
        *("schema", "generated_at", "hosts"),
        *("uri", "hostname", "status", "error", "elapsed_seconds", "domains"),
        *("clock_offset_seconds", "memory"),
    }
    memory = HostMemory.of(HostFigures(total_bytes=1), None)
    assert set(memory_record(memory) or ()) <= words(page["OUTPUT"].astext())
    elsewhere = ("stats.", "labels.")
    nested = {key.rpartition(".")[2] for key in domain_columns() if not key.startswith(elsewhere)}
    enums = {m.value for enum in (State, HostStatus, Source) for m in enum}
    assert nested | enums <= words(page["OUTPUT"].astext())


def test_main_page_has_every_label() -> None:
    assert set(words(" ".join(tags(sections("virtballoon")["LABELS"])))) == set(labels.names())


def test_main_page_has_every_key_of_the_configuration(tmp_path: Path) -> None:
    section = sections("virtballoon")["CONFIGURATION"]
    (block,) = blocks(section)
    path = tmp_path / "config.toml"
    path.write_text(block, encoding="ascii")
    read = virtballoon.load_configuration(path)
    assert [host.name for host in read.hosts] == ["hv1", "hv2"]
    assert (list(read.labels), list(read.namespaces)) == (["team"], ["acme"])
    assert tags(section) == [
        *(*configuration._DEFAULTS, *configuration._EXCLUDE, *configuration._HOST)
    ]


def test_hosts_page_has_every_field() -> None:
    described = words(sections("virtballoon-hosts")["DESCRIPTION"].astext())
    assert {column.partition(".")[0] for column in probe_columns()} <= described
    # The main page has the memory's.
    own = (column for column in probe_columns() if not column.startswith("memory."))
    assert {column.rpartition(".")[2] for column in own} <= described


def test_watch_page_has_every_key() -> None:
    described = [
        (label, what.rstrip(".").lower())
        for label, what in terms(sections("virtballoon-watch")["KEYS"])
    ]
    assert described == [(binding.label, binding.what.lower()) for binding in BINDINGS]


def test_set_interval_page_has_every_outcome() -> None:
    description = sections("virtballoon-set-interval")["DESCRIPTION"]
    assert tags(description) == [outcome.value for outcome in Outcome]


@every_page
def test_other_pages_that_it_names_are_there(page: str) -> None:
    name = page if page in OTHER_PAGES else page.removesuffix(".1")
    found = {
        title: {f"{name}.{number}" for name, number in PAGE_NAME.findall(section.astext())}
        for title, section in sections(name).items()
    }
    assert set().union(*found.values()) <= set(PAGES)
    required = set(PAGES) - {page} if page == "virtballoon.1" else {"virtballoon.1"}
    assert required <= found["SEE ALSO"]


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


@every_page
def test_examples_can_be_copied(page: str, built: Path) -> None:
    text = (built / page).read_text("ascii")
    found = re.findall(r"^\.EX\n(.*?)^\.EE$", text, flags=re.MULTILINE | re.DOTALL)
    assert found
    # A bare one of these is set as a typographic hyphen, quote or accent.
    assert not re.search(r"(?<!\\)[-'`^~]", "".join(found))


@every_page
def test_mandoc_has_no_complaint(page: str, built: Path) -> None:
    command = [tool("mandoc"), "-T", "lint", "-W", "warning", str(built / page)]
    result = finished(command)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@every_page
def test_groff_has_no_complaint(page: str, built: Path) -> None:
    plain = ["-P-c", "-P-b", "-P-o", "-P-u"]  # no colours, no overstriking
    command = [tool("groff"), "-man", "-ww", "-Tutf8", *plain, str(built / page)]
    result = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert [line for line in result.stdout.splitlines() if len(line) > COLUMNS] == []


# What virtballoon-stats(7) says of each statistic.


def test_reference_has_the_names_of_each() -> None:
    # A guest is asked for those of Linux in test_pressure.
    assert [(row["name"], row["libvirt"]) for row in stats_table("NAMES")] == [
        (statistic.name, statistic.libvirt or "-") for statistic in STATISTIC_BY_NAME.values()
    ]


def test_reference_has_the_versions_of_each() -> None:
    rows = stats_table("VERSIONS")
    assert all(re.fullmatch(r"-|\d{4}-\d\d", row.pop("Windows")) for row in rows)
    versions = [row.pop(name) for row in rows for name in ("Linux", "libvirt")]
    assert all(re.fullmatch(r"-|\d+\.\d+(\.\d+)?", version) for version in versions)
    assert rows == [
        {
            "name": statistic.name,
            "unit": statistic.unit.value,
            "kind": statistic.kind.value,
            "QEMU": statistic.qemu_since,
        }
        for statistic in STATISTIC_BY_NAME.values()
    ]


def test_reference_describes_each_once() -> None:
    described = " ".join(tags(sections("virtballoon-stats.7")["STATISTICS"])).replace(",", " ")
    assert sorted(described.split()) == sorted(STATISTIC_BY_NAME)


def test_reference_has_every_formula() -> None:
    rows = blocks(sections("virtballoon-stats.7")["USED MEMORY"])[0].splitlines()[1:]
    assert [row.split()[0] for row in rows] == [formula.value for formula in UsedFormula]


def test_reference_has_every_anomaly() -> None:
    described = ", ".join(tags(sections("virtballoon-stats.7")["ANOMALIES"])).split(", ")
    assert sorted(described) == sorted(anomaly.value for anomaly in Anomaly)
