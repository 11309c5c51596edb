"""Whole servers around a model small enough to learn three answers by heart in two seconds.

Run as a program with a folder and a JSON object from names to settings: learns once, then forks one server per name.
Each writes folder/name.url when it accepts connections, folder/name.log (stderr) and folder/name.exit (its exit code).
"""

import json
import os
import sys
from pathlib import Path

import torch

from athanor.inference.engine import Engine
from athanor.models.config import TransformerConfig
from athanor.models.language import LanguageModel
from athanor.serving.app import create_app
from athanor.serving.run import serve
from athanor.serving.settings import ServingSettings
from athanor.serving.why import span_rows
from athanor.store.index import DocumentIndex
from athanor.store.index_build import build_index
from athanor.tokens.conversation import Conversation
from athanor.tokens.template import ChatTemplate
from athanor.tokens.tokenizer import DOCUMENT, END, Tokenizer

MODEL = "tiny"
CONTEXT = 384
SENTENCE = "I am a tiny model, made to test a server."
LEARNT = (
    ("Who are you?", SENTENCE),
    ("你是谁？", "我是一个很小的模型，用来测试服务器。"),
    ("What is 47 + 38?", "85"),
)
DOCUMENTS = (
    ("notes/first.md", "Nothing of interest stands here.\n"),
    ("notes/about.md", f"# About\nIt said: {SENTENCE} That was all.\n"),
)


def tiny_model(template: ChatTemplate) -> LanguageModel:
    """A model that answers LEARNT, greedily, word for word."""
    torch.manual_seed(0)
    config = TransformerConfig(
        width=64, layers=2, heads=4, hidden=128, max_positions=CONTEXT, vocabulary=template.tokenizer.vocabulary
    )
    model = LanguageModel(config).initialise(seed=0)
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    rows = [template.render(Conversation.of(("user", question), ("assistant", answer))) for question, answer in LEARNT]
    for _ in range(60):
        for row in rows:
            ids, mask = torch.tensor([row.ids]), torch.tensor([row.mask])
            targets = torch.where(mask, ids, -100)[:, 1:]
            total, count = model.loss(ids[:, :-1], targets)
            (total / count).backward()
        optimiser.step()
        optimiser.zero_grad()
    return model.eval()


def serve_one(folder: Path, name: str, settings: ServingSettings, engine: Engine, template: ChatTemplate) -> None:
    """Serve until SIGTERM; stderr goes into the log."""
    os.dup2(os.open(folder / f"{name}.log", os.O_WRONLY | os.O_CREAT), 2)
    index = DocumentIndex(folder / "index")

    def why(text: str) -> list[dict]:
        return span_rows(index.longest_spans(text), step_of=lambda number: 10 * number)

    def announce(address: str) -> None:
        starting = folder / f"{name}.starting"
        starting.write_text(f"{address} {os.getpid()}")
        starting.rename(folder / f"{name}.url")

    app = create_app(engine, template, model_name=MODEL, settings=settings, why=why)
    serve(app, settings.host, settings.port, drain_seconds=settings.drain_seconds, announce=announce)
    engine.close()


def main(folder: Path, servers: dict[str, dict]) -> None:
    """Learn, fork the servers, and note how each of them ends."""
    torch.set_num_threads(1)
    tokenizer = Tokenizer.train([text for pair in LEARNT for text in pair], vocabulary=330)
    template = ChatTemplate(tokenizer)
    ends = [tokenizer.special[END], tokenizer.special[DOCUMENT]]
    engine = Engine(tiny_model(template), tokenizer, end_ids=ends)  # its thread starts with the first request
    (folder / "index").mkdir()
    build_index(folder / "index", DOCUMENTS)
    names = {}
    for name, settings in servers.items():
        child = os.fork()
        if child == 0:
            serve_one(folder, name, ServingSettings(port=0, **settings), engine, template)
            return
        names[child] = name
    while names:
        child, status = os.wait()
        (folder / f"{names.pop(child)}.exit").write_text(str(os.waitstatus_to_exitcode(status)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
