"""Each family against `transformers`: random weights through our converter, in both directions.

The reference builds the network and draws the weights; every parameter is then disturbed, so that a norm weight of one
or a bias of zero cannot hide a mistake.
"""

import itertools

import pytest
import torch

from athanor.base.errors import AthanorError
from athanor.inference.cache import KeyValueCache
from athanor.models.convert import load_checkpoint, save_checkpoint
from athanor.models.families import FAMILIES
from athanor.models.families.causal import CAUSAL
from athanor.models.settings import family_of, read_config
from athanor.models.shapes import count_parameters
from tests.parity.reference import TOLERANCE, GrowingCache, assert_gradients_equal, difference

transformers = pytest.importorskip("transformers")

HERE = {family.name: family for family in (*CAUSAL, FAMILIES["glm"])}
VOCABULARY, WIDTH, LAYERS, HEADS, HIDDEN, POSITIONS = 97, 64, 3, 4, 160, 48
COMMON = dict(
    vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
    intermediate_size=HIDDEN, max_position_embeddings=POSITIONS, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip
ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 5_000.0}}


def scaled(kind: str, factor: float, **more) -> dict:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 5_000.0, "factor": factor, **more}}


LLAMA3 = scaled("llama3", 8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16)
YARN = scaled("yarn", 4.0, original_max_position_embeddings=12)
YARN_DEEPSEEK = scaled(
    "yarn", 4.0, original_max_position_embeddings=12, mscale=0.8, mscale_all_dim=0.5, beta_fast=4, truncate=False
)
WINDOW = {"use_sliding_window": True, "sliding_window": 6, "num_key_value_heads": 2}
GPT = dict(
    vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_positions=POSITIONS, resid_pdrop=0.0,
    embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip
QWEN3_MOE = {
    **COMMON, "num_key_value_heads": 2, "head_dim": 16, "moe_intermediate_size": 24, "num_experts": 6,
    "num_experts_per_tok": 2,
}  # fmt: skip
MIXTRAL_WINDOW = {"sliding_window": 5, "num_local_experts": 5, "num_experts_per_tok": 3, "num_key_value_heads": 4}
OPT = dict(
    vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS, ffn_dim=HIDDEN,
    max_position_embeddings=POSITIONS, dropout=0.0, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)  # fmt: skip
BLOOM = dict(vocab_size=VOCABULARY, hidden_size=WIDTH, n_layer=LAYERS, seq_length=POSITIONS)
CASES = {
    "llama": ("Llama", {**COMMON, **ROPE, "tie_word_embeddings": False}),
    "llama, grouped and tied": ("Llama", {**COMMON, "num_key_value_heads": 2, "tie_word_embeddings": True}),
    "llama, wide heads": ("Llama", {**COMMON, "num_key_value_heads": 1, "head_dim": 24, "rms_norm_eps": 1e-3}),
    "llama, linear rope": ("Llama", {**COMMON, **scaled("linear", 3.0)}),
    "llama, dynamic rope below its limit": ("Llama", {**COMMON, **scaled("dynamic", 3.0)}),
    "llama, llama3 rope": ("Llama", {**COMMON, **LLAMA3}),
    "llama, yarn": ("Llama", {**COMMON, **YARN}),
    "qwen2": ("Qwen2", {**COMMON, **ROPE, "num_key_value_heads": 2, "tie_word_embeddings": False}),
    "qwen2, window in upper layers": ("Qwen2", {**COMMON, **WINDOW, "max_window_layers": 1}),
    "qwen2, yarn": ("Qwen2", {**COMMON, **YARN, "num_key_value_heads": 2}),
    "qwen3": ("Qwen3", {**COMMON, **ROPE, "num_key_value_heads": 2, "head_dim": 24, "tie_word_embeddings": False}),
    "qwen3, tied": ("Qwen3", {**COMMON, "num_key_value_heads": 4, "head_dim": 16, "tie_word_embeddings": True}),
    "qwen3, window in all layers": ("Qwen3", {**COMMON, **WINDOW, "head_dim": 16, "max_window_layers": 0}),
    "qwen3, window in one layer, yarn": (
        "Qwen3",
        {
            **COMMON, **WINDOW, **YARN_DEEPSEEK, "head_dim": 16,
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
        },
    ),
    "mistral": ("Mistral", {**COMMON, "sliding_window": 7, "num_key_value_heads": 2}),
    "mistral, window of one": ("Mistral", {**COMMON, **ROPE, "sliding_window": 1, "num_key_value_heads": 1}),
    "mixtral": ("Mixtral", {**COMMON, "num_key_value_heads": 2, "num_local_experts": 4}),
    "mixtral, window": ("Mixtral", {**COMMON, **MIXTRAL_WINDOW}),
    "qwen3_moe": ("Qwen3Moe", {**QWEN3_MOE, "norm_topk_prob": True}),
    "qwen3_moe, dense between": ("Qwen3Moe", {**QWEN3_MOE, "mlp_only_layers": [0]}),
    "qwen3_moe, every second, window": ("Qwen3Moe", {**QWEN3_MOE, **WINDOW, "decoder_sparse_step": 2}),
    "glm4": ("Glm4", {**COMMON, "num_key_value_heads": 2, "head_dim": 16, "attention_bias": True}),
    "glm": ("Glm", {**COMMON, "num_key_value_heads": 2, "head_dim": 16}),
    "glm, tied, without biases": (
        "Glm",
        {**COMMON, "num_key_value_heads": 4, "head_dim": 24, "attention_bias": False, "tie_word_embeddings": True},
    ),
    "gpt2": ("GPT2", {**GPT, "n_inner": HIDDEN}),
    "gptj": ("GPTJ", {**GPT, "n_inner": HIDDEN, "rotary_dim": 12}),
    "openai-gpt": ("OpenAIGPT", GPT),
    "opt": ("OPT", OPT),
    "opt, untied": ("OPT", {**OPT, "tie_word_embeddings": False}),
    "gpt_neox": ("GPTNeoX", {**COMMON, "rope_parameters": {"rope_theta": 5_000.0, "partial_rotary_factor": 0.5}}),
    "gpt_neox, in series": ("GPTNeoX", {**COMMON, "use_parallel_residual": False, "hidden_act": "gelu_fast"}),
    "gpt_neox, linear rope": ("GPTNeoX", {**COMMON, "tie_word_embeddings": True, **scaled("linear", 2.0)}),
    "bloom": ("Bloom", {**BLOOM, "n_head": HEADS}),
    "bloom, heads no power of two": ("Bloom", {**BLOOM, "hidden_size": 72, "n_head": 6}),
    "cohere": ("Cohere", {**COMMON, **ROPE, "num_key_value_heads": 1}),
    "imagegpt": ("ImageGPT", {**GPT, "n_inner": HIDDEN, "vocab_size": VOCABULARY + 1}),
}  # fmt: skip


def reference(case: str) -> torch.nn.Module:
    """The reference network in float32 with every parameter disturbed."""
    name, settings = CASES[case]
    torch.manual_seed(len(case))
    config = getattr(transformers, f"{name}Config")(**settings, attn_implementation="eager")
    if name == "ImageGPT":
        network = transformers.ImageGPTForCausalImageModeling(config)
    else:
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


def test_left_padding_does_not_leak(pair):
    """Left-padded rows, as batches of prompts have them, with each token's place in its own text."""
    theirs, ours = pair
    ids, lengths = random_ids(3, 20), torch.tensor([20, 13, 5])
    seen = torch.arange(20) >= 20 - lengths[:, None]
    places = (seen.long().cumsum(1) - 1).clamp_min(0)
    expected = theirs(ids, attention_mask=seen.long(), position_ids=places).logits
    for wanted in (False, True):
        with torch.set_grad_enabled(wanted):
            actual = ours(ids, documents_BT=seen.long())
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


def test_loss_and_gradients_equal(pair, tmp_path):
    """Our gradients, put in place of the weights, go through our converter and must equal the reference's."""
    theirs, ours = pair
    ids, targets = random_ids(3, 40), random_ids(3, 40, seed=1)
    targets[0, 5:20] = -100
    theirs.zero_grad()
    ours.zero_grad()
    logits = theirs(ids).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)
    total, count = ours.loss(ids, targets)
    assert difference(total / count, loss) < TOLERANCE
    loss.backward()
    (total / count).backward()
    assert_gradients_equal(theirs, ours, tmp_path, floor=1e-3)


