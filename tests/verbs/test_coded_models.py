"""ChatGLM3 as it is published, its tokenizer being Python code: the same ids in training, answers and server."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from starlette.testclient import TestClient

from athanor.base.progress import SilentProgress
from athanor.data.document import make_document
from athanor.data.packing.pack import PackSettings, TokenFiles, pack_documents
from athanor.data.shards import ShardWriter
from athanor.evaluation.subject import LocalSubject
from athanor.inference.runtime import Runtime, open_model
from athanor.inference.sampling import Sampling
from athanor.recipes.runner import run_recipe
from athanor.serving.app import create_app
from athanor.serving.settings import ServingSettings
from athanor.store.artifact import Artifact, Store
from athanor.tokens.chat import open_template
from athanor.tokens.conversation import Conversation
from athanor.tokens.tokenizer import Tokenizer
from athanor.verbs.import_ import plan_model
from tests.inference.gguf_models import SHAPES, make_weights
from tests.tokens import makers
from tests.tokens.samples import LEARN

library = pytest.importorskip("sentencepiece")
# As the published code builds a conversation, and the template that came later says it.
TEMPLATE = (
    "{% for message in messages %}{% if loop.first %}[gMASK]sop{% endif %}<|{{ message['role'] }}|>\n "
    "{{ message['content'] }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TEXTS = [" two  spaces", "def f(x):\n\treturn x", "<|user|> </s> <0x0A>", "你好，🙂", *LEARN[:6]]


@pytest.fixture(scope="module")
def came(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Store, Artifact]:
    folder = tmp_path_factory.mktemp("chatglm3") / "came"
    folder.mkdir()
    makers.chatglm3(folder)
    makers.write(folder, "chat_template.jinja", TEMPLATE)
    size = 1 + max(Tokenizer.load(folder).core.get_vocab().values())
    shape = {**SHAPES["chatglm"], "rope_base": 10_000.0, "max_positions": 512}
    make_weights(folder, size, {"eos_token_id": 2, "pad_token_id": 0}, family="chatglm2", **shape)
    store = Store(folder.parent / "store").create()
    recipe, plan = plan_model(str(folder))
    return folder, store, run_recipe(recipe, plan, store, SilentProgress())[plan[-1].name]


@pytest.fixture(scope="module")
def model(came: tuple[Path, Store, Artifact]) -> library.SentencePieceProcessor:
    return library.SentencePieceProcessor(model_file=str(came[0] / "tokenizer.model"))


@pytest.fixture(scope="module")
def runtime(came: tuple[Path, Store, Artifact]) -> Runtime:
    torch.set_num_threads(1)
    return open_model(came[2].path, "float32")


def chat_ids(model: library.SentencePieceProcessor, talk: Conversation) -> list[int]:
    """What the published code computes: marks and roles by id, each text by SentencePiece."""
    first = model.vocab_size()
    roles = {"system": first + 5, "user": first + 6, "assistant": first + 7}
    ids = [first + 1, first + 3]
    for turn in talk.turns:
        ids += [roles[turn.role], *model.encode(f"\n {turn.content}")]
    return [*ids, roles["assistant"]]


TALKS = (
    Conversation.of(("user", "hi")), Conversation.of(("system", "Be brief."), ("user", "你好"), ("assistant", "a  b"),
                                                     ("user", "def f():\n\treturn 1")),
)  # fmt: skip


def test_chats_have_the_ids_of_the_published_code(runtime: Runtime, model: library.SentencePieceProcessor) -> None:
    for talk in TALKS:
        assert runtime.chat_prompt(talk.turns) == chat_ids(model, talk)
    template = open_template(runtime.tokenizer)
    assert template is not None
    answered = Conversation.of(("user", "hi"), ("assistant", "the cat"))
    rendered = template.render(answered)
    assert rendered.ids == chat_ids(model, answered)[:-1]
    said = [index for index, learnt in zip(rendered.ids, rendered.mask, strict=True) if learnt]
    assert runtime.tokenizer.decode(said).strip() == "the cat"


def test_documents_are_packed_and_judged_with_the_same_ids(
    came: tuple[Path, Store, Artifact], model: library.SentencePieceProcessor, tmp_path: Path
) -> None:
    _, store, artifact = came
    texts = store.workplace("corpus-1")
    for split in ("train", "heldout"):
        with ShardWriter(texts, split) as writer:
            for number, text in enumerate(TEXTS):
                writer.write(make_document(text, f"{split}/{number}"))
    corpus = store.commit("corpus-1", {"kind": "corpus", "name": "corpus-1", "measurements": {}, "parents": {}})
    pack_documents(PackSettings(), {"corpus": corpus, "tokenizer": artifact}, tmp_path, SilentProgress())
    tokens = TokenFiles(tmp_path)
    places = [*tokens.starts_D.tolist(), None]
    packed = [tokens.read(first, last).tolist()[1:] for first, last in pairwise(places) if last]
    expected = model.encode(TEXTS)
    assert packed and all(ids in expected for ids in packed)
    subject = LocalSubject(artifact.path, "float32")
    for text in TEXTS:
        assert subject.text_prompt(text)[-len(model.encode(text)) :] == model.encode(text)


def test_the_server_answers_from_the_same_ids(runtime: Runtime, model: library.SentencePieceProcessor) -> None:
    app = create_app(
        runtime.engine, runtime.template, model_name="glm", settings=ServingSettings(), tokenizer=runtime.tokenizer
    )
    with TestClient(app, base_url="http://localhost") as web:
        done = web.post("/v1/chat/completions", json={
            "model": "glm", "messages": TALKS[1].messages(), "max_tokens": 5, "temperature": 0,
        }).json()  # fmt: skip
    ids = chat_ids(model, TALKS[1])
    assert done["usage"]["prompt_tokens"] == len(ids)
    expected = runtime.engine.generate_batch([ids], Sampling(max_tokens=5))[0].text
    assert done["choices"][0]["message"]["content"] == expected


def test_what_is_imported_holds_no_code(came: tuple[Path, Store, Artifact]) -> None:
    files = {path.name for path in came[2].path.iterdir()}
    assert {"tokenizer.json", "tokenizer.model", "config.json"} <= files
    assert not [name for name in files if name.endswith(".py")]
    config = json.loads((came[2].path / "tokenizer_config.json").read_text("utf-8"))
    assert "auto_map" not in config
