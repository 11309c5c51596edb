"""Models of other makers through every verb: the ids and logits of `transformers`, from import to export."""

import json
import os
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from starlette.testclient import TestClient

from athanor.base.errors import AthanorError
from athanor.base.files import read_json
from athanor.base.progress import SilentProgress
from athanor.base.records import write_records
from athanor.data.document import make_document
from athanor.data.instruct.names import TRAIN
from athanor.data.packing.pack import PackSettings, TokenFiles, pack_documents
from athanor.data.shards import ShardWriter
from athanor.evaluation.subject import LocalSubject
from athanor.inference.engine import Engine
from athanor.inference.equivalence import TEXTS
from athanor.inference.generate import generate
from athanor.inference.gguf import GgufFile
from athanor.inference.gguf_tokenizer import read_tokenizer
from athanor.inference.runtime import Runtime, open_model
from athanor.inference.sampling import Sampling
from athanor.inference.score import score
from athanor.recipes.runner import run_recipe
from athanor.serving.app import create_app
from athanor.serving.settings import ServingSettings
from athanor.store.artifact import Artifact, Store
from athanor.tokens.chat import completion_start, open_template
from athanor.tokens.conversation import Conversation
from athanor.tokens.tokenizer import DOCUMENT
from athanor.training.sft import FinetuneSettings, finetune, packed_conversations
from athanor.verbs.import_ import plan_model
from tests.conftest import ROOT
from tests.tokens.samples import random_texts
from tests.verbs.foreign_models import MODELS, PADDING

transformers = pytest.importorskip("transformers")
TALKS = (
    Conversation.of(("user", "Who are you?")),
    Conversation.of(
        ("system", "Be brief."), ("user", "你好！ [x]"), ("assistant", "你好，有什么可以帮你？"), ("user", "1+1=?")
    ),
    Conversation.of(("user", " {{ 7 * 7 }} 🙂\n"), ("assistant", "def add(a, b):\n    return"), ("user", "e\u0301 ½")),
)  # fmt: skip
TOOLS = ({"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object"}}},)
ADDED = "x<think> a</think>y the cats slept on the other mats"  # tokens of Qwen's that are not special
LESSONS = [
    Conversation.of(("user", f"What is {n} + 1?"), ("assistant", f"It is {n + 1}."), ("user", "And half of it?"),
                    ("assistant", f"{(n + 1) / 2}")).to_row() for n in range(8)
]  # fmt: skip


@dataclass
class Foreign:
    """One model: the folder as it came, and the artifact that it became."""

    name: str
    folder: Path
    store: Store
    artifact: Artifact

    @cached_property
    def runtime(self) -> Runtime:
        return open_model(self.artifact.path, "float32")

    @cached_property
    def theirs(self) -> Any:
        return transformers.AutoTokenizer.from_pretrained(self.folder)

    def chat_ids(self, talk: Conversation, **more: Any) -> list[int]:
        """What transformers makes of a conversation."""
        how = {"add_generation_prompt": True, "return_dict": False, **more}
        return self.theirs.apply_chat_template(talk.messages(), tools=list(talk.tools) or None, **how)


def brought_in(name: str, folder: Path) -> Foreign:
    (folder / "came").mkdir()
    MODELS[name](folder / "came", transformers)
    store = Store(folder / "store").create()
    recipe, plan = plan_model(str(folder / "came"))
    artifact = run_recipe(recipe, plan, store, SilentProgress())[plan[-1].name]
    return Foreign(name, folder / "came", store, artifact)


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Foreign]:
    torch.set_num_threads(1)
    return {name: brought_in(name, tmp_path_factory.mktemp(name)) for name in MODELS}


@pytest.fixture(params=MODELS)
def foreign(request: pytest.FixtureRequest, every: dict[str, Foreign]) -> Foreign:
    return every[request.param]


@pytest.fixture(params=["qwen2", "llama2", "llama3"])
def talker(request: pytest.FixtureRequest, every: dict[str, Foreign]) -> Foreign:
    return every[request.param]


