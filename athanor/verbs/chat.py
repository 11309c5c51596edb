"""athanor chat: talk to a model in the terminal."""

import sys
import time
from typing import Any

import click

from athanor.base.words import say
from athanor.verbs.options import json_option, open_speaker, store_option

HELP = say("/new starts over · /system TEXT sets the system turn · /quit leaves (Ctrl-D too)",
           "/new 重新开始 · /system 文本 设置系统提示 · /quit 退出（或 Ctrl-D）")  # fmt: skip


@click.command(epilog='\b\nExample:  athanor chat\n          athanor chat -p "Who are you?"')
@click.argument("model", required=False)
@click.option(
    "-p", "--prompt", multiple=True, help=say("ask this and leave (may be given again)", "提问后退出（可多次）")
)
@click.option("--system", default="", help=say("system turn", "系统提示"))
@click.option("--temperature", default=0.0, show_default=True)
@click.option("--top-p", default=1.0, show_default=True)
@click.option("--max-tokens", default=256, show_default=True)
@click.option("--seed", type=int)
@store_option
@json_option
def command(
    model: str | None, prompt: tuple[str, ...], system: str, store: str | None, as_json: bool, **how: Any
) -> None:
    """Talk to MODEL: a model's or an adapter's name, a checkpoint's folder, or (not given) the newest of the store."""
    from athanor.inference.sampling import Sampling
    from athanor.tokens.chat import require_template

    sampling = Sampling(**how)
    name, runtime, _ = open_speaker(store, model)
    require_template(runtime.template)
    talk = Talk(runtime, sampling, system, as_json)
    if prompt or not sys.stdin.isatty():
        for question in prompt or (line.strip() for line in sys.stdin):
            if question:
                talk.ask(question)
        return
    click.secho(name, dim=True)
    click.secho(HELP, dim=True)
    _talk_on(talk)


def _talk_on(talk: "Talk") -> None:
    import readline  # noqa: F401 - gives input() history and line editing

    while True:
        try:
            line = input("\n» ").strip()
        except (EOFError, KeyboardInterrupt):
            click.echo()
            return
        if line in ("/quit", "/exit"):
            return
        if line == "/new":
            talk.start_over()
        elif line.startswith("/system"):
            talk.start_over(line.removeprefix("/system").strip())
        elif line.startswith("/"):
            click.secho(HELP, dim=True)
        elif line:
            talk.ask(line)


class Talk:
    """One conversation that goes on: keeps the turns, streams the answers."""

    def __init__(self, runtime: Any, sampling: Any, system: str, as_json: bool):
        self.runtime, self.sampling, self.as_json = runtime, sampling, as_json
        self.start_over(system)

    def start_over(self, system: str = "") -> None:
        """Forget every turn; `system` begins the new conversation."""
        from athanor.tokens.conversation import Turn

        self.turns = [Turn("system", system)] if system else []

    def ask(self, question: str) -> None:
        """Add a question, show the answer as it comes, and keep both."""
        from athanor.tokens.conversation import Turn
        from athanor.verbs.options import print_json

        self.turns.append(Turn("user", question))
        started, answer, tokens = time.monotonic(), "", 0
        try:
            for piece in self.runtime.engine.stream(self._prompt(), self.sampling):
                answer += piece.text
                tokens += len(piece.ids)
                if not self.as_json:
                    click.echo(piece.text, nl=False)
        except KeyboardInterrupt:
            click.echo(" …", nl=False)
        self.turns.append(Turn("assistant", answer))
        seconds = time.monotonic() - started
        if self.as_json:
            print_json({"question": question, "answer": answer, "tokens": tokens, "seconds": round(seconds, 4)})
        else:
            click.echo()

    def _prompt(self) -> list[int]:
        """The turns as ids; the oldest exchange goes first when the context is full, and we say so."""
        while True:
            ids: list[int] = self.runtime.chat_prompt(self.turns)
            room = self.runtime.engine.context - len(ids)
            oldest = 1 if self.turns[0].role == "system" else 0
            if room > 16 or len(self.turns) <= oldest + 1:
                return ids
            del self.turns[oldest : oldest + 2]
            click.secho(
                say("(the oldest question was dropped: the context is full)", "（上下文已满，丢弃最早的一问一答）"),
                dim=True,
                err=True,
            )
