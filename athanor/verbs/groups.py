"""A verb that has commands of its own: they are listed in the order of a table, in the reader's language."""

from collections.abc import Mapping
from typing import Any

import click

from athanor.base.errors import AthanorError
from athanor.base.words import say


class CommandGroup(click.Group):
    """A group whose class attribute `table` says what each command does: command -> (English, 中文)."""

    table: Mapping[str, tuple[str, str]] = {}

    def list_commands(self, context: click.Context) -> list[str]:
        return list(self.table)

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


def group_of(commands: Mapping[str, tuple[str, str]]) -> type[CommandGroup]:
    """A group of these commands."""
    return type("CommandGroup", (CommandGroup,), {"table": commands})