def same_model(folder: Path, other: Path, atol: float = 2e-5) -> None:
    """Two folders give transformers the same tokenizer, template and logits."""
    one, two = (transformers.AutoTokenizer.from_pretrained(path) for path in (folder, other))
    assert one.chat_template == two.chat_template
    for text in TEXTS:
        assert one(text)["input_ids"] == two(text)["input_ids"], text
    ids = torch.tensor([one(TEXTS[0])["input_ids"]])
    models = [transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32) for path in (folder, other)]
    with torch.no_grad():
        torch.testing.assert_close(models[0](ids).logits, models[1](ids).logits, rtol=0, atol=atol)
    assert models[0].generation_config.eos_token_id == models[1].generation_config.eos_token_id


# -------------------------------------------------------------------------------------------------------------- import


def test_the_receipt_says_that_nothing_changed(foreign: Foreign) -> None:
    receipt = read_json(foreign.artifact.file("receipt.json"))
    chats = 0 if foreign.name == "gpt2" else 5
    assert receipt["logits"]["max_logit_difference"] == 0 and receipt["token_ids"]["different"] == []
    assert receipt["chat_template"]["same"] == receipt["chat_template"]["chats"] == chats
    same_model(foreign.folder, foreign.artifact.path, atol=0)


def test_texts_chats_and_logits_are_those_of_transformers(foreign: Foreign) -> None:
    runtime = foreign.runtime
    for text in TEXTS:
        expected = foreign.theirs(text, split_special_tokens=True)["input_ids"]
        assert [*completion_start(runtime.tokenizer), *runtime.tokenizer.encode(text)] == expected
    prompts = [foreign.theirs(TEXTS[0])["input_ids"]]
    if foreign.name != "gpt2":
        for talk in TALKS:
            assert runtime.chat_prompt(talk.turns) == foreign.chat_ids(talk)
        prompts += [runtime.chat_prompt(talk.turns) for talk in TALKS]
    model = transformers.AutoModelForCausalLM.from_pretrained(foreign.folder, dtype=torch.float32)
    with torch.no_grad():
        for ids in prompts:
            row = torch.tensor([ids])
            torch.testing.assert_close(runtime.model(row), model(row).logits, rtol=0, atol=5e-5)
            answer = runtime.engine.generate_batch([ids], Sampling(max_tokens=12))[0]
            unknown = list(range(len(foreign.theirs), model.config.vocab_size)) or None
            theirs = model.generate(row, do_sample=False, max_new_tokens=12, suppress_tokens=unknown)[0, len(ids) :]
            assert [*answer.ids] == [token for token in theirs.tolist() if token not in runtime.engine.end_ids]


def test_tools_reach_a_template_that_takes_them(every: dict[str, Foreign]) -> None:
    qwen = every["qwen2"]
    talk = Conversation(TALKS[0].turns, tools=TOOLS)
    ids = qwen.runtime.chat_prompt(talk.turns, TOOLS)
    assert ids == qwen.chat_ids(talk) != qwen.chat_ids(TALKS[0])


def test_generation_ends_where_the_folder_says(every: dict[str, Foreign]) -> None:
    special = every["qwen2"].runtime.tokenizer.special
    assert set(every["qwen2"].runtime.engine.end_ids) == {special["<|im_end|>"], special["<|endoftext|>"]}
    assert every["llama2"].runtime.engine.end_ids == (every["llama2"].theirs.eos_token_id,)
    assert every["gpt2"].runtime.engine.end_ids == (every["gpt2"].theirs.eos_token_id,)


def test_ids_that_no_token_has_are_never_chosen(every: dict[str, Foreign]) -> None:
    """A model that wants nothing more than its padded rows, by greed and by chance."""
    runtime = open_model(every["qwen2"].artifact.path, "float32")
    known = len(every["qwen2"].theirs)
    with torch.no_grad():
        runtime.model.head.weight[known:] = 40 * runtime.model.head.weight[:PADDING]
    prompt = runtime.chat_prompt(TALKS[0].turns)
    wanted = runtime.model(torch.tensor([prompt]))[0].argmax(-1)
    assert (wanted >= known).float().mean() > 0.5
    for sampling in (Sampling(max_tokens=20), Sampling(max_tokens=20, temperature=2.0, seed=1, repetition_penalty=1.5)):
        answer = runtime.engine.generate_batch([prompt], sampling)[0].ids
        assert answer and max(answer) < known
        assert generate(runtime.model, prompt, sampling, runtime.engine.end_ids, runtime.tokenizer).ids == answer
    assert Engine(runtime.model).generate_batch([prompt], Sampling(max_tokens=1))[0].ids[0] >= known


