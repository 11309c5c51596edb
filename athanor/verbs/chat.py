"""athanor chat: talk to a model in the terminal, or have one that reads and writes translate, line by line."""

import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from athanor.base.errors import AthanorError
from athanor.base.words import say
from athanor.verbs.options import encoder_decoder, json_option, open_speaker, print_json, store_option

HELP = say("/new starts over · /system TEXT sets the system turn · /quit leaves (Ctrl-D too)",
           "/new 重新开始 · /system 文本 设置系统提示 · /quit 退出（或 Ctrl-D）")  # fmt: skip


SAID = ("in generation_config.json", "generation_config.json 中")
LANGUAGES = {"source": "--from", "target": "--to"}  # mean something for encoder-decoders only


@click.command(
    epilog='\b\nExample:  athanor chat\n          athanor chat -p "Who are you?"\n'
    '          athanor chat ~/m2m100_418M --from en --to zh --beams 5 -p "Good morning"\n'
    "          athanor chat ~/whisper-tiny -p speech.wav"
)
@click.argument("model", required=False)
@click.option(
    "-p", "--prompt", multiple=True, help=say("ask this and leave (may be given again)", "提问后退出（可多次）")
)
@click.option("--system", default="", help=say("system turn", "系统提示"))
@click.option("--temperature", type=float, help=say("as the model's files say, else 0", "按模型文件，否则为 0"))
@click.option("--top-p", type=float, help=say("as the model's files say, else 1", "按模型文件，否则为 1"))
@click.option("--top-k", type=int, help=say("as the model's files say, else off", "按模型文件，否则关闭"))
@click.option("--repetition-penalty", type=float, help=say("as the model's files say", "按模型文件"))
@click.option("--max-tokens", type=int, help=say("as the model's files say, else 256", "按模型文件，否则 256"))
@click.option("--seed", type=int)
@click.option("--beams", type=int, help=say("beam search over so many beginnings; 1: none", "束搜索的束数；1 表示不用"))
@click.option("--from", "source", metavar="CODE", help=say("language of the text (M2M-100, NLLB, Whisper)", "源语言"))
@click.option("--to", "target", metavar="CODE", help=say("language to write (M2M-100, NLLB, Whisper)", "目标语言"))
@store_option
@json_option
def command(
    model: str | None, prompt: tuple[str, ...], system: str, store: str | None, as_json: bool, **how: Any
) -> None:
    """Talk to MODEL: a model's or an adapter's name, a checkpoint's folder, or (not given) the newest of the store.

    A model that reads a text and writes another (T5, mT5, M2M-100, NLLB) answers each line by itself. Whisper takes
    each line for the path of a WAV file and writes down what is spoken; --to en puts it into English.
    """
    from athanor.tokens.chat import require_template

    languages, beams = {name: how.pop(name) for name in LANGUAGES}, how.pop("beams")
    found = encoder_decoder(store, model)
    if found is not None:
        if system:
            raise AthanorError("--system: this model answers each text by itself", fix="leave it out")
        _write_on(found, _lines(prompt), how, {**languages, "beams": beams}, as_json)
        return
    named = [LANGUAGES[name] for name, value in languages.items() if value is not None]
    if named:
        raise AthanorError(f"{named[0]}: this model chats, and is not told languages", fix="leave it out")
    name, runtime, _ = open_speaker(store, model)
    require_template(runtime.template)
    sampling = runtime.defaults.above(how, max_tokens=256)
    _say_defaults(runtime.defaults, how, beams)
    talk = Talk(runtime, sampling, system, as_json, runtime.defaults.search(beams, sampling))
    if prompt or not sys.stdin.isatty():
        for question in _lines(prompt):
            talk.ask(question)
        return
    click.secho(name, dim=True)
    click.secho(HELP, dim=True)
    _talk_on(talk)


def _lines(prompt: tuple[str, ...]) -> Iterator[str]:
    """What is asked: the prompts given, else the lines of the standard input."""
    yield from (line for line in prompt or (line.strip() for line in sys.stdin) if line)


def _say_defaults(defaults: Any, how: Mapping[str, Any], beams: int | None) -> None:
    """Which settings came from the model's files, and which of those are not done."""
    if shown := defaults.shown({**how, "beams": beams}):
        click.secho(f"{say(*SAID)}: {shown}", dim=True, err=True)
    for one in defaults.unread:
        click.secho(say(f"{one} {SAID[0]} is not done here", f"{SAID[1]}的 {one} 未被支持"), fg="yellow", err=True)


def _write_on(
    found: tuple[str, Path], lines: Iterator[str], how: Mapping[str, Any], both: Mapping[str, Any], as_json: bool
) -> None:
    """Have an encoder-decoder write a text for each line, or for the sound file that the line names."""
    from athanor.inference.listener import is_speech, open_listener
    from athanor.inference.writer import open_writer

    name, folder = found
    writer: Any = open_listener(folder) if is_speech(folder) else open_writer(folder)
    click.secho(name, dim=True, err=True)
    _say_defaults(writer.defaults, how, both["beams"])
    for line in lines:
        started = time.monotonic()
        source = writer.source(line, both["source"])
        decoding = writer.decoding(both["target"], source, both["source"])
        sampling = writer.sampling(decoding, **how)
        decoding = replace(decoding, beams=writer.defaults.search(both["beams"], sampling))
        (answer,) = writer.write([source], sampling, decoding)
        seconds = time.monotonic() - started
        if as_json:
            print_json({"question": line, "answer": answer.text, "tokens": len(answer.ids),
                        "seconds": round(seconds, 4)})  # fmt: skip
        else:
            click.echo(answer.text)


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

    def __init__(self, runtime: Any, sampling: Any, system: str, as_json: bool, beams: Any = None):
        self.runtime, self.sampling, self.as_json, self.beams = runtime, sampling, as_json, beams
        self.start_over(system)

    def start_over(self, system: str = "") -> None:
        """Forget every turn; `system` begins the new conversation."""
        from athanor.tokens.conversation import Turn

        self.turns = [Turn("system", system)] if system else []

    def ask(self, question: str) -> None:
        """Add a question, show the answer as it comes, and keep both."""
        from athanor.tokens.conversation import Turn

        self.turns.append(Turn("user", question))
        started, answer, tokens = time.monotonic(), "", 0
        try:
            for piece in self._pieces():
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

    def _pieces(self) -> Iterator[Any]:
        """The answer as it comes; of a beam search whole, at its end."""
        from athanor.inference.search import beam_search

        engine = self.runtime.engine
        if self.beams is None:
            yield from engine.stream(self._prompt(), self.sampling)
            return
        most, tokenizer = self.sampling.max_tokens, self.runtime.tokenizer
        yield beam_search(engine.model, self._prompt(), self.beams, most, engine.end_ids, tokenizer)

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