@pytest.mark.parametrize("ends", [(5, 9, *range(10, 21)), (1, 2, 20), (20,)])
def test_cached_decoding_equals_the_whole(pair, ends):
    """In chunks, then step by step, as an engine decodes."""
    theirs, ours = pair
    ids, cache, first, pieces = random_ids(2, 20), GrowingCache(), 0, []
    with torch.no_grad():
        for last in ends:
            positions = cache.begin(len(ids), first, last)
            pieces.append(ours(ids[:, first:last], positions_BT=positions, cache=cache))
            first = last
        assert difference(torch.cat(pieces, 1), theirs(ids).logits) < TOLERANCE


def test_rows_of_a_cache_at_different_places(pair):
    """The engine's own cache: prompts of different lengths, then one token per row, each at its own position."""
    _, ours = pair
    ids, lengths = random_ids(3, 20), [9, 4, 7]
    cache = KeyValueCache(ours.config, 3, 16, torch.float32, torch.device("cpu"))
    with torch.no_grad():
        whole = ours(ids)
        ours(ids[:, : max(lengths)], positions_BT=cache.begin_chunk(0, max(lengths)), cache=cache)
        for step in range(8):
            places = [length + step for length in lengths]
            token = torch.stack([ids[row, place] for row, place in enumerate(places)])[:, None]
            logits = ours(token, positions_BT=cache.begin_decode(places), cache=cache)
            expected = torch.stack([whole[row, place] for row, place in enumerate(places)])
            assert difference(logits[:, 0], expected) < TOLERANCE


