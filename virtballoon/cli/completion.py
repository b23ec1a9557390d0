"""``virtballoon completion``: the completion script of a shell."""

from __future__ import annotations

import click

from virtballoon.cli.context import OK, PROGRAM


@click.command("completion", short_help="Print the completion script of a shell.")
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")), metavar="bash|zsh|fish")
@click.pass_context
def command(ctx: click.Context, /, shell: str) -> int:
    """Print the completion script of a shell.

    For bash:  eval "$(virtballoon completion bash)"
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    variable = f"_{PROGRAM.upper()}_COMPLETE"
    click.echo(kind(ctx.find_root().command, {}, PROGRAM, variable).source())
    return OK
