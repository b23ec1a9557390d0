"""Ways to a host, on real ones: each that is open works, each that is not costs its own row."""

from __future__ import annotations

import os
import pty
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.conftest import available
from tests.lab import Hypervisor, Link, SshServer, wait_until
from tests.lab.hypervisor import unprivileged
from tests.process import finished
from virtballoon import (
    AuthError,
    ConnectError,
    HostKeyError,
    HostStatus,
    HostUnreachable,
    NoDaemon,
    Outcome,
    Source,
    Verdict,
    read_host,
    read_hosts,
    set_intervals,
)

COMMAND = str(Path(sys.executable).with_name("virtballoon"))
ROUND_TRIP = 0.04


@pytest.fixture(scope="module")
def alone() -> Iterator[Hypervisor]:
    """A hypervisor that listens on TCP, too, with a few domains."""
    with available(Hypervisor(tcp="none")) as hypervisor:
        hypervisor.create_blank(4, period=5)
        yield hypervisor


@pytest.fixture(scope="module")
def ssh(alone: Hypervisor) -> Iterator[SshServer]:
    """The way there by ssh."""
    with available(SshServer(alone)) as server:
        yield server


@contextmanager
def deaf() -> Iterator[int]:
    """The port of a host that does not answer, not even to say that nobody listens there."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        # What comes when its queue is full is dropped.
        for _ in range(4):
            caller = stack.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


@contextmanager
def silent() -> Iterator[int]:
    """The port of a host that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@contextmanager
