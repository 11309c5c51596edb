"""Requests for different adapters of one network, computed together: each answer is the one it would get alone."""

from dataclasses import replace

import pytest
import torch

from athanor.base.errors import AthanorError
from athanor.inference.engine import Engine
from athanor.inference.generate import generate
from athanor.inference.sampling import Sampling
from athanor.models.adapters.attach import attach, select
from athanor.models.adapters.lora import Adapter, LoraSettings, fresh
from athanor.models.adapters.prefix import fresh_prefix
from athanor.models.config import TransformerConfig
from athanor.models.language import LanguageModel
from athanor.models.settings import family_of

CONFIG = TransformerConfig(vocabulary=97, width=64, layers=2, heads=4, kv_heads=2, hidden=96, max_positions=64)
FAMILY = family_of(CONFIG)
PROMPTS = [[3, 9, 40], [8, 8, 21, 60, 5], [77], [3, 9, 40], [50, 2], [3, 9, 40]]
NAMES = ["one", None, "two", "two", "one", None]


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    """A random network with two random adapters."""
    torch.manual_seed(3)
    model = LanguageModel(CONFIG).initialise(3).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    for name, targets in (("one", ["q_proj", "v_proj", "down_proj"]), ("two", ["o_proj", "up_proj"])):
        attach(model, FAMILY, random(fresh(model, FAMILY, LoraSettings(rank=4), targets)), name)
    select(model, None)
    return model


def random(adapter: Adapter) -> Adapter:
    pieces = {name: replace(one, b_PR=torch.randn_like(one.b_PR) * 0.3) for name, one in adapter.pieces.items()}
    return replace(adapter, pieces=pieces)


def alone(model: LanguageModel) -> list[tuple[int, ...]]:
    answers = []
    for prompt, name in zip(PROMPTS, NAMES, strict=True):
        select(model, name)
        answers.append(generate(model, prompt, Sampling(max_tokens=12), ()).ids)
    select(model, None)
    return answers


def test_every_request_gets_its_own_adapter(model: LanguageModel) -> None:
    expected = alone(model)
    assert len({expected[0], expected[3], expected[5]}) == 3, "the adapters must matter"
    samplings = [Sampling(max_tokens=12, adapter=name) for name in NAMES]
    found = [one.ids for one in Engine(model, rows=4, chunk=4).generate_batch(PROMPTS, samplings)]
    assert found == expected
    engine = Engine(model)
    submitted = [engine.submit(prompt, sampling) for prompt, sampling in zip(PROMPTS, samplings, strict=True)]
    assert [one.result(60).ids for one in submitted] == expected
    engine.close()
    assert model.chosen is None


def test_what_was_chosen_answers_where_nothing_is_asked_for(model: LanguageModel) -> None:
    expected = alone(model)
    select(model, "one")
    samplings = [Sampling(max_tokens=12), Sampling(max_tokens=12, adapter="two")]
    given = Engine(model).generate_batch([PROMPTS[0], PROMPTS[2]], samplings)
    select(model, None)
    assert [one.ids for one in given] == [expected[0], expected[2]]


def test_an_adapter_that_is_not_there_or_moves_positions_is_refused(model: LanguageModel) -> None:
    with pytest.raises(AthanorError, match="there is no adapter 'three'"):
        Engine(model).generate_batch([[3]], Sampling(adapter="three"))
    attach(model, FAMILY, fresh_prefix(model, [5, 6]), "prefix")
    try:
        assert Engine(model).context == CONFIG.max_positions - 2
        select(model, None)
        with pytest.raises(AthanorError, match="is a prefix"):
            Engine(model).generate_batch([[3]], Sampling(adapter="prefix"))
    finally:
        select(model, None)
