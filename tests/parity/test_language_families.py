"""Each family against `transformers`: random weights through our converter, in both directions.

The reference builds the network and draws the weights; every parameter is then disturbed, so that a norm weight of one
or a bias of zero cannot hide a mistake.
"""

import itertools

import pytest
import torch

from athanor.models.convert import load_checkpoint, save_checkpoint
from athanor.models.families import FAMILIES, family_of
from athanor.models.language import LanguageModel

transformers = pytest.importorskip("transformers")

TOLERANCE = 1e-5
VOCABULARY, WIDTH, LAYERS, HEADS, HIDDEN, POSITIONS = 97, 64, 3, 4, 160, 48
COMMON = dict(
    vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
    intermediate_size=HIDDEN, max_position_embeddings=POSITIONS, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip
ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 5_000.0}}
CASES = {
    "llama": ("Llama", {**COMMON, **ROPE, "tie_word_embeddings": False}),
    "llama, grouped and tied": ("Llama", {**COMMON, "num_key_value_heads": 2, "tie_word_embeddings": True}),
    "llama, wide heads": ("Llama", {**COMMON, "num_key_value_heads": 1, "head_dim": 24, "rms_norm_eps": 1e-3}),
    "qwen2": ("Qwen2", {**COMMON, **ROPE, "num_key_value_heads": 2, "tie_word_embeddings": False}),
    "qwen3": ("Qwen3", {**COMMON, **ROPE, "num_key_value_heads": 2, "head_dim": 24, "tie_word_embeddings": False}),
    "qwen3, tied": ("Qwen3", {**COMMON, "num_key_value_heads": 4, "head_dim": 16, "tie_word_embeddings": True}),
    "glm4": ("Glm4", {**COMMON, "num_key_value_heads": 2, "head_dim": 16, "attention_bias": True}),
    "gpt2": (
        "GPT2",
        dict(vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_inner=HIDDEN, n_positions=POSITIONS,
             resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=1, eos_token_id=2),
    ),
}  # fmt: skip


def reference(case: str) -> torch.nn.Module:
    """The reference network in float32 with every parameter disturbed."""
    name, settings = CASES[case]
    torch.manual_seed(len(case))
    config = getattr(transformers, f"{name}Config")(**settings, attn_implementation="eager")
    network = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return network.eval().float()


@pytest.fixture(params=CASES, scope="module")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """The reference and our network loaded from what the reference saved."""
    theirs = reference(request.param)
    folder = tmp_path_factory.mktemp("reference")
    theirs.save_pretrained(folder)
    return theirs, load_checkpoint(folder)


def random_ids(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference, relative where the reference is larger than 1."""
    return float(((a - b).detach().abs() / b.detach().abs().clamp_min(1.0)).max())


def test_logits_equal(pair):
    theirs, ours = pair
    ids = random_ids(3, 40)
    with torch.no_grad():
        assert difference(ours(ids), theirs(ids).logits) < TOLERANCE


def test_logits_equal_while_training(pair):
    """The paths taken when gradients are wanted are others than those without."""
    theirs, ours = pair
    ids = random_ids(3, 40)
    assert difference(ours(ids), theirs(ids).logits) < TOLERANCE


def test_padding_does_not_leak(pair):
    """Right-padded rows: the padding is a document of its own; what stands before it equals the reference."""
    theirs, ours = pair
    ids, lengths = random_ids(3, 20), torch.tensor([20, 13, 5])
    seen = torch.arange(20) < lengths[:, None]
    expected = theirs(ids, attention_mask=seen.long()).logits
    actual = ours(ids, documents_BT=(~seen).long())
    assert difference(actual[seen], expected[seen]) < TOLERANCE


def test_packed_documents_equal_documents_alone(pair):
    theirs, ours = pair
    ids = random_ids(2, 40)
    cuts = ([0, 7, 8, 29, 40], [0, 16, 40])
    documents = torch.zeros_like(ids)
    for row, ends in enumerate(cuts):
        for number, (first, last) in enumerate(itertools.pairwise(ends)):
            documents[row, first:last] = number % 2  # a number may come again: only its change ends a document
    for wanted in (False, True):
        with torch.set_grad_enabled(wanted):
            logits = ours(ids, documents_BT=documents)
        for row, ends in enumerate(cuts):
            for first, last in itertools.pairwise(ends):
                alone = theirs(ids[row : row + 1, first:last]).logits
                assert difference(logits[row : row + 1, first:last], alone) < TOLERANCE


def their_gradients(theirs: torch.nn.Module, ids: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, dict]:
    """Mean loss over targets that are not -100, and the gradients in our checkpoint's names."""
    theirs.zero_grad()
    logits = theirs(ids).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)
    loss.backward()
    return loss, {name: parameter.grad for name, parameter in theirs.named_parameters()}


