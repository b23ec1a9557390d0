"""The command line: exit statuses, where the output goes, and how it refuses."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.process import finished
from tests.unit.command import (
    COLD,
    EVIL,
    NOBODY_LISTENS,
    TEST,
    Command,
    Result,
    assert_refused,
    clean_environment,
    only_host,
)

if TYPE_CHECKING:
    from pathlib import Path

UUID = "6d993224-cd88-40b8-a312-e40709c38e72"


# Wrong usage: refused before any host is asked.


NO_INTERVALS = [
    "-5",
    "-2.5",
    "4294967296",
    "2147483648",
    "2.5",
    "1e3",
    "ten",
    "0x10",
    "1_0",
    "",
    " ",
    " 5",
    "5\n",
    "٣",
    "\uff15",
    "nan",
    "9" * 5000,
    "10w",
    "0.5s",
]


def test_rejects_invalid_intervals(command: Command) -> None:
    for result in command.each(
        ["-c", TEST, "set-interval", interval, "test"] for interval in NO_INTERVALS
    ):
        assert_refused(result, 2)


def test_an_interval_below_0(command: Command) -> None:
    for result in command.each(
        ["-c", TEST, "set-interval", *args]
        for args in (
            ["--", "-5", "test"],
            ["--live", "-5", "test"],
            ["-5", "--all"],
            ["--all", "--", "-5"],
        )
    ):
        assert_refused(result, 2, "-5")


WRONG_USAGE = [
    (["frobnicate"], "frobnicate"),
    (["list", "--format", "xml"], "xml"),
    (["list", "--via", "magic"], "magic"),
    (["list", "--columns", "no-such"], "no-such"),
    (["list", "--columns", "name,,used"], "no column ''"),
    (["list", "--columns", ""], "no column ''"),
    (["list", "--columns", "name", "--format", "json"], "--columns"),
    (["list", "--sort", "no-such"], "no-such"),
    (["list", "--sort", "-no-such"], "no-such"),
    (["list", "--units", "furlongs"], "furlongs"),
    (["list", "--timeout", "0"], "at least 0.001 s"),
    (["list", "--timeout", "-1"], "not a time"),
    (["list", "--jobs", "0"], "x>=1"),
    (["list", "--timeout", "nan"], "not a time such as 10, 10s, 5m, 2h or 1d"),
    (["list", "--timeout", "inf"], "not a time"),
    (["list", "--timeout", "1w"], "not a time"),
    (["list", "--timeout", "soon"], "soon"),
    (["list", "-c"], "-c"),
    (["watch"], "terminal"),
    (["watch", "--once", "--every", "nan"], "not a time"),
    (["watch", "--once", "-n", "0.01"], "at least 0.1 s"),
    (["watch", "--once", "--sort", "age"], "age"),
    (["lst"], "Did you mean list?"),
    (["sets-interval"], "Did you mean set-interval?"),
    (["frobnicate"], "Commands: list, stats,"),
    (["--format", "json", "list"], "(a command's own options follow its name)"),
    (["--fromat", "json", "list"], "--format"),
    (["--timeot", "5", "list"], "--timeout"),
    (["list", "--timeot", "5"], "--timeout"),
    (["list", "--frobnicate"], "--frobnicate"),
    (["list", "--colums", "name"], "--columns"),
    (["list", "--columns", "used_byte"], "did you mean 'used_bytes'?"),
    (["list", "--name", "--wide"], "--name"),
    (["list", "--name", "--format", "csv"], "--name"),
    (["export", "--format", "json"], "--format"),
    (["watch", "--lock", "x"], "--lock"),
    (["hosts", "--via", "qom"], "--via"),
    (["completion", "bash", "--timeout", "5"], "--timeout"),
    (["set-interval", "web1", "10"], "SECONDS comes before DOMAIN."),
    (["set-interval", "5", "x", "--wait", "--dry-run"], "--dry-run"),
    (["qom-path"], "DOMAIN"),
    (["qom-path", "a", "b"], "b"),
    (["set-interval"], "SECONDS"),
    (["set-interval", "5"], "--all"),
    (["set-interval", "5", "test", "--all"], "--all"),
    (["completion", "tcsh"], "tcsh"),
]


def test_wrong_usage(command: Command) -> None:
    results = command.each(
        (args for args, _ in WRONG_USAGE), env={"LIBVIRT_DEFAULT_URI": NOBODY_LISTENS}
    )

    for result, (_, fragment) in zip(results, WRONG_USAGE, strict=True):
        assert_refused(result, 2, fragment, "--help")


def test_no_command_is_wrong_usage(command: Command) -> None:
    result = command("-c", TEST)

    assert result.status == 2
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


# Refused by what there is.


@pytest.mark.parametrize(
    ("args", "domain"),
    [
        *[(["list"], name) for name in ("nobody", "nob*", UUID)],
        *[(["stats"], name) for name in ("nobody", "\udcff", "\u202e\x1b[31m\n")],
        *[(["set-interval", "5"], name) for name in ("nobody", "nob*", "")],
        *[(["qom-path"], name) for name in ("nobody", "nob*", "-")],
    ],
)
def test_a_domain_that_does_not_exist(command: Command, args: list[str], domain: str) -> None:
    assert_refused(command("-c", TEST, *args, domain), 1, "no domain matches")


def test_a_pattern_that_matches_only_what_does_not_run(command: Command, node: str) -> None:
    assert_refused(command("-c", node, "list", "of*"), 1, "--all")


@pytest.mark.parametrize(
    "args", [["list"], ["stats", "test"], ["set-interval", "5", "test"], ["qom-path", "test"]]
)
def test_a_driver_without_a_monitor(command: Command, args: list[str]) -> None:
    assert_refused(command("-c", TEST, *args, "--via", "qom"), 1, "no QEMU", "monitor")


@pytest.mark.parametrize(
    ("args", "uri", "fragment"),
    [
        *[
            (args, NOBODY_LISTENS, "No such file or directory")
            for args in (["list"], ["stats", "test"], ["set-interval", "5", "x"], ["qom-path", "x"])
        ],
        (["list"], "::", "::"),
        (["set-interval", "5", "x"], "http://[", "http://["),
        (["stats", "x"], "a b", "a b"),
        (["list"], "\udcff", "URI"),
    ],
)
def test_a_host_that_cannot_be_reached(
    command: Command, args: list[str], uri: str, fragment: str
) -> None:
    assert_refused(command("-c", uri, *args), 1, fragment)


MODULES = {
    "libvirt": "python3-libvirt, or libvirt-python with pip",
    "lxml": "python3-lxml, or lxml with pip",
    "rich": "python3-rich, or rich with pip",
    "prometheus_client": "python3-prometheus-client, or prometheus-client with pip",
    "click": "python3-click, or click with pip",
}
COMMANDS = {
    "list": ("libvirt", "lxml", "click"),
    "stats test": ("libvirt", "lxml", "click"),
    "set-interval 5 test": ("libvirt", "lxml", "click"),
    "qom-path test": ("libvirt", "click"),
    "hosts": ("libvirt", "click"),
    "check": ("libvirt", "lxml", "click"),
    "export": ("libvirt", "lxml", "prometheus_client", "click"),
    "record --store history.db": ("libvirt", "lxml", "click"),
    "watch --once": ("libvirt", "lxml", "rich", "click"),
    "doctor": ("libvirt", "lxml", "click"),
    "completion bash": ("click",),
}


@pytest.mark.parametrize("words", COMMANDS)
def test_a_missing_package_is_named(tmp_path: Path, words: str) -> None:
    for module in COMMANDS[words]:
        code = (
            f"import sys; sys.modules[{module!r}] = None; sys.argv[1:] = {words.split()!r}; "
            "from virtballoon.__main__ import main; main()"
        )
        run = finished(
            [sys.executable, "-P", "-c", code],
            env=clean_environment(tmp_path) | {"LIBVIRT_DEFAULT_URI": TEST},
        )
        plugin = words == "check"
        start = "MEMORY UNKNOWN - " if plugin else "virtballoon: "
        # A long status line is cut, and follows in full.
        text = (run.stdout if plugin else run.stderr).splitlines()[0]
        said = f"{start}cannot import {module}: install {MODULES[module]}"
        assert text == said or (plugin and text.endswith("…") and said.startswith(text[:-1]))
        assert run.returncode == (3 if plugin else 1)


def test_a_default_host_that_cannot_be_reached(command: Command) -> None:
    environment = {"LIBVIRT_DEFAULT_URI": NOBODY_LISTENS}

    assert_refused(command("list", env=environment), 1, NOBODY_LISTENS)


@pytest.mark.parametrize("form", ["json", "jsonl", "csv"])
def test_a_host_that_cannot_be_reached_in_a_document(command: Command, form: str) -> None:
    result = command("-c", NOBODY_LISTENS, "list", "--format", form)

    assert result.status == 1
    assert len(result.complaints) == 1
    if form == "json":
        host = only_host(result)
        assert (host["uri"], host["status"]) == (NOBODY_LISTENS, "unreachable")
        assert host["domains"] == []
        assert host["error"]["code"] == 38
    else:
        assert len(result.stdout.splitlines()) == (form == "csv")


def test_one_of_two_hosts(command: Command) -> None:
    for args in (["list"], ["stats", "test"], ["set-interval", "5", "test"]):
        result = command("-c", TEST, "-c", NOBODY_LISTENS, *args)
        assert result.status == 3
        assert "test" in result.stdout
        assert sum(NOBODY_LISTENS in line for line in result.complaints) == 1


def test_one_of_two_domains(command: Command, node: str) -> None:
    for args in (["list"], ["stats"]):
        result = command("-c", node, *args, "polled", "nobody")
        assert result.status == 3
        assert "polled" in result.stdout
        assert "virtballoon: no domain matches 'nobody'" in result.complaints


def test_setting_one_of_two_domains_sets_none(command: Command, node: str) -> None:
    assert_refused(command("-c", node, "set-interval", "5", "polled", "nobody"), 1, "nobody")


def test_a_driver_without_qemu_has_no_qom_path(command: Command, node: str) -> None:
    # This one's XML shows an alias, from which the path would follow.
    assert_refused(command("-c", node, "qom-path", "polled"), 1, "no QEMU")


# What works.


def test_a_list(command: Command, node: str) -> None:
    result = command("-c", node, "list")

    assert result.status == 0
    heading, *rows = result.stdout.splitlines()
    assert heading.split()[:2] == ["DOMAIN", "INTERVAL"]
    assert heading.split()[-1] == "VERDICT"
    assert [row.split()[0] for row in rows] == [r"-\u202eevil", "bare", "passing", "polled"]
    assert [row.split()[-1] for row in rows] == [
        "polling-off",
        "no-device",
        "polling-off",
        "stale",
    ]


LISTED = [
    ([], [EVIL, "bare", "passing", "polled"]),
    (["--all"], [EVIL, "bare", "off", "passing", "polled"]),
    (["p*"], ["passing", "polled"]),
    (["*o*", "--all"], ["off", "polled"]),
    (["off"], ["off"]),
    ([UUID.upper().replace("-", ""), "polled", "pol*"], ["polled"]),
    (["--", EVIL], [EVIL]),
    (["--sort", "-name"], ["polled", "passing", "bare", EVIL]),
    (["--sort", "interval", "p*", "bare"], ["passing", "polled", "bare"]),
]


def test_which_domains_are_listed(command: Command, node: str) -> None:
    results = command.each(["-c", node, "list", "--format", "json", *args] for args, _ in LISTED)

    for result, (_, names) in zip(results, LISTED, strict=True):
        assert (result.status, result.stderr) == (0, "")
        assert [row["name"] for row in only_host(result)["domains"]] == names, result.args


@pytest.mark.parametrize(
    ("before", "words", "after"),
    [
        (["-c", TEST, "--timeout", "5", "--jobs", "2"], ["list"], []),
        ([], ["list"], ["-c", TEST, "--timeout", "5s", "--jobs", "2"]),
        (["-c", TEST], ["stats", "test"], ["--timeout", "1m"]),
        (["--timeout", "2h"], ["set-interval", "5", "test"], ["--connect", TEST]),
        # Behind the command's name wins.
        (
            ["-c", "::", "--timeout", "0.001"],
            ["list", "test"],
            ["-c", TEST, "--timeout", "5"],
        ),
    ],
    ids=["before", "after", "both", "setting", "twice"],
)
def test_options_on_either_side(
    command: Command, before: list[str], words: list[str], after: list[str]
) -> None:
    result = command(*before, *words, *after, "--format", "json")

    assert (result.status, result.stderr) == (0, "")
    host = only_host(result)
    assert (host["uri"], [row["name"] for row in host["domains"]]) == (TEST, ["test"])


def test_the_default_host_is_libvirts(command: Command) -> None:
    result = command("list", "--format", "json", env={"LIBVIRT_DEFAULT_URI": TEST})

    assert only_host(result)["uri"] == TEST


def test_stats_does_not_suggest_qom_without_qemu(command: Command) -> None:
    # With QEMU it does: see tests/test_pressure.py.
    (result,) = command.each([["-c", TEST, "stats", "test"]])
    assert (result.status, result.complaints) == (0, [])


@pytest.mark.parametrize("args", [["list", "--all"], ["stats", "*"]], ids=["list", "stats"])
def test_every_format_says_the_same(command: Command, node: str, args: list[str]) -> None:
    forms = ("json", "jsonl", "csv")
    results = command.each(["-c", node, *args, "--format", form] for form in forms)
    runs = dict(zip(forms, results, strict=True))

    assert all((run.status, run.stderr) == (0, "") for run in runs.values())
    domains = only_host(runs["json"])["domains"]
    lines = [json.loads(line) for line in runs["jsonl"].stdout.splitlines()]
    rows = list(csv.DictReader(io.StringIO(runs["csv"].stdout, newline=""), strict=True))
    assert len(domains) == len(lines) == len(rows) == 5
    for domain, line, row in zip(domains, lines, rows, strict=True):
        assert next(iter(line)) == next(iter(row)) == "uri"
        assert line["uri"] == row["uri"] == node
        assert (line["name"], line["verdict"]) == (domain["name"], domain["verdict"])
        assert (row["name"], row["verdict"]) == (domain["name"], domain["verdict"])
        for figure in ("swap_in", "total_memory", "oom_kills"):
            shown = domain["stats"][figure]
            assert line["stats"][figure] == shown
            assert row[f"stats.{figure}"] == ("" if shown is None else str(shown))


EXCLUDED: list[tuple[list[str], list[str]]] = [
    (["list"], [EVIL, "bare"]),
    (["list", "--all"], [EVIL, "bare", "off"]),
    (["list", "polled"], []),
    (["stats", "b*", "pol*"], ["bare"]),
    (["set-interval", "0", "--all", "--dry-run"], [EVIL, "bare"]),
    (["doctor", "*"], [EVIL, "bare"]),
]


def test_excluded_domains(command: Command, node: str) -> None:
    results = command.each(
        ["-c", node, *args, "--exclude", "p*ng", "--exclude", UUID, "--format", "json"]
        for args, _ in EXCLUDED
    )
    for result, (args, names) in zip(results, EXCLUDED, strict=True):
        assert [row["name"] for row in only_host(result)["domains"]] == names, args
    metrics = command("-c", node, "export", "--exclude", "p*").stdout
    assert 'domain="bare"' in metrics
    assert "polled" not in metrics


def test_excluded_domains_of_several_hosts(command: Command, node: str) -> None:
    # The host without what was named is left alone.
    words = ["set-interval", "3", "polled", "--exclude", "x*", "--format", "jsonl"]
    result = command("-c", node, "-c", TEST, *words)
    assert [json.loads(line)["name"] for line in result.stdout.splitlines()] == ["polled"]
    every = command("-c", node, "-c", TEST, "set-interval", "0", "--all", "--exclude", "[!t]*")
    assert [row.split()[0] for row in every.stdout.splitlines()[1:]] == ["test"]


def test_names_alone(command: Command, node: str) -> None:
    result = command("-c", node, "list", "--name", "--all", "--sort", "-name")

    assert (result.status, result.stderr) == (0, "")
    assert result.stdout.splitlines() == ["polled", "passing", "off", "bare", EVIL]


def test_sorting_across_hosts(command: Command, node: str) -> None:
    args = ["-c", TEST, "-c", node, "list", "--sort", "-name", "--format"]
    lines, document = command.each([*args, form] for form in ("jsonl", "json"))
    names = [json.loads(line)["name"] for line in lines.stdout.splitlines()]

    assert names == ["test", "polled", "passing", "bare", EVIL]
    first, second = json.loads(document.stdout)["hosts"]
    assert (first["uri"], second["uri"]) == (TEST, node)
    assert [row["name"] for row in second["domains"]] == names[1:]


def test_stats_of_all(command: Command, node: str) -> None:
    running, every = command.each(
        ["-c", node, "stats", *more, "--format", "json"] for more in ([], ["--all"])
    )
    assert [row["name"] for row in only_host(running)["domains"]] == [
        *(EVIL, "bare", "passing", "polled")
    ]
    assert len(only_host(every)["domains"]) == 5


def test_help_fits_a_screen(command: Command) -> None:
    names = [name for name in COMMANDS if name != "completion bash"]
    results = command.each(([name.split()[0], "--help"] for name in names), env={"COLUMNS": "80"})
    for result in results:
        assert "[DOMAIN" not in result.stdout.partition("Options:")[2]
        lines = result.stdout.splitlines()
        assert len(lines) <= 40, result.args
        assert max(map(len, lines)) <= 80
        hosts = lines.index("Hosts (also before the command):")
        assert lines.index("Options:") < hosts
        # A line for each.
        assert [line.split()[0] for line in lines[hosts + 1 :]] == [
            *("-c,", "-H,", "--config-file", "--timeout", "--jobs", "-v,")
        ]


def test_columns_of_csv(command: Command, node: str) -> None:
    chosen = "name,interval,uri,used,swap_in"
    args = ["-c", node, "list", "--format", "csv"]
    runs: list[list[str]] = [[], ["--columns", chosen], ["--columns", "name,used", "--no-header"]]
    every, some, bare = (
        list(csv.reader(io.StringIO(result.stdout, newline="")))
        for result in command.each([*args, *more] for more in runs)
    )
    # The host's URI is a column like others, and the first where none are chosen.
    assert every[0][:2] == ["uri", "name"]
    assert some[0] == ["name", "interval.in_force", "uri", "used_bytes", "stats.swap_in"]
    assert ["polled", "7", node, "33554432", "0"] in some
    assert bare[0] == [EVIL, "33554432"]
    assert ["polled", "33554432"] in bare


def test_a_domain_that_does_not_run_has_no_qom_path(command: Command, node: str) -> None:
    result = command("-c", node, "list", "off", "--format", "json")

    (off,) = only_host(result)["domains"]
    assert (off["verdict"], off["balloon"]["qom_path"]) == ("shutoff", None)


# Setting.


def changes(result: Result) -> dict[str, tuple[str, bool]]:
    return {row["name"]: (row["outcome"], row["changed"]) for row in only_host(result)["domains"]}


SETTING: list[tuple[list[str], int, dict[str, tuple[str, bool]]]] = [
    (["9", "polled"], 0, {"polled": ("changed", True)}),
    (["7", "polled"], 0, {"polled": ("unchanged", False)}),
    (["9s", "polled"], 0, {"polled": ("changed", True)}),
    (["0", "polled"], 0, {"polled": ("changed", True)}),
    (["2147483647", "polled"], 0, {"polled": ("changed", True)}),
    (["9", "polled", "--dry-run"], 0, {"polled": ("changed", True)}),
    (["9", "off"], 0, {"off": ("changed", True)}),
    (["3", "off"], 0, {"off": ("unchanged", False)}),
    (["9", "off", "--live"], 1, {"off": ("failed", False)}),
    (["9", "passing", "--config"], 1, {"passing": ("failed", False)}),
    (["9", "bare"], 1, {"bare": ("failed", False)}),
    (["9", "bare", "--dry-run"], 1, {"bare": ("failed", False)}),
    (["9", "bare", "polled"], 3, {"bare": ("failed", False), "polled": ("changed", True)}),
    (["9", "ba*"], 0, {"bare": ("skipped", False)}),
    (
        ["9", "--all"],
        0,
        {
            EVIL: ("changed", True),
            "bare": ("skipped", False),
            "passing": ("changed", True),
            "polled": ("changed", True),
        },
    ),
    (
        ["9", "--all", "--config"],
        0,
        {
            EVIL: ("changed", True),
            "bare": ("skipped", False),
            "off": ("changed", True),
            "polled": ("changed", True),
        },
    ),
]


def test_setting(command: Command, node: str) -> None:
    results = command.each(
        ["-c", node, "set-interval", "--format", "json", *args] for args, *_ in SETTING
    )

    for result, (_, status, outcomes) in zip(results, SETTING, strict=True):
        assert result.status == status, result.args
        assert changes(result) == outcomes, result.args
        failed = [name for name, (outcome, _) in outcomes.items() if outcome == "failed"]
        assert len(result.complaints) == len(failed)
        for name, complaint in zip(failed, result.complaints, strict=True):
            assert f"domain '{name}'" in complaint
            assert node in complaint


def test_what_is_set_is_shown_from_and_to(command: Command, node: str) -> None:
    result = command("-c", node, "set-interval", "9", "polled")

    assert (result.status, result.stderr) == (0, "")
    heading, row = result.stdout.splitlines()
    assert heading.split() == ["DOMAIN", "OUTCOME", "LIVE", "CONFIG"]
    assert row.split("  ")[0] == "polled"
    assert "7 s -> 9 s" in row


# Noise, and streams that are not there.


def test_a_long_time_is_time_enough(command: Command) -> None:
    for seconds in ("1e10", "1e300"):
        result = command("-c", TEST, "list", "test", "--timeout", seconds)
        assert "internal error" not in result.stderr
        assert result.status in {0, 2}


def test_verbose_shows_the_calls_on_stderr(command: Command, node: str) -> None:
    result = command("-c", node, "list", "--format", "json", "-v")

    assert result.status == 0
    assert only_host(result)["status"] == "ok"
    assert any("listAllDomains" in line for line in result.complaints)
    assert all(line.isprintable() for line in result.complaints)


def test_error_quotes_the_given_word(command: Command, node: str) -> None:
    result = command("-c", node, "list", "no  body ")

    assert result.complaints == ["virtballoon: no domain matches 'no  body '"]


def test_a_command_to_turn_polling_on_can_be_pasted(command: Command, node: str) -> None:
    result = command("-c", node, "list", "--", EVIL)

    (advice,) = result.complaints
    assert advice.isprintable()
    # Its name would not come out of a terminal as it is.
    assert re.search("set-interval 10 [0-9a-f-]{36}$", advice)


def test_help_goes_to_stdout(command: Command) -> None:
    for args in (["--help"], ["set-interval", "-h"]):
        result = command(*args)
        assert (result.status, result.stderr) == (0, "")
        assert result.stdout.startswith("Usage: virtballoon")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(command: Command, shell: str) -> None:
    result = command("completion", shell)

    assert (result.status, result.stderr) == (0, "")
    assert "_VIRTBALLOON_COMPLETE" in result.stdout


def cold(redirection: str, folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    # Python looks at its streams when it starts, so this starts one.
    return finished(
        ["sh", "-c", f'"$@" {redirection}', "sh", *COLD, *args], env=clean_environment(folder)
    )


@pytest.mark.parametrize("args", [["list"], ["--help"]], ids=" ".join)
def test_a_full_disk(tmp_path: Path, args: list[str]) -> None:
    result = cold(">/dev/full", tmp_path, "-c", TEST, *args)

    complaints = [line for line in result.stderr.splitlines() if "not polled" not in line]
    assert len(complaints) == 1, result.stderr
    assert complaints[0].startswith("virtballoon: ")
    assert "No space left on device" in complaints[0]
    assert "internal error" not in complaints[0]
    assert result.returncode == 1


@pytest.mark.parametrize("redirection", [">&-", "2>&-"])
def test_a_stream_that_is_closed(tmp_path: Path, redirection: str) -> None:
    result = cold(redirection, tmp_path, "-c", TEST, "list", "--format", "json")

    assert "Traceback" not in result.stderr
    assert "internal error" not in result.stderr
    if redirection == "2>&-":
        assert result.returncode == 0
        assert json.loads(result.stdout)["hosts"][0]["status"] == "ok"


def test_a_reader_that_has_gone(tmp_path: Path) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    try:
        result = subprocess.run(
            [*COLD, "-c", TEST, "list", "--format", "json"],
            env=clean_environment(tmp_path),
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=subprocess.PIPE,
            text=True,
            timeout=30,
            check=False,
        )
    finally:
        os.close(theirs)

    assert result.returncode not in {0, 120}
    assert result.stderr == ""
