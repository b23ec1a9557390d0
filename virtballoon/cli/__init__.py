"""The command line: a thin reader of the library, one module a command."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Final, NoReturn

import click

from virtballoon import __version__
from virtballoon.cli.options import NOTHING, OK, PROGRAM, Settings, complain, shared_options
from virtballoon.errors import ConfigurationError, VirtballoonError
from virtballoon.system.cleanup import undo_pending
from virtballoon.system.packages import missing_package

_USAGE: Final = 2
_INTERRUPTED: Final = 130
_LEAVE_SECONDS: Final = 0.5

#: Module and function of each command, which is imported when it is needed.
_COMMANDS: Final = {
    "list": "list_domains",
    "stats": "stats",
    "set-interval": "set_interval",
    "qom-path": "qom_path",
    "doctor": "doctor",
    "hosts": "hosts",
    "check": "check",
    "watch": "watch",
    "export": "export",
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

    The options below, --version apart, may stand before or behind the command's name.
    """
    ctx.obj = Settings(options)


def main() -> NoReturn:
    """Run the command line and end the process with its status."""
    _prepare_streams()
    try:
        status = _run()
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError as error:
        # A full disk, say. What could not be written is not tried again on the way out.
        with contextlib.suppress(OSError):
            complain(str(error))
        status = NOTHING
    with contextlib.suppress(OSError):
        for line in undo_pending():
            complain(line)
    if "virtballoon.engine.session" in sys.modules:
        sys.modules["virtballoon.engine.session"].wait_for_closing(_LEAVE_SECONDS)
    # Not sys.exit(): a call that hangs in libvirt would be waited for when its connection is taken
    # down; and taking everything else down takes a tenth of the time of a run.
    os._exit(status)


def _run() -> int:
    try:
        result = cli.main(prog_name=PROGRAM, standalone_mode=False)
    except click.UsageError as error:
        place = error.ctx.command_path if error.ctx is not None else PROGRAM
        complain(f"{error.format_message()} (see '{place} --help')")
        return error.exit_code
    except click.Abort:
        complain("interrupted")
        return _INTERRUPTED
    except ConfigurationError as error:
        complain(str(error))
        return _USAGE
    except VirtballoonError as error:
        complain(str(error))
        return int(getattr(error, "exit_status", NOTHING))
    except ImportError as error:
        complain(missing_package(error))
    except OSError:
        raise
    except Exception as error:
        if _is_verbose():
            raise
        complain(f"internal error: {type(error).__name__}: {error} (-v shows where)")
    else:
        return result if isinstance(result, int) else OK
    return NOTHING


def _is_verbose() -> bool:
    import logging

    return logging.getLogger(PROGRAM).isEnabledFor(logging.DEBUG)


def _prepare_streams() -> None:
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            # Closed by the caller: what would be written there is not wanted.
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, PTH123
        # A name that the locale cannot show must not end the run.
        getattr(sys, name).reconfigure(errors="backslashreplace")
