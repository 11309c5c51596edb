"""GLM, ChatGLM-6B, GLM-130B, ChatGLM2 and ChatGLM3 against SwissArmyTransformer, by what it computed (`sat/`).

`sat_reference.py` made the files and says what is in them; a slow test makes them again where ATHANOR_SAT_PYTHON names
a Python that has SwissArmyTransformer (docs/design/004-glm-reference.md).
"""

import functools
import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from athanor.base.errors import AthanorError
from athanor.inference.blanks import Blanks
from athanor.inference.cache import KeyValueCache
from athanor.inference.engine import Engine
from athanor.inference.generate import generate
from athanor.inference.sampling import Sampling
from athanor.models.convert import load_checkpoint, save_checkpoint
from athanor.models.families import FAMILIES
from athanor.models.glm import Row, answer_row, batch_rows, training_row
from athanor.models.language import LanguageModel
from athanor.models.published import PUBLISHED
from athanor.models.settings import family_of, read_config
from athanor.models.shapes import count_parameters
from tests.parity.reference import TOLERANCE, difference

FOLDER = Path(__file__).parent / "sat"
FAMILY_OF = {
    "chatglm-6b": "chatglm",
    "glm-130b": "glm-130b",
    "glm-10b": "glm-10b",
    "chatglm2-6b": "chatglm2",
    "chatglm3-6b": "chatglm2",
}
FILLING = ("chatglm-6b", "glm-130b", "glm-10b")
PAD, MASK, GMASK, START, END = 3, 40, 41, 42, 43


@functools.cache
def golden(name: str) -> tuple[dict, dict, dict, dict]:
    """Published config.json, weights, gradients and cases of one reference network."""
    with safe_open(FOLDER / f"{name}.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}
        config = json.loads(file.metadata()["config"])
    groups: dict[str, dict] = {}
    for key, tensor in tensors.items():
        group, name = key.split("/")
        groups.setdefault(group, {})[name] = tensor.long() if tensor.dtype == torch.int16 else tensor
    return config, groups.pop("weights"), groups.pop("gradients"), groups


def write_folder(folder: Path, config: dict, weights: dict) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights, folder / "model.safetensors")
    return folder


@pytest.fixture(params=FAMILY_OF, scope="module")
def network(request, tmp_path_factory):
    """Name, our network with the reference's weights, and the reference's cases."""
    config, weights, _, cases = golden(request.param)
    return request.param, load_checkpoint(write_folder(tmp_path_factory.mktemp("sat"), config, weights)), cases


@pytest.fixture(params=FILLING, scope="module")
def filling(request, tmp_path_factory):
    """The same for the networks that fill in blanks."""
    config, weights, _, cases = golden(request.param)
    return request.param, load_checkpoint(write_folder(tmp_path_factory.mktemp("sat"), config, weights)), cases


def run(model: LanguageModel, case: dict) -> torch.Tensor:
    """Our logits; unlike the reference we let padding see itself, because a row that sees nothing has no softmax."""
    allowed = case["allowed"] | torch.eye(case["ids"].shape[1], dtype=torch.bool)
    return model(case["ids"], positions_BT=case["positions"], allowed_BTS=allowed)


# ---------------------------------------------------------------------------------------------- the same computation


@pytest.mark.parametrize("training", [False, True])
def test_logits_equal(network, training):
    _, model, cases = network
    for case in cases.values():
        with torch.set_grad_enabled(training):
            logits = run(model, case)
        assert difference(logits[case["seen"]], case["logits"][case["seen"]]) < TOLERANCE


def published(name: str, model: LanguageModel, folder: Path) -> dict[str, torch.Tensor]:
    """Our network's tensors as its published checkpoint holds them."""
    save_checkpoint(model, folder, family=FAMILY_OF[name])
    return load_file(folder / "model.safetensors")


