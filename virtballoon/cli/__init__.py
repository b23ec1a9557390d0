"""The command line: a thin reader of the library, one module a command."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Final, NoReturn

import click

from virtballoon import __version__
from virtballoon.cli.context import NOTHING, OK, PROGRAM, message_of, warn
from virtballoon.cli.options import HOST_OPTIONS
from virtballoon.errors import ConfigurationError, InvalidInterval, VirtballoonError
from virtballoon.system.cleanup import undo_pending

_USAGE: Final = 2
_INTERRUPTED: Final = 130
_LEAVE_SECONDS: Final = 0.5

#: The commands, each of which has a module, which is imported when it is needed.
_COMMANDS: Final = (
    *("list", "stats", "set-interval", "qom-path", "doctor", "hosts", "check", "watch"),
    *("export", "record", "advise", "completion"),
)


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        from importlib import import_module

        # A module of the name list would hide Python's list here.
        name = "list_domains" if cmd_name == "list" else cmd_name.replace("-", "_")
        module = import_module(f"virtballoon.cli.{name}")
        command = module.command
        assert isinstance(command, click.Command)
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            rest = super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            from difflib import get_close_matches

            commands = filter(None, (self.get_command(ctx, name) for name in _COMMANDS))
            known = {name for one in (self, *commands) for each in one.params for name in each.opts}
            near = get_close_matches(error.option_name, sorted(known), n=1, cutoff=0.7)
            near = [name for name in near if name != error.option_name]
            named = click.NoSuchOption(error.option_name, possibilities=near, ctx=ctx)
            message = f"{named.format_message()} (a command's own options follow its name)"
            raise click.UsageError(message, ctx) from error
        # The same options after the command's name win.
        given = {name: value for name, value in ctx.params.items() if value}
        ctx.default_map = dict.fromkeys(_COMMANDS, given)
        return rest

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in _COMMANDS and not ctx.resilient_parsing:
            from difflib import get_close_matches

            near = get_close_matches(args[0], _COMMANDS, n=1, cutoff=0.5)
            hint = f" Did you mean {near[0]}?" if near else f" Commands: {', '.join(_COMMANDS)}."
            ctx.fail(f"No such command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)


@click.group(
    cls=_Commands,
    params=[*HOST_OPTIONS],
    # Without a command, click's versions differ; this is a usage error in all.
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    subcommand_metavar="COMMAND …",
)
@click.version_option(
    __version__, "-V", "--version", prog_name=PROGRAM, message="%(prog)s %(version)s"
)
def cli(**_options: object) -> None:
    """Guest memory figures of libvirt/QEMU domains, through the virtio balloon.

    Turns on polling of the balloon's statistics and shows the memory figures of each guest with
    their age, their source and a verdict on how reliable they are.

    The options below, except --version, can also follow the command's name.
    """


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
            warn(str(error))
        status = NOTHING
    with contextlib.suppress(OSError):
        for line in undo_pending():
            warn(line)
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
        warn(f"{message_of(error)} (see '{place} --help')")
        return error.exit_code
    except click.Abort:
        warn("interrupted")
        return _INTERRUPTED
    except (VirtballoonError, ImportError) as error:
        warn(message_of(error))
        is_usage = isinstance(error, ConfigurationError | InvalidInterval)
        return int(getattr(error, "exit_status", _USAGE if is_usage else NOTHING))
    except OSError:
        raise
    except Exception as error:
        if _is_verbose():
            raise
        warn(f"{message_of(error)} (-v shows where)")
        return NOTHING
    return result if isinstance(result, int) else OK


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