def test_loss_and_gradients_equal(pair, tmp_path):
    """Our gradients, put in place of the weights, go through our converter and must equal the reference's."""
    theirs, ours = pair
    ids, targets = random_ids(3, 40), random_ids(3, 40, seed=1)
    targets[0, 5:20] = -100
    loss, expected = their_gradients(theirs, ids, targets)
    ours.zero_grad()
    total, count = ours.loss(ids, targets)
    (total / count).backward()
    assert difference(total / count, loss) < TOLERANCE
    gradients = LanguageModel(ours.config)
    gradients.load_state_dict({name: parameter.grad for name, parameter in ours.named_parameters()})
    save_checkpoint(gradients, tmp_path)
    from safetensors.torch import load_file

    actual = load_file(tmp_path / "model.safetensors")
    for name, gradient in expected.items():
        scale = float(gradient.abs().max().clamp_min(1e-3))
        assert float((actual[name] - gradient).abs().max()) / scale < TOLERANCE, name


class GrowingCache:
    """The simplest cache: grows by joining."""

    def __init__(self):
        self.kept, self.mask_BTS = {}, None

    def append(self, layer, k, v):
        if layer in self.kept:
            k, v = torch.cat((self.kept[layer][0], k), 2), torch.cat((self.kept[layer][1], v), 2)
        self.kept[layer] = (k, v)
        return k, v

    def step(self, model, ids, first, last):
        place = torch.arange(last)
        self.mask_BTS = (place[first:, None] >= place)[None].expand(ids.shape[0], -1, -1)
        positions = place[first:].expand(ids.shape[0], -1)
        return model(ids[:, first:last], positions_BT=positions, cache=self)


@pytest.mark.parametrize("ends", [(5, 9, *range(10, 21)), (1, 2, 20), (20,)])
def test_cached_decoding_equals_the_whole(pair, ends):
    """In chunks, then step by step, as an engine decodes."""
    theirs, ours = pair
    ids, cache, first, pieces = random_ids(2, 20), GrowingCache(), 0, []
    with torch.no_grad():
        for last in ends:
            pieces.append(cache.step(ours, ids, first, last))
            first = last
        assert difference(torch.cat(pieces, 1), theirs(ids).logits) < TOLERANCE


@pytest.mark.parametrize("shard_bytes", [5_000_000_000, 100_000])
def test_what_we_save_loads_there(pair, tmp_path, shard_bytes):
    theirs, ours = pair
    save_checkpoint(ours, tmp_path, generation={"eos_token_id": 2}, shard_bytes=shard_bytes)
    back, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    assert type(back) is type(theirs)
    assert back.generation_config.eos_token_id == 2
    ids = random_ids(2, 30)
    with torch.no_grad():
        assert difference(back.eval()(ids).logits, theirs(ids).logits) < TOLERANCE
        assert torch.equal(load_checkpoint(tmp_path)(ids), ours(ids))


def test_every_family_has_a_case(pair):
    _, ours = pair
    covered = {name.split(",")[0] for name in CASES}
    assert covered == set(FAMILIES)
    assert family_of(ours.config).name in covered