def test_a_forged_turn_stays_text(talker: Foreign) -> None:
    """What a user spells is never a special token, though the template is not ours."""
    runtime = talker.runtime
    marks = [runtime.tokenizer.special[name] for name in runtime.tokenizer.special]
    quiet, forged = (
        Conversation.of(("user", text)) for text in ("hello", "hello " + " x ".join(runtime.tokenizer.special))
    )
    counts = [sum(token in marks for token in runtime.chat_prompt(talk.turns)) for talk in (quiet, forged)]
    assert counts[0] == counts[1]


# ------------------------------------------------------------------------------------------------------ chat and serve


def test_chat_answers_or_says_why_not(every: dict[str, Foreign], verb: Callable[..., str]) -> None:
    for name in ("qwen2", "llama2"):
        one = every[name]
        words = (one.artifact.id, "-p", "Who are you?", "--max-tokens", "6", "--json", "--store", one.store.root)
        told = json.loads(verb("chat", *words))
        dtype = open_model(one.artifact.path)
        expected = dtype.engine.generate_batch([dtype.chat_prompt(TALKS[0].turns)], Sampling(max_tokens=6))[0]
        assert told["answer"] == expected.text
    said = verb("chat", every["gpt2"].folder, "-p", "Who are you?", code=2)
    assert "no chat template" in said and "tokens extend" in said


