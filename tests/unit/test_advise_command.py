"""``virtballoon advise``: its formats, what chooses domains, its commands, and foreign names."""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
import time
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest
from click.shell_completion import ShellComplete

from tests.unit.builders import VALIDATOR
from tests.unit.command import EVIL, assert_refused
from tests.unit.sizing_histories import GIB, UUID, fleet, history, steady, store
from virtballoon.cli import cli
from virtballoon.render.advice import ADVICE, advice_columns, column
from virtballoon.sizing.rule import PROFILES, Sizing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.unit.command import Command, Result

    Advise = Callable[..., Result]

EVIL_NAME = f"{EVIL}'; rm -rf $HOME\n<script>"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    now = int(time.time())
    evil = history(
        steady(GIB),
        uuid=UUID.format(9),
        name=EVIL_NAME,
        labels={"title": "<b>x"},
        uris=("qemu:///$(id)",),
        end=now,
    )
    return store(tmp_path_factory.mktemp("store") / "history.db", [*fleet(now), evil])


@pytest.fixture
def run(command: Command, path: Path) -> Advise:
    return lambda *words: command("advise", "--store", str(path), *words)


def names(result: Result) -> list[str]:
    return [json.loads(line)["name"] for line in result.stdout.splitlines()]


def test_groups(run: Advise) -> None:
    lines = run("--exclude", EVIL_NAME, "--group-by", "project").stdout.splitlines()
    totals = [line.partition(",")[0] for line in lines if line.startswith("total")]
    assert totals == ["total of project acme: 1 domain over", "total of project -: 2 domains over"]
    document = json.loads(run("--group-by", "labels.project", "--format", "json").stdout)
    VALIDATOR.validate(document)
    assert document["group_by"] == "labels.project"
    assert [(group["value"], group["over_domains"]) for group in document["groups"]] == [
        ("acme", 1),
        (None, 3),
    ]
    assert sum(group["domains"] for group in document["groups"]) == sum(
        len(host["domains"]) for host in document["hosts"]
    )
    assert run("--group-by", "projct").status == 2


def test_table(run: Advise) -> None:
    result = run("--exclude", EVIL_NAME)
    head, *lines = result.stdout.splitlines()
    assert (result.status, result.stderr) == (0, "")
    assert head.split() == [
        *("DOMAIN", "TITLE", "CURRENT", "NEED", "GAIN", "VERDICT", "BECAUSE", "HOST")
    ]
    by_name = {line.split()[0]: line for line in lines}
    assert "8.0 GiB   2.8 GiB     5.2 GiB  over " in by_name["instance-0000000e"]
    assert "right (flat)" in by_name["instance-0000001f"]
    assert "-768.0 MiB  under " in by_name["mail"]
    assert " -           -  unknown " in by_name["legacy"]
    assert lines[-2:] == [
        "total on qemu+ssh://hv2/system: 2 domains over, 14.8 GiB to gain, 14.8 GiB for the host",
        "total on qemu:///system: 1 domain over, 5.2 GiB to gain, 5.2 GiB for the host",
    ]
    quiet = run("-q", "--no-header").stdout.splitlines()
    assert [line.split()[-2] for line in quiet] != []
    assert all("  over  " in line or "  under " in line for line in quiet)


def test_json(run: Advise) -> None:
    result = run("--format", "json")
    document: dict[str, Any] = json.loads(result.stdout)
    VALIDATOR.validate(document)
    hosts = {host["uri"]: host for host in document["hosts"]}
    assert list(hosts) == ["qemu+ssh://hv2/system", "qemu:///$(id)", "qemu:///system"]
    domains = [row for host in document["hosts"] for row in host["domains"]]
    assert [list(row) for row in domains] == [[*ADVICE, "days"]] * 9
    lines = [json.loads(line) for line in run("--format", "jsonl").stdout.splitlines()]
    assert sorted(row["uuid"] for row in lines) == sorted(row["uuid"] for row in domains)
    assert all(row["uri"] in hosts for row in lines)


def test_csv(run: Advise) -> None:
    result = run("--format", "csv", "mail")
    head, row = result.stdout.splitlines()
    assert tuple(head.split(",")) == advice_columns()
    assert row.startswith("qemu:///system,mail,")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["m*"], ["mail"]),
        (["--where", "verdict=over", "--where", "need>3GiB"], ["logs"]),
        (["--where", "title=shop*", "--where", "flat=false"], ["instance-0000000e"]),
        (["--where", "coverage_ratio<90%", "wiki"], []),
        (["-c", "qemu+ssh://hv2/system"], ["logs", "wiki"]),
        (["-c", "qemu+ssh://hv2/system", "--exclude", "w*"], ["logs"]),
        (["-q", "m*", "build1"], ["mail"]),
        (["--since", "30h", "--where", "verdict=over", "l*"], ["lab", "legacy", "logs"]),
    ],
)
def test_which_domains(run: Advise, words: list[str], found: list[str]) -> None:
    result = run("--format", "jsonl", *words)
    assert names(result) == found
    assert result.status == (0 if found else 1)


