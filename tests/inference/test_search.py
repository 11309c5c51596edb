"""Beam search of language models: what `transformers` finds, token for token."""

import pytest
import torch

from athanor.base.errors import AthanorError
from athanor.inference.beam import Beams
from athanor.inference.generate import generate
from athanor.inference.sampling import Sampling
from athanor.inference.search import beam_search
from athanor.models.convert import load_checkpoint
from tests.inference.conftest import make_model

transformers = pytest.importorskip("transformers")
SHAPE = dict(vocab_size=97, num_hidden_layers=2, num_attention_heads=4, hidden_size=32, intermediate_size=48)
ENDS = (3, 20, 33, 47, 58, 71, 90)  # many, so that random networks end at different places
WAYS = (Beams(count=4), Beams(count=3, length_penalty=2.0), Beams(count=5, early=True, length_penalty=0.5))
PROMPTS = ([5, 6, 7], [11], [60, 13, 9, 9, 2, 44, 8])


@pytest.fixture(scope="module", params=["Llama", "Qwen2", "GPT2"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """A network of theirs with sharp scores, and ours of the same weights."""
    if request.param == "GPT2":
        config = transformers.GPT2Config(vocab_size=97, n_layer=2, n_head=4, n_embd=32, n_positions=64)
    else:
        config = getattr(transformers, f"{request.param}Config")(
            **SHAPE, num_key_value_heads=2, max_position_embeddings=64
        )
    torch.manual_seed(4)
    theirs = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.add_(torch.randn_like(weight) * (0.3 if weight.dim() > 1 else 0.05))
    folder = tmp_path_factory.mktemp(request.param)
    theirs.save_pretrained(folder)
    return theirs, load_checkpoint(folder)


def test_beams_find_what_theirs_find(pair) -> None:
    theirs, ours = pair
    found = []
    for beams in WAYS:
        for prompt in PROMPTS:
            written = theirs.generate(
                torch.tensor([prompt]), num_beams=beams.count, length_penalty=beams.length_penalty,
                early_stopping=beams.early, max_new_tokens=12, do_sample=False, eos_token_id=list(ENDS), pad_token_id=0,
            )[0, len(prompt) :].tolist()  # fmt: skip
            stop = next((place for place, token in enumerate(written) if token in ENDS), len(written))
            answer = beam_search(ours, prompt, beams, 12, ENDS)
            assert list(answer.ids) == written[:stop]
            assert answer.finish_reason == ("stop" if stop < len(written) else "length")
            found.append((answer.ids, generate(ours, prompt, Sampling(max_tokens=12), ENDS).ids))
    assert len({ids for ids, _ in found}) > 3 and any(ids != greedy for ids, greedy in found)


def test_what_cannot_be_searched_is_said() -> None:
    with pytest.raises(AthanorError, match="the prompt has 0 tokens"):
        beam_search(make_model(), [], Beams(count=2))
    model = make_model()
    assert beam_search(model, [1, 2], Beams(count=1), 5).ids == generate(model, [1, 2], Sampling(max_tokens=5)).ids