def test_gradients_equal(network, tmp_path):
    """Every tensor's gradient of the sum of the mean losses, under the names of the published checkpoint."""
    name, model, cases = network
    expected = golden(name)[2]
    model.zero_grad()
    for case in cases.values():
        allowed = case["allowed"] | torch.eye(case["ids"].shape[1], dtype=torch.bool)
        total, count = model.loss(case["ids"], case["targets"], positions_BT=case["positions"], allowed_BTS=allowed)
        (total / count).backward()
    gradients = LanguageModel(model.config)
    gradients.load_state_dict({key: parameter.grad for key, parameter in model.named_parameters()})
    actual = published(name, gradients, tmp_path)
    assert set(actual) == set(expected)
    for key, gradient in expected.items():
        scale = float(gradient.abs().max().clamp_min(1e-3))
        assert float((actual[key] - gradient).abs().max()) / scale < TOLERANCE, key


def test_padding_changes_nothing(network):
    _, model, cases = network
    padded = [case for case in cases.values() if not bool(case["seen"].all())]
    for case in padded:
        other = case | {"ids": torch.where(case["seen"], case["ids"], 7)}
        with torch.no_grad():
            assert torch.equal(run(model, other)[case["seen"]], run(model, case)[case["seen"]])
    assert padded or network[0] == "glm-130b"


# ------------------------------------------------------------------------------------------------------ the same files


def test_weights_come_back_bit_for_bit(network, tmp_path):
    name, model, _ = network
    config, weights, _, _ = golden(name)
    family = FAMILIES[FAMILY_OF[name]]
    actual = published(name, model, tmp_path)
    assert set(actual) == set(weights)
    assert all(torch.equal(actual[key], weights[key]) for key in weights)
    assert read_config(config, "config.json")[0] is family
    written = json.loads((tmp_path / "config.json").read_text())
    assert read_config(written, "written") == (family, model.config)
    same = [key for key in config if key in family.settings]
    assert same and all(written[key] == config[key] for key in same)


def test_saved_and_loaded_again(network, tmp_path):
    _, model, cases = network
    save_checkpoint(model, tmp_path)
    again = load_checkpoint(tmp_path)
    for case in cases.values():
        with torch.no_grad():
            assert torch.equal(run(again, case), run(model, case))


@pytest.mark.parametrize("name", ["chatglm2-6b", "chatglm3-6b"])
def test_later_chatglm_leaves_as_a_network_transformers_knows(name, tmp_path):
    """ChatGLM2 and 3 are what `transformers` calls Glm: saved, they load there without code of their own."""
    transformers = pytest.importorskip("transformers")
    config, weights, _, cases = golden(name)
    model = load_checkpoint(write_folder(tmp_path / "theirs", config, weights))
    assert family_of(model.config).name == "glm"
    save_checkpoint(model, tmp_path / "ours", generation={"eos_token_id": 2, "pad_token_id": 0})
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", attn_implementation="eager")
    assert type(theirs).__name__ == "GlmForCausalLM"
    for case in cases.values():
        with torch.no_grad():
            logits = theirs(case["ids"], attention_mask=case["seen"].long(), position_ids=case["positions"]).logits
        assert difference(logits[case["seen"]], case["logits"][case["seen"]]) < TOLERANCE


def test_a_stored_copy_of_the_tied_head(tmp_path):
    """The published ChatGLM-6B stores its head beside the embedding it repeats; one that differs is no copy."""
    config, weights, _, _ = golden("chatglm-6b")
    embedding = weights["transformer.word_embeddings.weight"]
    head = {"lm_head.weight": embedding.clone(), "transformer.layers.0.attention.rotary_emb.inv_freq": torch.ones(3)}
    assert load_checkpoint(write_folder(tmp_path / "equal", config, weights | head)).head is None
    with pytest.raises(AthanorError, match="lm_head"):
        load_checkpoint(write_folder(tmp_path / "other", config, weights | {"lm_head.weight": embedding + 1}))
    untied = config | {"tie_word_embeddings": False}
    model = load_checkpoint(write_folder(tmp_path / "untied", untied, weights | {"lm_head.weight": embedding + 1}))
    assert torch.equal(model.head.weight, embedding + 1)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("chatglm-6b", {"quantization_bit": 4}),
        ("chatglm-6b", {"pre_seq_len": 128}),
        ("chatglm-6b", {"position_encoding_2d": False}),
        ("chatglm-6b", {"num_layers": 500}),
        ("chatglm-6b", {"layernorm_order": "pre"}),
        ("glm-130b", {"position_encoding_2d": True}),
        ("glm-130b", {"no_glu": True}),
        ("glm-130b", {"layernorm_order": "pre"}),
        ("glm-10b", {"relative_encoding": True}),
        ("glm-10b", {"block_position_encoding": False}),
        ("glm-10b", {"attention_scale": 8.0}),
        ("chatglm3-6b", {"rmsnorm": False}),
        ("chatglm3-6b", {"original_rope": False}),
        ("chatglm3-6b", {"multi_query_attention": False}),
        ("chatglm3-6b", {"add_bias_linear": True}),
        ("chatglm3-6b", {"rope_ratio": "50"}),
        ("chatglm3-6b", {"vocab_size": 47}),
    ],
)
def test_what_we_cannot_run_is_refused_by_name(name, wrong):
    config = golden(name)[0]
    with pytest.raises(AthanorError) as caught:
        read_config(config | wrong, "config.json")
    assert all(key in str(caught.value) for key in wrong)