@pytest.mark.parametrize("shard_bytes", [5_000_000_000, 100_000])
def test_what_we_save_loads_there(pair, tmp_path, shard_bytes):
    theirs, ours = pair
    save_checkpoint(ours, tmp_path, generation={"eos_token_id": 2}, shard_bytes=shard_bytes)
    back, report = type(theirs).from_pretrained(tmp_path, output_loading_info=True)
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
    assert covered == set(HERE)
    assert family_of(ours.config).name in covered


def test_parameters_are_counted_exactly(pair):
    _, ours = pair
    assert count_parameters(ours.config) == sum(parameter.numel() for parameter in ours.parameters())


@pytest.mark.parametrize("family", HERE.values(), ids=HERE)
def test_a_key_left_out_has_the_value_they_take(family):
    """The shortest config.json of each family is read as `transformers` completes it."""
    class_ = transformers.CONFIG_MAPPING[family.name]
    whole = class_().to_dict()
    shortest = {"model_type": family.name} | {
        key: whole[key] for key in family.settings if key in whole and key not in family.optional
    }
    completed = class_(**shortest).to_dict()
    assert read_config(shortest, "shortest")[1] == read_config(completed, "completed")[1]


@pytest.mark.parametrize(
    ("family", "wrong"),
    [
        ("opt", {"do_layer_norm_before": False}),
        ("opt", {"word_embed_proj_dim": 32}),
        ("opt", {"activation_function": "gelu"}),
        ("opt", {"enable_bias": False}),
        ("openai-gpt", {"afn": "silu"}),
        ("gpt_neox", {"hidden_act": "silu"}),
        ("gptj", {"rotary_dim": 512}),
        ("gptj", {"rotary_dim": None}),
        ("gpt_neox", {"rotary_pct": 0.25, "partial_rotary_factor": 0.5}),
        ("gpt_neox", {"attention_bias": False}),
        ("mistral", {"layer_types": ["full_attention"] * 32}),
        ("mixtral", {"router_jitter_noise": 0.1}),
        ("mixtral", {"num_experts_per_tok": 9}),
        ("qwen3_moe", {"decoder_sparse_step": 0}),
        ("qwen3_moe", {"mlp_only_layers": list(range(24))}),
        ("qwen3_moe", {"mlp_only_layers": "0"}),
        ("qwen3_moe", {"num_local_experts": 4}),
    ],
)
def test_what_we_cannot_run_is_refused_by_name(family, wrong):
    settings = transformers.CONFIG_MAPPING[family]().to_dict()
    settings = {**settings, "num_experts": 128} if family == "qwen3_moe" else settings
    read_config(settings, "config.json")
    with pytest.raises(AthanorError) as caught:
        read_config({**settings, **wrong}, "config.json")
    said = {"num_experts_per_tok": "experts_per_token=9", "mlp_only_layers": "layers"}
    assert any(said.get(key, key) in str(caught.value) for key in wrong)


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
@pytest.mark.parametrize("first", [{}, {"max_window_layers": 0}, {"max_window_layers": 30}, {"max_window_layers": 90}])
def test_windows_of_a_config_without_layer_types(family, first):
    """As published ones are: the window begins at a layer, the 28th when it is not said."""
    shape = {"num_hidden_layers": 36, "use_sliding_window": True, "sliding_window": 64, **first}
    whole = transformers.CONFIG_MAPPING[family](**shape).to_dict()
    kept = {key: value for key, value in whole.items() if key not in ("layer_types", "max_window_layers")}
    _, config = read_config(kept | shape, "config.json")
    expected = [kind == "sliding_attention" for kind in whole["layer_types"]]
    assert [config.windowed(layer) for layer in range(36)] == expected
    assert read_config(whole, "config.json")[1] == config
