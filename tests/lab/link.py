"""Other ways to a hypervisor: listeners that pass on what comes, later by half a round trip.

They run in a process of their own, so that they take nothing from the one that is measured.

It is run by its path, so that it needs neither the checkout's import path nor its directory.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import sys
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

if TYPE_CHECKING:
    from .keeper import Keeper

_AT_ONCE = 1 << 16
_READY_TIMEOUT = 60.0


class Link:
    """Listeners on the loopback that lead to a unix socket: a context manager.

    :param target: the unix socket
    :param delay: what the way there and back adds, in seconds
    :param listeners: how many; each is a host of its own to who connects
    :param trace: a file for what passes, see :class:`_Trace`

    :ivar uris: the hypervisor's URIs through each listener
    :ivar directory: the keeper's directory
    """

    def __init__(
        self, target: Path, *, delay: float = 0.0, listeners: int = 1, trace: Path | None = None
    ) -> None:
        self._options = [f"--delay={delay}", f"--listeners={listeners}"]
        self._options += [f"--trace={trace}"] if trace is not None else []
        self._target = target

    def __enter__(self) -> Self:
        # Not at the top: this file also runs alone.
        from .keeper import Keeper

        self.directory = Path(tempfile.mkdtemp(prefix="lab-", dir="/tmp"))
        self._keeper = Keeper(self.directory)
        try:
            arguments = [*self._options, str(self._target)]
            ports = start_listeners(self._keeper, self.directory, arguments)
        except BaseException:
            self._keeper.close()
            raise
        self.uris = [f"qemu+tcp://127.0.0.1:{port}/session" for port in ports]
        return self

    def __exit__(self, *_: object) -> None:
        self._keeper.close()


def start_listeners(keeper: Keeper, directory: Path, arguments: list[str]) -> list[int]:
    """Start this file with a keeper of a directory, and return the ports."""
    from .waiting import wait_until

    output = directory / "output"
    keeper.start([sys.executable, "-I", __file__, *arguments], {})

    def complete() -> bool:
        return output.exists() and "\n" in output.read_text()

    wait_until(complete, _READY_TIMEOUT, f"the listeners in {directory}")
    return [int(port) for port in output.read_text().splitlines()[0].split()]


class _Trace:
    """Writes down what passes, one line for each chunk: seconds, connection, direction, bytes."""

    def __init__(self, path: Path | None) -> None:
        self._file: IO[str] | None = path.open("w") if path is not None else None
        self._connections = 0

    def connection(self) -> int:
        self._connections += 1
        return self._connections

    def add(self, connection: int, direction: str, chunk: bytes) -> None:
        if self._file is not None:
            now = asyncio.get_running_loop().time()
            print(f"{now:.6f}", connection, direction, chunk.hex(), file=self._file, flush=True)


async def _carry(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    delay: float,
    trace: tuple[_Trace, int, str],
) -> None:
    """Pass on each chunk `delay` seconds after it came, however many are on their way."""
    clock = asyncio.get_running_loop().time
    under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def deliver() -> None:
        while True:
            due, chunk = await under_way.get()
            await asyncio.sleep(due - clock())
            if not chunk:
                break
            writer.write(chunk)
            await writer.drain()
        writer.write_eof()

    delivery = asyncio.create_task(deliver())
    with contextlib.suppress(ConnectionError):
        while chunk := await reader.read(_AT_ONCE):
            trace[0].add(trace[1], trace[2], chunk)
            under_way.put_nowait((clock() + delay, chunk))
    under_way.put_nowait((clock() + delay, b""))
    with contextlib.suppress(ConnectionError, OSError):
        await delivery


async def _serve(options: argparse.Namespace) -> None:
    trace = _Trace(options.trace)
    loop = asyncio.get_running_loop()

    async def forward(client: socket.socket) -> None:
        number, half = trace.connection(), options.delay / 2
        reader, writer = await asyncio.open_connection(sock=client)
        with contextlib.closing(writer):
            there, back = await asyncio.open_unix_connection(options.target[0])
            with contextlib.closing(back):
                await asyncio.gather(
                    _carry(reader, back, half, (trace, number, ">")),
                    _carry(there, writer, half, (trace, number, "<")),
                )

    async def run(client: socket.socket) -> None:
        with client:
            program = await asyncio.create_subprocess_exec(
                *options.target, stdin=client.fileno(), stdout=client.fileno()
            )
        await program.wait()

    async def serve(listener: socket.socket) -> None:
        under_way = set()
        while True:
            client, _ = await loop.sock_accept(listener)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = asyncio.create_task(run(client) if options.run else forward(client))
            under_way.add(task)
            task.add_done_callback(under_way.discard)

    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(options.listeners)]
    for listener in listeners:
        listener.setblocking(False)
    print(*(listener.getsockname()[1] for listener in listeners), flush=True)
    await asyncio.gather(*map(serve, listeners))


def main() -> None:
    """Serve until somebody ends it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--listeners", type=int, default=1)
    parser.add_argument("--trace", type=Path)
    parser.add_argument(
        "--run", action="store_true", help="run the target on each connection, as inetd does"
    )
    parser.add_argument("target", nargs="+")
    asyncio.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
