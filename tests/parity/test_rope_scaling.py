"""Dynamic rope scaling beyond its limit, and every way a config.json may say a scaling, against `transformers`.

The dynamic kind looks at the length of a text, so the reference has a memory: a call with fewer positions than its
limit makes it forget the longest text so far.
"""

import pytest
import torch

from athanor.models.config import TransformerConfig
from athanor.models.convert import load_checkpoint
from athanor.models.families import FAMILIES
from athanor.models.rope import rope_table
from athanor.models.settings import our_config, read_config, their_config
from tests.parity.reference import TOLERANCE, GrowingCache, difference

transformers = pytest.importorskip("transformers")

LIMIT, VOCABULARY = 16, 97
SHAPE = dict(
    vocab_size=VOCABULARY, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=160,
    max_position_embeddings=LIMIT, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip
KEYS = {"Llama": {}, "Qwen2": {"num_key_value_heads": 2}, "GPTNeoX": {}}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 5_000.0, "factor": 3.0}


@pytest.fixture(params=KEYS)
def pair(request, tmp_path):
    torch.manual_seed(0)
    config = getattr(transformers, f"{request.param}Config")(
        **SHAPE, **KEYS[request.param], rope_parameters=dict(DYNAMIC)
    )
    theirs = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    theirs.save_pretrained(tmp_path)
    return theirs, load_checkpoint(tmp_path)


def random_ids(rows: int, length: int) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(0))


def fresh(theirs: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """The reference's logits, without memory of longer texts."""
    theirs(ids[:, :2])
    return theirs(ids).logits


@pytest.mark.parametrize("length", [5, LIMIT, LIMIT + 1, 3 * LIMIT])
def test_dynamic_logits_and_gradients(pair, length):
    theirs, ours = pair
    ids = random_ids(2, length)
    expected, actual = fresh(theirs, ids), ours(ids)
    assert difference(actual, expected) < TOLERANCE
    theirs.zero_grad()
    expected.square().mean().backward()
    actual.square().mean().backward()
    reference = theirs.get_input_embeddings().weight.grad
    scale = float(reference.abs().max())
    assert float((ours.tokens.weight.grad - reference).abs().max()) / scale < TOLERANCE


def test_dynamic_scaling_depends_on_each_document_alone(pair):
    theirs, ours = pair
    ids = random_ids(1, 45)
    documents = torch.zeros_like(ids)
    documents[:, 30:] = 1
    for wanted in (False, True):
        with torch.set_grad_enabled(wanted):
            logits = ours(ids, documents_BT=documents)
        assert difference(logits[:, :30], fresh(theirs, ids[:, :30])) < TOLERANCE
        assert difference(logits[:, 30:], fresh(theirs, ids[:, 30:])) < TOLERANCE


def test_dynamic_scaling_with_a_cache_is_theirs_chunk_by_chunk(pair):
    """Keys keep the angles they were stored with, so chunks are not the whole; but they are the reference's chunks."""
    theirs, ours = pair
    ids, first, ours_cache, their_cache = random_ids(2, 40), 0, GrowingCache(), transformers.DynamicCache()
    theirs(ids[:, :2])
    with torch.no_grad():
        for last in (12, 20, *range(21, 41)):
            theirs_says = theirs(ids[:, first:last], past_key_values=their_cache, use_cache=True).logits
            positions = ours_cache.begin(len(ids), first, last)
            ours_says = ours(ids[:, first:last], positions_BT=positions, cache=ours_cache)
            assert difference(ours_says, theirs_says) < TOLERANCE
            first = last


def test_dynamic_scaling_ends_where_its_factor_ends(pair):
    _, ours = pair
    with pytest.raises(ValueError, match="max_positions=48"):
        ours(random_ids(1, 3 * LIMIT + 1))


SCALINGS = [
    {"rope_type": "default"},
    {"type": "linear", "factor": 2},
    {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
     "original_max_position_embeddings": 256},
    {"rope_type": "yarn", "factor": 4.0},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512, "attention_factor": 0.7},
    {"rope_type": "yarn", "factor": 16.0, "beta_fast": 20.0, "beta_slow": 2, "truncate": False},
    {"rope_type": "yarn", "factor": 4.0, "mscale": 0.7, "mscale_all_dim": 0.9},
    {"rope_type": "yarn", "factor": 4.0, "mscale": 0.7, "attention_factor": None},
    {"rope_type": "yarn", "factor": 1.0, "beta_fast": 1.0, "beta_slow": 1.0},
    {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10_000.0, "original_max_position_embeddings": 100_000},
]  # fmt: skip


@pytest.mark.parametrize("settings", SCALINGS, ids=str)
@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_angles_of_a_whole_context(settings, key):
    """Cosine and sine for real sizes, where a tiny network would see few pairs, from either key."""
    shape = {**SHAPE, "hidden_size": 512, "max_position_embeddings": 2048, "rope_theta": 500_000.0}
    record = {**shape, "model_type": "llama", key: dict(settings)}
    reference = transformers.LlamaConfig(**shape, **{key: dict(settings)})
    rotary = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(reference)
    positions = torch.arange(0, 2048, 7)[None]
    cosine, sine = rotary(torch.zeros(1), positions)
    family, config = read_config(record, "config.json")
    assert our_config(family, their_config(family, config, "float32"), "") == config
    for ours, theirs in zip(rope_table(config, positions), (cosine, sine), strict=True):
        assert float((ours[:, :, 0] - theirs[..., :64]).abs().max()) < 2e-4  # angles of 2,000 in float32


def test_rotary_settings_of_gpt_neox_by_their_old_names():
    record = {**SHAPE, "model_type": "gpt_neox", "rotary_pct": 0.5, "rotary_emb_base": 7_000}
    _, config = read_config(record, "config.json")
    assert (config.rope_share, config.rope_base) == (0.5, 7_000.0)
    assert read_config({**SHAPE, "model_type": "gpt_neox"}, "config.json")[1].rope_share == 0.25


def test_every_rotating_family_reads_a_scaling():
    for name, family in FAMILIES.items():
        if family.rope_settings:
            config = TransformerConfig(
                **{"width": 64, "layers": 2, "heads": 4, "hidden": 96, "max_positions": 32, "vocabulary": 50},
                **({"mlp": "gelu"} if family.choices else {}),
                **({"experts": 4, "experts_per_token": 2} if "num_experts_per_tok" in family.settings else {}),
                **dict(family.fixed),
            )
            record = their_config(family, config, "float32")
            record["rope_parameters"] |= {"rope_type": "linear", "factor": 2.0}
            scaling = read_config(record, name)[1].rope_scaling
            assert scaling is not None and scaling.kind == "linear"