def test_what_is_not_there(run: Advise, command: Command, path: Path) -> None:
    assert_refused(run("nope"), 1, "no recorded domain matches 'nope'")
    result = run("nope", "mail", "--format", "jsonl")
    assert (result.status, names(result)) == (3, ["mail"])
    assert_refused(command("advise", "--store", f"{path}.no"), 1, "cannot open")
    assert_refused(run("--where", "neeed>1"), 2, "did you mean 'need'?")
    assert_refused(run("--since", "29h"), 2, "at least")
    assert_refused(run("--commands", "--format", "json"), 2, "omit --format")


def test_evidence_of_one_domain(run: Advise) -> None:
    result = run("instance-0000000e")
    head, *lines = result.stdout.splitlines()
    assert head == (
        "instance-0000000e (shop-web-1): over, needs 35% of its memory by its use in 14 d"
    )
    text = "\n".join(lines)
    for fact in (
        "2.0 GiB at 20",
        "2.8 GiB, by max x 1.20",
        "200.0 MiB of it kept",
        "OOM kills: unknown",
    ):
        assert fact in text
    shares = [
        line.partition("%")[0].split()[-1] for line in lines if " to " in line and "%" in line
    ]
    assert 99.5 < sum(map(float, shares)) < 100.5
    assert sum("covered, at most" in line for line in lines) in {14, 15}


def test_commands_are_safe_for_a_shell(run: Advise) -> None:
    result = run("--commands")
    evil = UUID.format(9)
    assert result.stdout.isascii()
    words = [shlex.split(line, comments=True) for line in result.stdout.splitlines()]
    found = [line for line in words if line]
    assert all(line[:2] == ["virsh", "-c"] and line[3] in {"setmem", "setmaxmem"} for line in found)
    assert [line[2:] for line in found if line[4] == evil] == [
        ["qemu:///$(id)", "setmem", evil, "1572864KiB", "--live", "--config"],
        ["qemu:///$(id)", "setmaxmem", evil, "1572864KiB", "--config"],
    ]
    mail = [line[3:] for line in found if line[4] == UUID.format(5)]
    # It has all that it may have.
    assert mail == [
        ["setmaxmem", UUID.format(5), "4980736KiB", "--config"],
        ["setmem", UUID.format(5), "4980736KiB", "--config"],
    ]
    assert len(found) == 2 * 5
    assert "virsh -c 'qemu:///$(id)' setmem" in result.stdout


def test_foreign_names_do_nothing_on_a_terminal(run: Advise) -> None:
    for words in ((), (EVIL_NAME,), ("--commands",)):
        result = run(*words)
        assert all(line.isprintable() for line in result.stdout.splitlines())


class Page(HTMLParser):
    """What a page has, if its elements are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self.open[-1] if self.open else "", []).append(data)


def test_html(run: Advise) -> None:
    result = run("--format", "html")
    page = Page(result.stdout)
    assert (result.status, result.stderr) == (0, "")
    assert page.tags.count("section") == page.tags.count("tr") - 1 == 9
    assert page.tags.count("svg") == 18
    # A foreign name is text, and acts on nothing.
    assert (page.tags.count("script"), page.tags.count("b")) == (1, 0)
    title = f"{EVIL_NAME} (<b>x)".replace("\n", r"\n").replace("\u202e", r"\u202e")
    assert page.texts["a"].count(title) == 1
    assert {"over", "under", "right", "unknown", "right (flat)"} <= set(page.texts["span"])


def test_html_loads_nothing_and_runs_nothing_foreign(run: Advise) -> None:
    page = Page(run("--format", "html").stdout)
    names = {name for name, _ in page.attributes}
    assert names.isdisjoint({"src", "style"})
    assert not any(name.startswith("on") for name in names)
    assert all((link or "#").startswith("#") for name, link in page.attributes if name == "href")
    (policy,) = (value for _, value in page.attributes if value and "default-src" in value)
    (script,) = page.texts["script"]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none';")
    assert policy.endswith(f"script-src 'sha256-{digest}'")


def test_html_to_a_file(run: Advise, tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    result = run("--format", "html", "--output", str(target), "-q")
    assert (result.status, result.stdout) == (0, "")
    # A file has all.
    assert Page(target.read_text("utf-8")).tags.count("section") == 9


def test_it_connects_to_no_host(command: Command, path: Path) -> None:
    before = (
        "import libvirt\n"
        "def refuse(*_): os._exit(98)\n"
        "libvirt.open = libvirt.openReadOnly = libvirt.openAuth = refuse"
    )
    (result,) = command.each(
        [["-c", "qemu:///system", "advise", "--store", str(path)]], before=before
    )
    assert result.status == 0


def test_completion_is_from_the_store(path: Path) -> None:
    complete = ShellComplete(cli, {}, "virtballoon", "_VIRTBALLOON_COMPLETE")
    found = complete.get_completions(["advise", "--store", str(path)], "m")
    assert [item.value for item in found] == ["mail"]
    found = complete.get_completions(["advise", "--store", f"{path}.no"], "m")
    assert found == []
    found = complete.get_completions(["advise", "--where"], "need")
    assert [item.value for item in found] == ["need_bytes="]


def test_every_key_is_a_column() -> None:
    assert {column(key).key for key in advice_columns()} == set(advice_columns())
    assert column("need").key == "need_bytes"
    assert column("project").key == "labels.project"
    assert list(PROFILES) == ["max", "p99", "p95"]
    assert list(Sizing) == ["over", "under", "right", "unknown"]
