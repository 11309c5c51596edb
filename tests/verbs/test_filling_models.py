"""A network that reads its prompt in both directions (ChatGLM-6B's family), from import to served answers."""

import json
from pathlib import Path

import pytest
import torch
from starlette.testclient import TestClient

from athanor.inference.generate import generate
from athanor.inference.quantize import quantize_checkpoint
from athanor.inference.runtime import open_model
from athanor.inference.sampling import Sampling
from athanor.models.config import TransformerConfig
from athanor.models.convert import save_checkpoint
from athanor.models.language import LanguageModel
from athanor.serving.app import create_app
from athanor.serving.settings import ServingSettings
from athanor.tokens.conversation import Turn
from athanor.tokens.template import jinja_source, specials_of
from athanor.tokens.tokenizer import END, Tokenizer
from tests.inference.gguf_models import train_tokenizer
from tests.verbs.conftest import Verb

CHATGLM = {
    "prefix": True, "position_axes": 2, "mlp": "gelu_tanh", "norm": "layer", "norm_place": "residual", "tied": False,
    "residual_scale": 2.0, "bias_qkv": True, "bias_out": True, "bias_mlp": True, "norm_eps": 1e-5,
}  # fmt: skip


@pytest.fixture(autouse=True)
def float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """In bf16 two likeliest tokens may be as likely, and the engine and the naive loop round differently."""
    monkeypatch.setattr("athanor.inference.runtime.fast_dtype", lambda place: torch.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers, with our tokenizer and ChatGLM's special tokens in it."""
    torch.set_num_threads(1)
    core = train_tokenizer(600).core
    core.add_special_tokens(["[MASK]", "[gMASK]", "<sop>", "<eop>"])
    tokenizer, folder = Tokenizer(core), tmp_path_factory.mktemp("chatglm") / "model"
    shape = {"width": 64, "layers": 2, "heads": 4, "hidden": 96, "max_positions": 128}
    model = LanguageModel(TransformerConfig(vocabulary=tokenizer.vocabulary, **shape, **CHATGLM)).initialise(3)
    with torch.no_grad():
        for weight in model.parameters():
            weight *= 6 if weight.dim() == 2 else 1
    ends = [tokenizer.special[END], tokenizer.special["<eop>"]]
    save_checkpoint(model, folder, generation={"eos_token_id": ends, "pad_token_id": ends[0]})
    tokenizer.save(folder, jinja_source(specials_of(tokenizer)))
    return folder


def expected(folder: Path, prompt: list[int], count: int) -> str:
    """What the naive loop writes."""
    runtime = open_model(folder)
    how, ends = Sampling(max_tokens=count), runtime.engine.end_ids
    return generate(runtime.model, prompt, how, ends, runtime.tokenizer, runtime.engine.blanks).text


def test_chat_answers_as_the_naive_loop(folder: Path, verb: Verb) -> None:
    told = json.loads(verb("chat", folder, "-p", "Who are you?", "--max-tokens", "8", "--json"))
    prompt = open_model(folder).chat_prompt([Turn("user", "Who are you?")])
    assert told["answer"] == expected(folder, prompt, 8) != ""


def test_it_comes_in_and_leaves_to_the_bit(folder: Path, verb: Verb, tmp_path: Path) -> None:
    said = verb("import", folder)
    assert "the same logits and token ids as the source" in said
    said = verb("export", "--to", "hf", "--out", tmp_path / "out", folder)
    assert "same greedy answers 11/11" in said and "largest logit difference 0 " in said
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "chatglm"
    said = verb("export", "--to", "gguf", "--out", tmp_path / "out.gguf", folder, code=2)
    assert "chatglm" in said or "prefix" in said


def test_the_server_completes_texts_and_chats(folder: Path) -> None:
    runtime = open_model(folder)
    app = create_app(
        runtime.engine, runtime.template, model_name="glm", settings=ServingSettings(), tokenizer=runtime.tokenizer
    )
    with TestClient(app, base_url="http://localhost") as web:
        asked = {"model": "glm", "prompt": "人工智能是", "max_tokens": 6, "temperature": 0}
        text = web.post("/v1/completions", json=asked).json()["choices"][0]["text"]
        start = runtime.tokenizer.special["<|document|>"]
        assert text == expected(folder, [start, *runtime.tokenizer.encode("人工智能是")], 6) != ""
        messages = [{"role": "user", "content": "1+1=?"}]
        asked = {"model": "glm", "messages": messages, "max_tokens": 6, "temperature": 0}
        text = web.post("/v1/chat/completions", json=asked).json()["choices"][0]["message"]["content"]
        assert text == expected(folder, runtime.chat_prompt([Turn("user", "1+1=?")]), 6) != ""
    runtime.engine.close()


def test_int4_answers(folder: Path, verb: Verb, tmp_path: Path) -> None:
    quantize_checkpoint(folder, tmp_path / "int4")
    Tokenizer.load(folder).save(tmp_path / "int4", jinja_source(specials_of(Tokenizer.load(folder))))
    told = json.loads(verb("chat", tmp_path / "int4", "-p", "Who are you?", "--max-tokens", "8", "--json"))
    assert told["answer"] != ""
