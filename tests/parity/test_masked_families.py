"""BERT and ERNIE against `transformers`: scores, the pooled vector, gradients, padding and packed documents."""

import itertools

import pytest
import torch

from athanor.base.errors import AthanorError
from athanor.models.families.masked import MASKED
from athanor.models.settings import family_of, read_config
from tests.parity.reference import (
    TOLERANCE,
    assert_gradients_equal,
    assert_loads_there,
    difference,
    disturb,
    loaded,
)

transformers = pytest.importorskip("transformers")

VOCABULARY = 83
COMMON = dict(
    vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=72,
    max_position_embeddings=44, layer_norm_eps=1e-3,
)  # fmt: skip
CASES = {
    "bert": ("BertForMaskedLM", COMMON),
    "bert, tanh gelu, one segment": ("BertForMaskedLM", {**COMMON, "hidden_act": "gelu_new", "type_vocab_size": 1}),
    "bert-encoder": ("BertModel", {**COMMON, "hidden_act": "relu"}),
    "ernie": ("ErnieForMaskedLM", COMMON),
    "ernie-tasks": ("ErnieForMaskedLM", {**COMMON, "use_task_id": True, "task_type_vocab_size": 5}),
}


@pytest.fixture(params=CASES, scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    class_name, settings = CASES[request.param]
    class_ = getattr(transformers, class_name)
    torch.manual_seed(0)
    theirs = disturb(class_(class_.config_class(**settings, attn_implementation="eager")))
    return theirs, loaded(theirs, tmp_path_factory.mktemp("reference"))


def random_ids(rows: int, length: int, seed: int = 0, lowest: int = 1, highest: int = VOCABULARY) -> torch.Tensor:
    return torch.randint(lowest, highest, (rows, length), generator=torch.Generator().manual_seed(seed))


def extras(ours, rows: int, length: int) -> tuple[dict, dict]:
    """Segments and tasks at random, in our words and theirs."""
    segments = random_ids(rows, length, 1, 0, ours.config.segments)
    mine, yours = {"segments_BT": segments}, {"token_type_ids": segments}
    if ours.config.tasks is not None:
        mine["tasks_BT"] = yours["task_type_ids"] = random_ids(rows, length, 2, 0, ours.config.tasks)
    return mine, yours


def outputs(theirs, ids, **more) -> torch.Tensor:
    """Scores, or vectors where there is no head."""
    out = theirs(ids, **more)
    return out.logits if hasattr(out, "logits") else out.last_hidden_state


def ours_of(ours, ids, **more) -> torch.Tensor:
    return ours(ids, **more) if ours.guess is not None else ours.hidden(ids, **more)


def test_outputs_equal(pair):
    theirs, ours = pair
    ids = random_ids(3, 44)
    mine, yours = extras(ours, 3, 44)
    assert difference(ours_of(ours, ids, **mine), outputs(theirs, ids, **yours)) < TOLERANCE
    assert difference(ours_of(ours, ids), outputs(theirs, ids)) < TOLERANCE
    if ours.pooler is not None:
        pooled = ours.pool(ours.hidden(ids, **mine))
        assert difference(pooled, theirs(ids, **yours).pooler_output) < TOLERANCE


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_does_not_leak(pair, side):
    theirs, ours = pair
    ids, lengths = random_ids(3, 20), torch.tensor([20, 13, 5])
    seen = torch.arange(20) < lengths[:, None]
    places = torch.arange(20).expand(3, -1)
    if side == "left":
        seen = seen.flip(1)
        places = (seen.long().cumsum(1) - 1).clamp_min(0)
    expected = outputs(theirs, ids, attention_mask=seen.long(), position_ids=places)
    actual = ours_of(ours, ids, documents_BT=seen.long())
    assert difference(actual[seen], expected[seen]) < TOLERANCE


def test_packed_documents_equal_documents_alone(pair):
    theirs, ours = pair
    ids, cuts = random_ids(1, 40), [0, 7, 8, 29, 40]
    documents = torch.zeros_like(ids)
    for number, (first, last) in enumerate(itertools.pairwise(cuts)):
        documents[0, first:last] = number % 2
    actual = ours_of(ours, ids, documents_BT=documents)
    for first, last in itertools.pairwise(cuts):
        assert difference(actual[:, first:last], outputs(theirs, ids[:, first:last])) < TOLERANCE


def test_loss_and_gradients_equal(pair, tmp_path):
    theirs, ours = pair
    ids, targets = random_ids(3, 30), random_ids(3, 30, seed=3)
    targets[random_ids(3, 30, seed=4) % 4 > 0] = -100
    mine, yours = extras(ours, 3, 30)
    theirs.zero_grad()
    ours.zero_grad()
    if ours.guess is not None:
        mine.pop("tasks_BT", None), yours.pop("task_type_ids", None)
        total, count = ours.loss(ids, targets, **mine)
        expected = theirs(ids, labels=targets, **yours).loss
        assert difference(total / count, expected) < TOLERANCE
        (total / count).backward()
        expected.backward()
    else:
        ours.pool(ours.hidden(ids, **mine)).square().sum().backward()
        theirs(ids, **yours).pooler_output.square().sum().backward()
    assert_gradients_equal(theirs, ours, tmp_path)


def test_what_we_save_loads_there(pair, tmp_path):
    theirs, ours = pair
    assert_loads_there(ours, theirs, tmp_path)


def test_the_family_is_told_by_its_config(pair):
    theirs, ours = pair
    read, config = read_config(theirs.config.to_dict() | {"architectures": [type(theirs).__name__]}, "config.json")
    assert config == ours.config
    assert read.type == theirs.config.model_type
    assert family_of(config, read.name) is read
    assert {case.split(",")[0] for case in CASES} == {family.name for family in MASKED}


@pytest.mark.parametrize(
    "wrong",
    [
        {"is_decoder": True},
        {"hidden_act": "silu"},
        {"tie_word_embeddings": False},
        {"position_embedding_type": "relative_key"},
        {"type_vocab_size": 0},
        {"num_attention_heads": 5},
    ],
)
@pytest.mark.parametrize("name", ["Bert", "Ernie"])
def test_what_we_cannot_run_is_refused_by_name(name, wrong):
    settings = getattr(transformers, f"{name}Config")(**COMMON).to_dict()
    read_config(settings, "config.json")
    with pytest.raises(AthanorError) as caught:
        read_config({**settings, **wrong}, "config.json")
    said = {"type_vocab_size": "segments=0", "num_attention_heads": "heads=5"}
    assert any(said.get(key, key) in str(caught.value) for key in wrong)


def test_published_sizes_have_the_published_count():
    """bert-base-uncased has 109,514,298 weights with its masked head (transformers' own class on the meta device)."""
    for settings in ({}, {"hidden_size": 1_024, "num_hidden_layers": 24, "num_attention_heads": 16}):
        whole = transformers.BertConfig(**settings, **({"intermediate_size": 4_096} if settings else {}))
        family, config = read_config(whole.to_dict(), "config.json")
        with torch.device("meta"):
            counts = [
                sum(weight.numel() for weight in network.parameters())
                for network in (family.build(config), transformers.BertForMaskedLM(whole))
            ]
        assert counts[0] == counts[1]
        assert settings or counts[0] == 109_514_298