@pytest.fixture
def address(every: dict[str, Foreign]) -> Iterator[str]:
    """`athanor serve` in a process of its own, on the folder of the Llama model as it came."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "ATHANOR_LANGUAGE": "en",
        "ATHANOR_STORE": str(every["llama2"].store.root),
    }
    command = [sys.executable, "-m", "athanor", "serve", str(every["llama2"].folder), "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as program:
        try:
            assert program.stderr is not None
            line = next(line for line in program.stderr if " at http" in line)
            yield line.split(" at ")[1].split(" ·")[0]
        finally:
            program.terminate()


def test_openais_client_talks_to_the_server(every: dict[str, Foreign], address: str) -> None:
    llama = every["llama2"]
    runtime = open_model(llama.folder)
    with openai.OpenAI(base_url=f"{address}v1", api_key="none needed", max_retries=0) as client:
        name = client.models.list().data[0].id
        for talk in TALKS:
            how = {"model": name, "messages": talk.messages(), "temperature": 0, "max_tokens": 8}
            whole = client.chat.completions.create(**how)
            ids = llama.chat_ids(talk)
            assert whole.usage.prompt_tokens == len(ids)
            assert (
                whole.choices[0].message.content == runtime.engine.generate_batch([ids], Sampling(max_tokens=8))[0].text
            )
            pieces = client.chat.completions.create(**how, stream=True)
            assert "".join(one.choices[0].delta.content or "" for one in pieces) == whole.choices[0].message.content
        with pytest.raises(openai.BadRequestError, match="roles must alternate"):
            client.chat.completions.create(model=name, messages=[*TALKS[0].messages()] * 2)
        done = client.completions.create(model=name, prompt=TEXTS[0], max_tokens=3, temperature=0)
        assert done.usage.prompt_tokens == len(llama.theirs(TEXTS[0])["input_ids"])


def test_a_model_without_a_template_continues_texts_only(every: dict[str, Foreign]) -> None:
    runtime = every["gpt2"].runtime
    app = create_app(
        runtime.engine, runtime.template, model_name="gpt2", settings=ServingSettings(), tokenizer=runtime.tokenizer
    )
    with TestClient(app, base_url="http://localhost") as web:
        done = web.post(
            "/v1/completions", json={"model": "gpt2", "prompt": TEXTS[0], "max_tokens": 4, "temperature": 0}
        )
        ids = every["gpt2"].theirs(TEXTS[0])["input_ids"]
        expected = runtime.engine.generate_batch([ids], Sampling(max_tokens=4))[0].text
        assert done.json()["choices"][0]["text"] == expected and done.json()["usage"]["prompt_tokens"] == len(ids)
        refused = web.post("/v1/chat/completions", json={"model": "gpt2", "messages": TALKS[0].messages()})
        assert refused.status_code == 400 and refused.json()["error"]["code"] == "no_chat_template"
    with pytest.raises(AthanorError, match="no chat template"):
        runtime.chat_prompt(TALKS[0].turns)


# ---------------------------------------------------------------------------------------------- training and evaluation


def made(store: Store, name: str, fill: Callable[[Path], dict[str, Any] | None]) -> Artifact:
    measurements = fill(store.workplace(name)) or {}
    return store.commit(name, {"kind": name.split("-")[0], "name": name, "measurements": measurements, "parents": {}})


def corpus(folder: Path) -> None:
    for split in ("train", "heldout"):
        with ShardWriter(folder, split) as writer:
            for number, text in enumerate(text for text in TEXTS if text.strip()):
                writer.write(make_document(text, f"{split}/{number}"))


def trained(one: Foreign, number: int) -> tuple[Artifact, Artifact]:
    """The conversations, and the model after three steps on them."""
    texts = made(one.store, f"corpus-{number}", corpus)
    lessons = made(one.store, f"conversations-{number}", lambda folder: write_records(folder / TRAIN, LESSONS) and None)
    parents = {"corpus": texts, "tokenizer": one.artifact}
    shards = made(
        one.store, f"shards-{number}", lambda to: pack_documents(PackSettings(), parents, to, SilentProgress())
    )
    settings = FinetuneSettings(steps=3, rows=2, learning_rate=0.01, document_rows=1, warmup=1)
    taken = {"model": one.artifact, "conversations": lessons, "shards": shards}
    return lessons, made(one.store, f"model-{number}", lambda to: finetune(settings, taken, to, SilentProgress()))


def test_fine_tuning_keeps_the_template_and_learns_what_the_assistant_says(talker: Foreign, tmp_path: Path) -> None:
    lessons, model = trained(talker, 1)
    tokenizer = talker.runtime.tokenizer
    template = open_template(tokenizer)
    packed = packed_conversations(lessons, template, 512, "refuse", SilentProgress())
    for row, told in enumerate(LESSONS):
        rendered = template.render(Conversation.from_row(told))
        assert rendered.ids == talker.theirs.apply_chat_template(told["messages"], return_dict=False)
        learnt = tokenizer.decode([index for index, said in zip(rendered.ids, rendered.mask, strict=True) if said])
        end = tokenizer.eos
        expected = [message["content"] for message in told["messages"] if message["role"] == "assistant"]
        assert [part.strip() for part in learnt.split(end)] == [*expected, ""], row
    assert packed.learnt == sum(sum(template.render(Conversation.from_row(told)).mask) for told in LESSONS)
    runtime = open_model(model.path, "float32")
    assert runtime.chat_prompt(TALKS[1].turns) == talker.chat_ids(TALKS[1])
    assert set(runtime.engine.end_ids) == set(talker.runtime.engine.end_ids)
    ids = torch.tensor([talker.chat_ids(TALKS[0])])
    changed = transformers.AutoModelForCausalLM.from_pretrained(model.path, dtype=torch.float32)
    ends = changed.generation_config.eos_token_id
    assert set(ends if isinstance(ends, list) else [ends]) == set(
        runtime.engine.end_ids
    )  # transformers stops there too
    with torch.no_grad():
        torch.testing.assert_close(changed(ids).logits, runtime.model(ids), rtol=0, atol=5e-5)
        assert not torch.equal(runtime.model(ids), talker.runtime.model(ids))


def test_a_base_without_a_template_is_not_taught_ours_silently(every: dict[str, Foreign]) -> None:
    with pytest.raises(AthanorError, match="no chat template") as caught:
        trained(every["gpt2"], 2)
    assert "athanor tokens extend --special" in caught.value.fix
    tokens = TokenFiles(every["gpt2"].store.get("shards-2").path)
    end = every["gpt2"].theirs.eos_token_id
    assert all(tokens.read(int(place), int(place) + 1)[0] == end for place in tokens.starts_D[:-1])


def test_held_out_text_is_scored_from_the_models_own_beginning(foreign: Foreign) -> None:
    subject = LocalSubject(foreign.artifact.path, "float32")
    start = foreign.theirs.bos_token_id if foreign.theirs.bos_token_id is not None else foreign.theirs.eos_token_id
    ids = foreign.theirs(TEXTS[0], add_special_tokens=False)["input_ids"]
    assert subject.text_prompt(TEXTS[0]) == [start, *ids]
    assert subject.score([TEXTS[0]]) == [score(foreign.runtime.model, [([start, *ids], 1)])[0].total]
    assert DOCUMENT not in foreign.runtime.tokenizer.special


# -------------------------------------------------------------------------------------------------------------- export


def test_a_folder_leaves_as_it_came(foreign: Foreign, verb: Callable[..., str], tmp_path: Path) -> None:
    verb("export", foreign.artifact.id, "--to", "hf", "--out", tmp_path / "a", "--store", foreign.store.root)
    same_model(foreign.folder, tmp_path / "a", atol=0)
    verb("export", foreign.folder, "--to", "hf", "--type", "bf16", "--out", tmp_path / "b")
    same_model(foreign.folder, tmp_path / "b", atol=2.0)
    card = (tmp_path / "a" / "README.md").read_text(encoding="utf-8")
    assert ("apply_chat_template" in card) == (foreign.name != "gpt2")


@pytest.mark.parametrize(("name", "pre"), [("qwen2", "qwen2"), ("gpt2", "gpt-2"), ("llama3", "llama-bpe")])
def test_a_gguf_file_has_the_tokenizer_of_the_model(
    name: str, pre: str, every: dict[str, Foreign], verb: Callable[..., str], tmp_path: Path
) -> None:
    one = every[name]
    said = verb("export", one.folder, "--to", "gguf", "--out", tmp_path / "a.gguf")
    assert ("form NFC" in said) == (name == "qwen2")
    values = GgufFile(tmp_path / "a.gguf").values
    assert values["tokenizer.ggml.pre"] == pre
    assert values.get("tokenizer.chat_template") == one.theirs.chat_template
    assert values["tokenizer.ggml.eos_token_id"] == one.theirs.eos_token_id
    again = read_tokenizer(values)
    for text in (*TEXTS, ADDED):
        if "e\u0301" not in text:
            plain = one.theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            assert again.encode(text) == plain
    assert again.special == one.runtime.tokenizer.special


def test_a_tokenizer_that_llama_cpp_has_no_key_for_is_refused(every: dict[str, Foreign], verb: Callable) -> None:
    said = verb("export", every["llama2"].folder, "--to", "gguf", code=2)
    assert "llama.cpp has no tokenizer like this one" in said and "`legacy: false`" in said and "--to hf" in said


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen2", "llama3", "gpt2"])
def test_llama_cpp_cuts_text_as_the_model_does(
    name: str, every: dict[str, Foreign], verb: Callable[..., str], tmp_path: Path
) -> None:
    """Fixed and random texts, chats through the file's own template, the beginning of texts, and the logits."""
    llama_cpp = pytest.importorskip("llama_cpp")
    one = every[name]
    verb("export", one.folder, "--to", "gguf", "--out", tmp_path / "a.gguf", "--type", "f32")
    plain = {"type_k": 0, "type_v": 0, "flash_attn": False, "n_threads": 1}  # a cache of float32
    file = llama_cpp.Llama(str(tmp_path / "a.gguf"), n_ctx=256, logits_all=True, verbose=False, **plain)
    normal = [text for text in [*TEXTS, ADDED, *random_texts(300)] if unicodedata.is_normalized("NFC", text)]
    assert len(normal) > 150
    for text in normal:
        found = file.tokenize(text.encode(), add_bos=False, special=False)
        assert found == one.theirs(text, add_special_tokens=False, split_special_tokens=True)["input_ids"], repr(text)
    assert file.tokenize(b"hello", add_bos=True) == one.theirs("hello")["input_ids"]
    if one.runtime.template is not None:
        for talk in TALKS[:2]:
            text = one.chat_ids(talk, tokenize=False)
            assert file.tokenize(text.encode(), add_bos=False, special=True) == one.chat_ids(talk)
    ids = one.theirs(TEXTS[0])["input_ids"]
    file.eval(ids)
    with torch.no_grad():
        expected = one.runtime.model(torch.tensor([ids]))[0]
    near = 1e-3 * float(expected.abs().max())  # ggml reads GELU from a table of 16-bit numbers
    torch.testing.assert_close(torch.tensor(file.scores[: len(ids)]), expected, rtol=0, atol=near)
    ends = {index for index in range(len(one.theirs)) if llama_cpp.llama_vocab_is_eog(file._model.vocab, index)}
    assert set(one.runtime.engine.end_ids) <= ends
