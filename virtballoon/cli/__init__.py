"""The command line: a thin reader of the library, one module a command."""

from __future__ import annotations

import os
import sys
import threading
from typing import Final, NoReturn

import click

from virtballoon import __version__
from virtballoon.cli.options import PROGRAM, Settings, complain, shared_options
from virtballoon.errors import VirtballoonError

_INTERRUPTED: Final = 130

#: Module and function of each command, which is imported when it is needed.
_COMMANDS: Final = {
    "list": "list_domains",
    "stats": "stats",
    "set-interval": "set_interval",
    "qom-path": "qom_path",
    "completion": "completion",
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        from importlib import import_module

        module = import_module(f"virtballoon.cli.{_COMMANDS[cmd_name]}")
        command = module.command
        assert isinstance(command, click.Command)
        return command


@click.group(
    cls=_Commands,
    # Click's versions differ in what they do without a command; this is a usage error in all.
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    subcommand_metavar="COMMAND …",
)
@click.version_option(__version__, prog_name=PROGRAM, message="%(prog)s %(version)s")
@shared_options
@click.pass_context
def cli(ctx: click.Context, /, **options: object) -> None:
    """Guest memory through the virtio balloon, on libvirt/QEMU hosts.

    Turns on the balloon's statistics polling and shows every guest's own memory figures, each
    with its age, its source and a verdict on how far it can be trusted.

    -c, --via, --timeout, --format and -v may stand before or behind the command's name.
    """
    ctx.obj = Settings(options)


def main() -> NoReturn:
    """Run the command line and end the process with its status."""
    for stream in (sys.stdout, sys.stderr):
        # A name that the locale cannot show must not end the run.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        result = cli.main(prog_name=PROGRAM, standalone_mode=False)
        status = result if isinstance(result, int) else 0
    except click.UsageError as error:
        place = error.ctx.command_path if error.ctx is not None else PROGRAM
        complain(f"{error.format_message()} (see '{place} --help')")
        status = error.exit_code
    except click.ClickException as error:
        complain(error.format_message())
        status = error.exit_code
    except click.Abort:
        complain("interrupted")
        status = _INTERRUPTED
    except VirtballoonError as error:
        complain(str(error))
        status = 1
    except ImportError as error:
        complain(f"a library is missing: {error} (libvirt's is python3-libvirt or libvirt-python)")
        status = 1
    except Exception as error:
        if _is_verbose():
            raise
        complain(f"internal error: {type(error).__name__}: {error} (-v shows where)")
        status = 1
    _end(status)


def _is_verbose() -> bool:
    import logging

    return logging.getLogger(PROGRAM).isEnabledFor(logging.DEBUG)


def _end(status: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            status = status or 1
    if any(thread.name.startswith("virtballoon-call") for thread in threading.enumerate()):
        # A call that hangs in libvirt would be waited for when its connection is taken down.
        os._exit(status)
    sys.exit(status)
