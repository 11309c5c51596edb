"""A verb that has commands of its own: they are listed in the order of a table, in the reader's language."""

import importlib
from collections.abc import Mapping
from typing import Any

import click

from athanor.base.errors import AthanorError
from athanor.base.words import say


class CommandGroup(click.Group):
    """A group whose class attribute `table` says what each command does: command -> (English, 中文).

    A command that is not registered is the `command` of the file `<verb>_<command>.py`, imported when it is asked for.
    """

    table: Mapping[str, tuple[str, str]] = {}
    module = ""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(self.table)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        found = super().get_command(context, name)
        if found is None and self.module and name in self.table:
            found = importlib.import_module(f"{self.module}_{name}").command
        return found

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section(say("Commands", "命令")):
            formatter.write_dl([(name, say(*texts)) for name, texts in self.table.items()])

    def resolve_command(self, context: click.Context, args: list[str]) -> Any:
        from athanor.base.settings import nearest

        if args and args[0] not in self.table:
            raise AthanorError(
                f"there is no command {args[0]!r}", allowed=", ".join(self.table), fix=nearest(args[0], self.table)
            )
        return super().resolve_command(context, args)


def group_of(commands: Mapping[str, tuple[str, str]], module: str = "") -> type[CommandGroup]:
    """A group of these commands; those that are not registered stand in files beside `module`."""
    return type("CommandGroup", (CommandGroup,), {"table": commands, "module": module})