def refusing() -> Iterator[int]:
    """A port where nobody listens, and nobody else comes to listen."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield unused.getsockname()[1]


@pytest.mark.parametrize("way", ["unix", "TCP", "a slow link", "ssh", "ssh and netcat"])
def test_reading_and_setting(alone: Hypervisor, request: pytest.FixtureRequest, way: str) -> None:
    with Link(alone.socket, delay=ROUND_TRIP) as link:
        match way:
            case "unix":
                uri = alone.uri
            case "TCP":
                uri = alone.tcp_uri
            case "a slow link":
                uri = link.uris[0]
            case "ssh":
                uri = request.getfixturevalue("ssh").uri()
            case _:
                uri = request.getfixturevalue("ssh").uri(socket=alone.socket)
        seconds = {5: 6}.get(read_host(alone.uri).domains[0].interval.live or 0, 5)
        done = set_intervals(uri, seconds, None)
        assert [change.outcome for change in done.domains] == [Outcome.CHANGED] * 4, done.error
        for via in Source:
            host = read_host(uri, via=via)
            assert (host.uri, host.status, host.error) == (uri, HostStatus.OK, None)
            assert host.memory is not None
            assert host.memory.unknown_domains == len(host.domains)
            assert {row.verdict for row in host.domains} == {Verdict.SUSPENDED}
            assert {row.interval.live for row in host.domains} == {seconds}
            asked = {Source.LIBVIRT: None, Source.QOM: seconds}[via]
            assert {row.interval.qemu for row in host.domains} == {asked}


@pytest.fixture(scope="module")
def obstacles(alone: Hypervisor, ssh: SshServer) -> Iterator[dict[str, type[ConnectError]]]:
    """Ways that are not open, and what each is."""
    known, other = ssh.directory / "known_hosts", ssh.directory / "other_hosts"
    assert known.read_text() != other.read_text()
    shut = ssh.directory / "shut"
    with (
        refusing() as closed,
        available(Hypervisor(tcp="sasl")) as guarded,
        socket.socket(socket.AF_UNIX) as listener,
    ):
        listener.bind(str(shut))
        listener.listen()
        shut.chmod(0)
        yield {
            ssh.uri("UserKnownHostsFile=none"): HostKeyError,
            ssh.uri(f"UserKnownHostsFile={other}"): HostKeyError,
            ssh.uri(keyfile=ssh.directory / "other_key"): AuthError,
            ssh.uri(socket=shut): AuthError,
            guarded.tcp_uri: AuthError,
            ssh.uri(socket=alone.directory / "none"): NoDaemon,
            ssh.uri(socket=alone.socket, netcat="/nowhere/nc"): NoDaemon,
            f"qemu+tcp://127.0.0.1:{closed}/system": NoDaemon,
            f"qemu:///session?socket={alone.directory}/none": NoDaemon,
            ssh.uri(port=closed): HostUnreachable,
            # So malformed that no resolver is asked, which may be slow.
            ssh.uri().replace("127.0.0.1", "host..invalid"): HostUnreachable,
            "qemu+tcp://host..invalid/system": HostUnreachable,
        }


def test_each_obstacle_costs_its_own_row(
    alone: Hypervisor, ssh: SshServer, obstacles: dict[str, type[ConnectError]]
) -> None:
    with deaf() as no_answer, silent() as no_word:
        hanging = [
            f"qemu+tcp://127.0.0.1:{no_answer}/system",
            f"qemu+tcp://127.0.0.1:{no_word}/system",
            ssh.uri(port=no_answer),
            ssh.uri(port=no_word),
        ]
        open_ones = [alone.uri, alone.tcp_uri, ssh.uri()]
        targets = [*hanging, *obstacles, *open_ones]
        hosts = dict(zip(targets, read_hosts(targets, timeout=8), strict=True))
    for uri, kind in {**obstacles, **dict.fromkeys(hanging, ConnectError)}.items():
        host = hosts[uri]
        assert type(host.error) is kind, (uri, host.error)
        assert (host.uri, host.status, host.domains) == (uri, HostStatus.UNREACHABLE, ())
    for uri in open_ones:
        assert hosts[uri].error is None
        assert len(hosts[uri].domains) == 4
    # Only those that hang take the time that they are given.
    patient = min(hosts[uri].elapsed_seconds for uri in hanging)
    for uri in [*obstacles, *open_ones]:
        assert hosts[uri].elapsed_seconds < patient


def test_an_obstacle_is_one_line(obstacles: dict[str, type[ConnectError]]) -> None:
    for uri, kind in obstacles.items():
        result = finished([COMMAND, "-c", uri, "list"])
        assert (result.returncode, result.stdout) == (1, ""), uri
        (line,) = result.stderr.splitlines()
        assert line.startswith(f"virtballoon: on {uri}: ")
        assert line.endswith(")"), f"no hint for {kind}"


def test_sixteen_hosts_take_about_as_long_as_one(alone: Hypervisor) -> None:
    one: list[float] = []
    sixteen: list[float] = []
    with Link(alone.socket, delay=ROUND_TRIP, listeners=16) as link:
        for _ in range(3):
            for times, uris in ((one, link.uris[:1]), (sixteen, link.uris)):
                started_at = time.monotonic()
                hosts = read_hosts(uris)
                times.append(time.monotonic() - started_at)
                assert [len(host.domains) for host in hosts] == [4] * len(uris)
    assert min(sixteen) < 6 * min(one)


def clients_of(server: SshServer) -> list[str]:
    """The command lines of the ssh clients that were started for it."""
    files = [entry / "cmdline" for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    lines = []
    for file in files:
        try:
            words = file.read_bytes().decode(errors="replace").split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if f"{server.directory}/ssh_config" in words:
            lines.append(" ".join(words))
    return lines


def test_no_ssh_outlives_the_command(ssh: SshServer) -> None:
    # By way of a program that never says a word, nor ends with its ssh.
    proxy = f"ProxyCommand=sh -c 'sleep 600; :' {ssh.directory}/ssh_config"
    with silent() as port:
        command = [COMMAND, "-c", ssh.uri(port=port), "-c", ssh.uri(proxy), "list", "--timeout=2"]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            wait_until(lambda: len(clients_of(ssh)) == 3, 60, "ssh to be started")
            assert process.wait(120) == 1
        # The host is still there and silent: ssh has no reason of its own to end.
        wait_until(lambda: not clients_of(ssh), 60, f"the end of {clients_of(ssh)}")


def test_no_ssh_outlives_the_visit_of_a_library(ssh: SshServer) -> None:
    with silent() as port:
        host = read_host(ssh.uri(port=port), timeout=1)
        assert isinstance(host.error, ConnectError)
        wait_until(lambda: not clients_of(ssh), 60, f"the end of {clients_of(ssh)}")


@pytest.mark.parametrize("what", ["host key", "password"])
def test_nothing_is_asked_on_the_terminal(alone: Hypervisor, ssh: SshServer, what: str) -> None:
    with available(SshServer(alone, passwords=True)) as server:
        if what == "password":
            uri = server.uri(keyfile=ssh.directory / "other_key")
        else:
            uri = server.uri("UserKnownHostsFile=/dev/null")
        said, status = on_a_terminal(uri)
        assert (len(said.splitlines()), status) == (1, 1), said
        # Whoever wants to be asked is, and is not waited for longer than anything else.
        said, status = on_a_terminal(f"{uri}&no_tty=0")
        assert {"host key": "(yes/no", "password": "password: "}[what] in said
        assert "no answer within" in said
        wait_until(lambda: not clients_of(server), 60, f"the end of {clients_of(server)}")


def on_a_terminal(uri: str) -> tuple[str, int]:
    """What a list says on a terminal of its own, and its exit status."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(COMMAND, [COMMAND, "-c", uri, "list", "--timeout", "3"])
    said = b""
    try:
        while chunk := os.read(terminal, 4096):
            said += chunk
    except OSError:
        # How a terminal ends.
        pass
    finally:
        os.close(terminal)
        _, status = os.waitpid(pid, 0)
    return said.decode(), os.waitstatus_to_exitcode(status)