# ------------------------------------------------------------------------------------------------- inputs and answers


def rows_of_case(name: str, case_name: str, case: dict) -> list[tuple[Row, int]]:
    """The rows of a case as our input maker makes them, and how much padding stands before each."""
    mask = GMASK if case_name == "gmask" else MASK
    rows = []
    for ids, seen in zip(case["ids"].tolist(), case["seen"].tolist(), strict=True):
        padding = seen.index(True)
        words = [word for word, real in zip(ids, seen, strict=True) if real]
        cut = words.index(START)
        counts_on = name == "glm-130b" and mask == GMASK
        row = answer_row(words[:cut], words[cut + 1 :], mask=mask, start=START, end=END, counts_on=counts_on)
        rows.append((row, padding))
    return rows


@pytest.mark.parametrize("name", ["chatglm-6b", "glm-130b"])
@pytest.mark.parametrize("case_name", ["gmask", "mask"])
def test_our_inputs_are_theirs(name, case_name):
    """ChatGLM-6B's positions and masks are SwissArmyTransformer's own, from nothing but the ids."""
    config, _, _, cases = golden(name)
    case = cases[case_name]
    axes = read_config(config, "config.json")[1].position_axes
    for number, (row, padding) in enumerate(rows_of_case(name, case_name, case)):
        made = batch_rows([row], pad=PAD, axes=axes)
        assert torch.equal(made.ids_BT[0], case["ids"][number, padding:])
        assert torch.equal(made.positions_BT[0], case["positions"][number, padding:])
        assert torch.equal(made.allowed_BTS[0], case["allowed"][number, padding:, padding:])
        assert torch.equal(made.targets_BT[0], case["targets"][number, padding:])


def infilling_rows() -> list[Row]:
    """The two rows of the case `infilling`, from their texts."""
    special = {"mask": MASK, "start": START, "end": END}
    long = training_row([11, 12, 13, 14, 15, 16, 17, 18], [(5, 8), (2, 4)], **special)
    return [long, training_row([11, 13, 14, 16, 15, 12], [(1, 4)], **special)]


def test_our_inputs_are_those_written_by_hand():
    case = golden("glm-10b")[3]["infilling"]
    made = batch_rows(infilling_rows(), pad=PAD, axes=2)
    assert torch.equal(made.ids_BT, case["ids"])
    assert torch.equal(made.positions_BT, case["positions"])
    assert torch.equal(made.targets_BT, case["targets"])
    assert torch.equal(made.allowed_BTS, case["allowed"])


def prompt_of(row: Row) -> Row:
    """The row up to its start token, without its answer."""
    stop = row.context + 1
    return replace(
        row, ids=row.ids[:stop], places=row.places[:stop], steps=row.steps[:stop], targets=row.targets[:stop]
    )


