"""The command line: one table names every verb; a verb's file is imported only when it is asked for.

A new verb is one file in `verbs/` with a `click.Command` called `command`, and one row here.
"""

import importlib
import json
import keyword
import os
import sys
from typing import Any

import click

from athanor import __version__
from athanor.base.errors import EXIT_FAILED, EXIT_STOPPED_BY_USER, AthanorError
from athanor.base.words import say

VERBS = {  # verb: (English, 中文)
    "run": ("run a recipe: from raw documents to a served chat model", "运行配方：从原始文档到可对话的模型"),
    "finetune": (
        "teach a model conversations: LoRA, QLoRA and others, every value chosen with its reason",
        "微调模型：LoRA、QLoRA 等，每个取值都附理由",
    ),
    "plan": (
        "parameters, FLOPs, memory and time of a recipe, before anything starts",
        "开始之前：参数量、算力、内存与时间",
    ),
    "launch": (
        "a run on a cluster: the job for Slurm, Kubernetes, Ray or ssh",
        "在集群上运行：生成 Slurm、Kubernetes、Ray 或 ssh 作业",
    ),
    "chat": ("talk to a model in the terminal", "在终端里与模型对话"),
    "serve": ("serve a model: OpenAI API, and a chat page at /", "提供服务：OpenAI 接口与聊天网页"),
    "import": ("take a Hugging Face checkpoint into the store", "将 Hugging Face 检查点导入仓库"),
    "export": (
        "write a model for transformers (hf), llama.cpp (gguf), peft or onnxruntime (onnx)",
        "导出模型：transformers（hf）、llama.cpp（gguf）、peft 或 onnxruntime（onnx）",
    ),
    "data": ("read, look at, deduplicate, convert and label documents", "读取、查看、去重、转换与标注文档"),
    "tokens": (
        "train a tokenizer, measure one, or add tokens to a model",
        "训练分词器、衡量分词器，或为模型增加词元",
    ),
    "curves": (
        "learning curves: of trained models, or of the run that is training",
        "学习曲线：已训练的模型，或正在训练的运行",
    ),
    "why": ("the training documents that contain a text", "一段话来自哪些训练文档"),
    "remove": ("take documents out, and make again what learnt from them", "移除文档，并重做由它们产生的一切"),
    "lineage": ("what an artifact was made from", "一个产物的来历"),
    "verify": ("check every byte of the store against its records", "逐字节校验仓库"),
    "doctor": ("what this machine can do, and what is missing", "检查这台机器"),
}
EPILOG = """\b
Exit codes: 0 done · 1 a defect of ours · 2 the input cannot be used · 3 the result was refused by a threshold
75 stopped by SIGTERM, 130 by Ctrl-C (both saved: run the same command again).
\b
Example:  athanor run quickstart data.path=~/notes && athanor chat
"""


def module_of(verb: str) -> str:
    """The file of a verb: its name, with _ behind it where the name is a word of Python (`import`)."""
    return verb + "_" if keyword.iskeyword(verb) else verb


class VerbGroup(click.Group):
    """Lists verbs from the table without importing them."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"athanor.verbs.{module_of(name)}").command
        command.short_help = say(*VERBS[name])
        return command

    def resolve_command(self, context: click.Context, args: list[str]) -> Any:
        from athanor.base.settings import nearest

        if args and args[0] not in VERBS:
            raise AthanorError(f"there is no verb {args[0]!r}", allowed=", ".join(VERBS), fix=nearest(args[0], VERBS))
        return super().resolve_command(context, args)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section(say("Verbs", "命令")):
            formatter.write_dl([(name, say(*texts)) for name, texts in VERBS.items()])


@click.group(cls=VerbGroup, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="athanor")
def athanor() -> None:
    """Athanor 炼丹炉: own a model, from a folder of documents to a served chat model."""


def main(args: list[str] | None = None) -> None:
    """Run the command line and exit with a documented code."""
    words = sys.argv[1:] if args is None else args
    try:
        athanor.main(args=words, prog_name="athanor", standalone_mode=False, color=_colour())
    except AthanorError as problem:
        _show(problem, as_json="--json" in words)
        sys.exit(problem.code)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(EXIT_STOPPED_BY_USER)
    except click.ClickException as problem:
        problem.show()
        sys.exit(problem.exit_code)
    except BrokenPipeError:
        sys.stderr.close()  # the reader (head, less) went away; nothing to say, and nobody to say it to
        sys.exit(EXIT_FAILED)


def _colour() -> bool | None:
    """None: colour on a terminal, none elsewhere; False where the user set NO_COLOR (https://no-color.org)."""
    return False if os.environ.get("NO_COLOR") else None


def _show(problem: AthanorError, as_json: bool) -> None:
    if as_json:
        print(json.dumps(problem.as_row(), ensure_ascii=False))
    first, *rest = str(problem).splitlines() or [""]
    click.secho(say("error: ", "错误："), fg="red", bold=True, nl=False, err=True, color=_colour())
    click.echo("\n".join([first, *(f"  {line}" for line in rest)]), err=True)
