"""Other ways to a hypervisor: listeners that pass on what comes, later by half a round trip.

They run in a process of their own, so that they take nothing from the one that is measured. It
ends with its standard input, which only its starter holds, and every connection with it.

It is run by its path, so that it needs neither the checkout's import path nor its directory.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import subprocess
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

_AT_ONCE = 1 << 16


class Link:
    """Listeners on the loopback that lead to a socket: a context manager.

    :param target: the unix socket that they lead to
    :param delay: what the way there and back adds, in seconds
    :param listeners: how many; each is a host of its own to who connects
    :param trace: a file for what passes, see :class:`_Trace`

    :ivar ports: their TCP ports
    """

    def __init__(
        self, target: Path, *, delay: float = 0.0, listeners: int = 1, trace: Path | None = None
    ) -> None:
        self._options = [f"--delay={delay}", f"--listeners={listeners}"]
        self._options += [f"--trace={trace}"] if trace is not None else []
        self._target = target

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-I", __file__, *self._options, str(self._target)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self.ports = [int(port) for port in self._process.stdout.readline().split()]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.communicate()

    @property
    def uris(self) -> list[str]:
        """The hypervisor's URIs through each listener."""
        return [f"qemu+tcp://127.0.0.1:{port}/session" for port in self.ports]


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

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number, half = trace.connection(), options.delay / 2
        try:
            there, back = await asyncio.open_unix_connection(options.target)
        except OSError:
            writer.close()
            return
        await asyncio.gather(
            _carry(reader, back, half, (trace, number, ">")),
            _carry(there, writer, half, (trace, number, "<")),
        )
        back.close()
        writer.close()

    servers = [await asyncio.start_server(accept, "127.0.0.1", 0) for _ in range(options.listeners)]
    print(*(server.sockets[0].getsockname()[1] for server in servers), flush=True)
    await asyncio.to_thread(sys.stdin.read)


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--delay", type=float)
    parser.add_argument("--listeners", type=int)
    parser.add_argument("--trace", type=Path)
    parser.add_argument("target")
    asyncio.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