def test_answers_written_with_a_cache_equal_the_whole(filling):
    """Prompts of different lengths, then a token per row at its own place: the reference's logits of the whole."""
    name, model, cases = filling
    for case_name, case in cases.items():
        pairs = [(row, 0) for row in infilling_rows()[1:]] if name == "glm-10b" else rows_of_case(name, case_name, case)
        offset = 1 if name == "glm-10b" else 0
        rows = [row for row, _ in pairs]
        prompts = batch_rows([prompt_of(row) for row in rows], pad=PAD, axes=model.config.position_axes)
        cache = KeyValueCache(model.config, len(rows), 8, torch.float32, torch.device("cpu"))
        with torch.no_grad():
            cache.begin_chunk(0, prompts.ids_BT.shape[1])
            cache.mask_BTS = prompts.allowed_BTS
            logits = model(prompts.ids_BT, positions_BT=prompts.positions_BT, cache=cache)
            for number, (row, padding) in enumerate(pairs):
                expected = case["logits"][number + offset, padding : padding + row.context + 1]
                assert difference(logits[number, : row.context + 1], expected) < TOLERANCE
            for step in range(2, min(len(row.ids) - row.context for row in rows) + 1):
                indices = [row.context + step - 1 for row in rows]
                cache.begin_decode(indices)
                token = torch.tensor([[row.ids[index]] for row, index in zip(rows, indices, strict=True)])
                position = torch.tensor([[row.position(step)] for row in rows])
                position = position if model.config.position_axes == 2 else position[..., 0]
                logits = model(token, positions_BT=position, cache=cache)
                for number, (index, (_, padding)) in enumerate(zip(indices, pairs, strict=True)):
                    expected = case["logits"][number + offset, padding + index]
                    assert difference(logits[number, 0], expected) < TOLERANCE


@pytest.mark.parametrize("name", ["chatglm2-6b", "chatglm3-6b"])
def test_later_chatglm_written_token_by_token(name, tmp_path):
    """These read from left to right only, so that even their prompts may come one token at a time."""
    config, weights, _, cases = golden(name)
    model, case = load_checkpoint(write_folder(tmp_path, config, weights)), cases["right"]
    cache = KeyValueCache(model.config, 3, 8, torch.float32, torch.device("cpu"))
    with torch.no_grad():
        for place in range(case["ids"].shape[1]):
            position = cache.begin_decode([place] * 3)
            logits = model(case["ids"][:, place : place + 1], positions_BT=position, cache=cache)[:, 0]
            seen = case["seen"][:, place]
            assert difference(logits[seen], case["logits"][seen, place]) < TOLERANCE


BLANKS = Blanks(ending=GMASK, others=(MASK,), start=START)


@pytest.mark.parametrize("limits", [{}, {"rows": 2, "chunk": 4}])
def test_answers_are_the_references(filling, limits):
    """Token for token, from the naive loop and from the engine, which is given all prompts at once."""
    name, model, _ = filling
    rows = json.loads((FOLDER / "answers.json").read_text())[name]
    sampling = Sampling(max_tokens=12, frequency_penalty=2.0)
    prompts = [row["prompt"] if number % 2 else row["prompt"][:-1] for number, row in enumerate(rows)]
    written = Engine(model, blanks=BLANKS, **limits).generate_batch(prompts, sampling)
    for row, prompt, answer in zip(rows, prompts, written, strict=True):
        assert row["margin"] > 1e-3
        assert list(answer.ids) == row["answer"]
        assert generate(model, prompt, sampling, blanks=BLANKS) == answer


# ---------------------------------------------------------------------------------------------- the published networks

