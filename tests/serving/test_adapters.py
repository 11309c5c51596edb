"""One server, one network, several adapters: clients name the one they want as the model."""

import dataclasses

import pytest
import torch
from fastapi.testclient import TestClient

from athanor.inference.engine import Engine
from athanor.models.adapters.attach import attach, select
from athanor.models.adapters.lora import LoraSettings, fresh
from athanor.models.config import TransformerConfig
from athanor.models.language import LanguageModel
from athanor.models.settings import family_of
from athanor.serving.app import create_app
from athanor.serving.settings import ServingSettings
from athanor.tokens.template import ChatTemplate
from athanor.tokens.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def client():
    """A random network with two random adapters, served."""
    torch.manual_seed(1)
    template = ChatTemplate(Tokenizer.train(["some words to cut, and some more"] * 5, vocabulary=300))
    vocabulary = template.tokenizer.vocabulary
    config = TransformerConfig(vocabulary=vocabulary, width=32, layers=2, heads=2, hidden=48, max_positions=128)
    model, family = LanguageModel(config).initialise(2).eval(), family_of(config)
    for name in ("adapter-a", "adapter-b"):
        made = fresh(model, family, LoraSettings(rank=2), ["q_proj", "v_proj", "up_proj"])
        pieces = {key: dataclasses.replace(one, b_PR=torch.randn_like(one.b_PR)) for key, one in made.pieces.items()}
        attach(model, family, dataclasses.replace(made, pieces=pieces), name)
    select(model, None)
    engine = Engine(model, template.tokenizer)
    settings = ServingSettings(port=0)
    app = create_app(engine, template, model_name="base", adapters=["adapter-a", "adapter-b"], settings=settings)
    with TestClient(app, base_url="http://127.0.0.1") as client:
        yield client
    engine.close()


def text_of(client: TestClient, name: str) -> str:
    asked = {"model": name, "prompt": "some words", "max_tokens": 12, "temperature": 0}
    answer = client.post("/v1/completions", json=asked).json()
    assert answer["model"] == name
    return answer["choices"][0]["text"]


def test_the_name_of_the_model_chooses_the_adapter(client: TestClient) -> None:
    names = ["base", "adapter-a", "adapter-b"]
    assert [row["id"] for row in client.get("/v1/models").json()["data"]] == names
    assert client.get("/v1/models/adapter-b").json()["id"] == "adapter-b"
    texts = [text_of(client, name) for name in names]
    assert len(set(texts)) == 3 and texts == [text_of(client, name) for name in names]


def test_a_name_that_nobody_has_is_answered_with_those_there_are(client: TestClient) -> None:
    answer = client.post("/v1/completions", json={"model": "adapter-c", "prompt": "x"})
    assert answer.status_code == 404
    assert "'base', 'adapter-a', 'adapter-b'" in answer.json()["error"]["message"]