@pytest.fixture(scope="module")
def guarded() -> Iterator[Hypervisor]:
    """A hypervisor that asks for a password on TCP, with a domain."""
    with available(Hypervisor(tcp="sasl")) as hypervisor:
        hypervisor.add_login("fred", "secret")
        hypervisor.create_blank(1, period=5)
        yield hypervisor


def credentials(path: Path, password: str) -> Path:
    """Libvirt's file with passwords."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        f"[credentials-lab]\nauthname=fred\npassword={password}\n"
        "[auth-libvirt-127.0.0.1]\ncredentials=lab\n"
    )
    return path


def set_and_listed(uri: str, environment: dict[str, str], folder: Path) -> list[int]:
    """Set the interval, which needs to write, and list; the exit statuses."""
    runs = [run_command(environment, folder, "-c", uri, *words) for words in (SET, ["list"])]
    assert all("blank0000" in run.stdout for run in runs if run.returncode == 0), runs
    return [run.returncode for run in runs]


SET = ["set-interval", "5", "--all"]


def run_command(
    environment: dict[str, str], home: Path, *words: str
) -> subprocess.CompletedProcess[str]:
    return finished([COMMAND, *words], env={"PATH": os.defpath, "HOME": str(home), **environment})


@pytest.mark.parametrize("way", ["authfile", "LIBVIRT_AUTH_FILE", "the user's"])
def test_a_password_comes_from_auth_conf(guarded: Hypervisor, tmp_path: Path, way: str) -> None:
    path = credentials(tmp_path / "libvirt/auth.conf", "secret")
    uri = guarded.tcp_uri
    environment: dict[str, str] = {}
    match way:
        case "authfile":
            uri += f"?authfile={path}"
        case "LIBVIRT_AUTH_FILE":
            environment[way] = str(path)
        case _:
            environment["XDG_CONFIG_HOME"] = str(tmp_path)
    assert set_and_listed(uri, environment, tmp_path) == [0, 0]


def test_a_password_that_is_missing_or_wrong_names_auth_conf(
    guarded: Hypervisor, tmp_path: Path
) -> None:
    wrong = credentials(tmp_path / "wrong.conf", "other")
    broken = tmp_path / "broken.conf"
    broken.write_text("[credentials-lab\n")
    uri = guarded.tcp_uri
    for asked, said in {
        uri: f"{tmp_path}/.config/libvirt/auth.conf or /etc/libvirt/auth.conf",
        f"{uri}?authfile={wrong}": f"password from {wrong}",
        f"{uri}?authfile={tmp_path}/none": f"cannot read {tmp_path}/none: No such file",
        f"{uri}?authfile={broken}": f"is {broken} a valid auth.conf?",
    }.items():
        assert isinstance(read_host(asked).error, AuthError)
        for words in (SET, ["list"]):
            run = run_command({}, tmp_path, "-c", asked, *words)
            assert (run.returncode, run.stdout) == (1, "")
            (line,) = run.stderr.splitlines()
            assert said in line, line
        # Nor is anything asked where there is a terminal.
        said_there, status = on_a_terminal(asked)
        assert (len(said_there.splitlines()), status) == (1, 1), said_there


@pytest.fixture(scope="module")
def lonely() -> Iterator[Hypervisor]:
    """An ordinary user's own daemon, which has no domain."""
    with available(Hypervisor()) as hypervisor:
        yield hypervisor


def as_user(hypervisor: Hypervisor, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command as the user of this daemon, with no host named."""
    command = unprivileged([sys.executable, "-P", "-m", "virtballoon", *words])
    # Where this user can be.
    return finished(command, env=hypervisor.environment, cwd="/")


def test_an_empty_session_that_nothing_names(lonely: Hypervisor) -> None:
    hint = "virtballoon: no domain on qemu:///session, the default since no host is named; "
    for words in (["list"], ["list", "--quiet"], ["list", "--format", "json"], ["doctor"]):
        run = as_user(lonely, *words)
        assert run.returncode == 0, run.stderr
        (line,) = run.stderr.splitlines()
        assert line.startswith(hint)
        assert line.endswith("use -c qemu:///system (needs the group libvirt)")
    for words in (["list", "web1"], ["stats", "web1"], ["set-interval", "5", "web1"]):
        run = as_user(lonely, *words)
        assert run.returncode == 1
        assert "no domain matches 'web1'" in run.stderr.splitlines()[0]
        assert run.stderr.splitlines()[1].startswith(hint)

    run = as_user(lonely, "check")
    assert (run.returncode, run.stderr) == (3, "")
    assert run.stdout.startswith("MEMORY UNKNOWN - no domain on qemu:///session, ")

    # One that is named may be empty.
    for words in (["list"], ["check"]):
        run = as_user(lonely, "-c", "qemu:///session", *words)
        assert (run.returncode, run.stderr) == (0, "")