CHATGLM2 = {
    "add_bias_linear": False, "add_qkv_bias": True, "apply_query_key_layer_scaling": True,
    "apply_residual_connection_post_layernorm": False, "attention_softmax_in_fp32": True, "bias_dropout_fusion": True,
    "ffn_hidden_size": 13696, "fp32_residual_connection": False, "hidden_size": 4096, "kv_channels": 128,
    "layernorm_epsilon": 1e-05, "multi_query_attention": True, "multi_query_group_num": 2, "num_attention_heads": 32,
    "original_rope": True, "post_layer_norm": True, "rmsnorm": True, "tie_word_embeddings": False,
    "model_type": "chatglm", "auto_map": {"AutoModel": "modeling_chatglm.ChatGLMForConditionalGeneration"},
}  # fmt: skip
PUBLISHED_CONFIGS = {
    "chatglm-6b": {
        "architectures": ["ChatGLMModel"], "auto_map": {"AutoModel": "modeling_chatglm.ChatGLMModel"},
        "bos_token_id": 130004, "eos_token_id": 130005, "gmask_token_id": 130001, "hidden_size": 4096,
        "inner_hidden_size": 16384, "layernorm_epsilon": 1e-05, "mask_token_id": 130000, "max_sequence_length": 2048,
        "model_type": "chatglm", "num_attention_heads": 32, "num_layers": 28, "pad_token_id": 3,
        "position_encoding_2d": True, "pre_seq_len": None, "prefix_projection": False, "quantization_bit": 0,
        "torch_dtype": "float16", "transformers_version": "4.27.1", "use_cache": True, "vocab_size": 130528,
    },
    "chatglm3-6b": CHATGLM2 | {"num_layers": 28, "padded_vocab_size": 65024, "seq_length": 8192},
    "glm-4-9b": CHATGLM2 | {
        "num_layers": 40, "num_hidden_layers": 40, "padded_vocab_size": 151552, "vocab_size": 151552,
        "seq_length": 131072, "rope_ratio": 500, "layernorm_epsilon": 1.5625e-07,
    },
    "glm-130b": {
        "model_type": "glm-130b", "num_layers": 70, "hidden_size": 12288, "inner_hidden_size": 32768,
        "num_attention_heads": 96, "vocab_size": 150528, "max_sequence_length": 2048, "layernorm_order": "post",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED_CONFIGS)
def test_published_networks_can_be_built_and_have_as_many_weights(name):
    family, config = read_config(PUBLISHED_CONFIGS[name], "config.json")
    with torch.device("meta"):
        model = family.build(config)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == count_parameters(config)
    assert abs(count - PUBLISHED[name].count) <= PUBLISHED[name].within * PUBLISHED[name].count


def test_glm_10b_has_the_weights_its_tables_say():
    """48 layers of 4,096 with 64 heads (Du et al. 2022, table 8), 50,304 words and two tables of 1,025 positions."""
    config = {
        **golden("glm-10b")[0], "num_layers": 48, "hidden_size": 4096, "num_attention_heads": 64,
        "vocab_size": 50_304, "max_sequence_length": 1024,
    }  # fmt: skip
    ours = read_config(config, "config.json")[1]
    layer = 12 * 4096**2 + 13 * 4096
    assert count_parameters(ours) == 48 * layer + (50_304 + 2 * 1_025 + 2) * 4096
    assert ours.hidden == 16_384


# ------------------------------------------------------------------------------------ with SwissArmyTransformer at hand

python_with_sat = pytest.mark.skipif("ATHANOR_SAT_PYTHON" not in os.environ, reason="ATHANOR_SAT_PYTHON is not set")


def reference(*arguments: object) -> None:
    script = Path(__file__).parent / "sat_reference.py"
    command = [os.environ["ATHANOR_SAT_PYTHON"], str(script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2_000:]


@pytest.mark.slow
@python_with_sat
def test_the_reference_computes_what_the_files_say(tmp_path):
    reference("make", tmp_path)
    for name in FAMILY_OF:
        made, kept = load_file(tmp_path / f"{name}.safetensors"), load_file(FOLDER / f"{name}.safetensors")
        assert set(made) == set(kept)
        assert all(difference(made[key].double(), kept[key].double()) < 1e-6 for key in kept)


@pytest.mark.slow
@python_with_sat
def test_the_reference_answers_what_the_file_says(tmp_path):
    reference("answer", FOLDER, tmp_path / "answers.json")
    assert json.loads((tmp_path / "answers.json").read_text()) == json.loads((FOLDER / "answers.json").read_text())


@pytest.mark.slow
@python_with_sat
def test_our_weights_load_in_the_reference(network, tmp_path):
    """Fresh weights of ours, written under their names, give the same logits there."""
    name, model, cases = network
    fresh = LanguageModel(model.config).initialise(seed=1)
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    published(name, fresh, tmp_path / "ours")
    reference("run", name, tmp_path / "ours" / "model.safetensors", tmp_path / "logits.safetensors")
    logits = load_file(tmp_path / "logits.safetensors")
    assert set(logits) == set(cases)
    for case_name, case in cases.items():
        with torch.no_grad():
            ours = run(fresh, case)
        assert difference(ours[case["seen"]], logits[case_name][case["seen"]]) < TOLERANCE
