"""What the GLM models of SwissArmyTransformer compute: tiny random networks, with logits and gradients.

Run by a Python that has SwissArmyTransformer (docs/design/004-glm-reference.md), never by the tests' own:

    python tests/parity/sat_reference.py make FOLDER             one safetensors file for each network
    python tests/parity/sat_reference.py run NAME WEIGHTS FILE   logits of network NAME with the weights of a checkpoint
    python tests/parity/sat_reference.py answer FOLDER FILE      greedy answers of those in FOLDER that fill in blanks

A file holds `weights/...` and `gradients/...` under the names of the published checkpoint, for each case `ids`,
`positions`, `allowed`, `targets`, `seen` and `logits`, and in its metadata the published config.json.

Shape letters: B batch, T and S positions, V vocabulary, N heads, H width of a head, A axes of a position.
"""

import argparse
import contextlib
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "1"  # the rotation of ChatGLM2 and 3 is a Triton kernel: interpreted, it runs on a CPU

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

# GLM-130B asks for the current GPU and halves two tensors whatever the number type: here all is float32 on the CPU.
torch.cuda.current_device = lambda: torch.device("cpu")
torch.cuda.device = contextlib.nullcontext
torch.Tensor.half = torch.Tensor.float
torch.set_num_threads(1)

from sat.model.official.chatglm2_model import ChatGLM2Model  # noqa: E402
from sat.model.official.chatglm3_model import ChatGLM3Model  # noqa: E402
from sat.model.official.chatglm_model import ChatGLMModel  # noqa: E402
from sat.model.official.glm130B_model import GLM130B  # noqa: E402
from sat.model.official.glm_model import GLMModel  # noqa: E402

VOCABULARY, LAYERS, LENGTH = 48, 2, 18
PAD, MASK, GMASK, START, END = 3, 40, 41, 42, 43
IGNORED = -100
PENALTY = 2.0
EPSILON = 1e-3  # large, so that one left out is seen
SPECIAL = {"bos_token_id": START, "mask_token_id": MASK, "gmask_token_id": GMASK, "pad_token_id": PAD}
WIDE = {"width": 24, "heads": 2, "hidden": 32}
SMALL = {"width": 16, "heads": 2, "hidden": 64}
GROUPED = {"width": 32, "heads": 4, "hidden": 20}


@dataclass(frozen=True)
class Case:
    """Inputs of one call and what is to be predicted."""

    ids_BT: Tensor
    positions: Tensor  # (B, T), or (B, T, 2)
    allowed_BTS: Tensor  # bool
    targets_BT: Tensor  # -100: not scored
    seen_BT: Tensor  # bool, False: padding


# --------------------------------------------------------------------------------------------------------- networks


def common(width: int, heads: int, hidden: int) -> dict:
    """Arguments every network takes."""
    return {
        "num_layers": LAYERS, "hidden_size": width, "num_attention_heads": heads, "inner_hidden_size": hidden,
        "vocab_size": VOCABULARY, "max_sequence_length": 32, "hidden_dropout": 0.0, "attention_dropout": 0.0,
        "layernorm_epsilon": EPSILON,
    }  # fmt: skip


def build(name: str) -> torch.nn.Module:
    """The network of SwissArmyTransformer, tiny."""
    grouped = {"use_bias": False, "use_qkv_bias": True, "num_multi_query_heads": 2, "layernorm_order": "pre"}
    if name == "chatglm-6b":
        model = ChatGLMModel(ChatGLMModel.get_args(**common(**WIDE), **SPECIAL, layernorm_order="post"))
        # One weight for both, as in the published checkpoint: its tie_word_embeddings, left out, is true.
        model.get_mixin("chatglm-final").lm_head.weight = model.transformer.word_embeddings.weight
    elif name == "glm-130b":
        model = GLM130B(GLM130B.get_args(**common(**WIDE), fp16=False)).float()
    elif name == "glm-10b":
        model = GLMModel(GLMModel.get_args(**common(**SMALL)))
    elif name == "chatglm2-6b":
        model = ChatGLM2Model(ChatGLM2Model.get_args(**common(**GROUPED), **grouped))
    else:
        model = ChatGLM3Model(ChatGLM3Model.get_args(**common(**GROUPED), **grouped, base_scale=50.0))
    return model.eval()


def draw(model: torch.nn.Module, seed: int) -> None:
    """Draw every parameter, those of norms around one or zero, so that none of them can hide a mistake."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            middle = 1.0 if key.endswith("layernorm.weight") else 0.0
            parameter.copy_(middle + 0.15 * torch.randn(parameter.shape, generator=generator))


# ----------------------------------------------------------------------------------------------------------- inputs


def prompts(mask: int, seed: int, padded: bool) -> tuple[list[list[int]], list[int]]:
    """Three rows of LENGTH: padding, a context with one mask token, START and an answer; and where START stands."""
    generator = torch.Generator().manual_seed(seed)
    rows, starts = [], []
    for padding, context in ((0, 9), (4, 6), (1, 12)) if padded else ((0, 9), (0, 5), (0, 13)):
        words = torch.randint(4, 40, (LENGTH - padding,), generator=generator).tolist()
        words[context - 1 if mask == GMASK else context // 2] = mask
        words[context] = START
        rows.append([PAD] * padding + words)
        starts.append(padding + context)
    return rows, starts


def answers(ids_BT: Tensor, starts: list[int]) -> Tensor:
    """Each position from START on predicts the next token, the last one END."""
    targets_BT = torch.full_like(ids_BT, IGNORED)
    for row, start in enumerate(starts):
        targets_BT[row, start:-1] = ids_BT[row, start + 1 :]
        targets_BT[row, -1] = END
    return targets_BT


def chatglm_case(model: torch.nn.Module, mask: int, seed: int) -> Case:
    """Masks and positions as ChatGLM-6B makes them from the ids; rows are padded at their left."""
    rows, starts = prompts(mask, seed, padded=True)
    ids_BT = torch.tensor(rows)
    mask_B1TS, positions_BAT = model.get_inputs(ids_BT)
    allowed_BTS = mask_B1TS[:, 0] > 0.5
    return Case(ids_BT, positions_BAT.transpose(1, 2), allowed_BTS, answers(ids_BT, starts), ids_BT != PAD)


def glm130b_case(mask: int, seed: int) -> Case:
    """As GLM-130B generates: the context sees itself, places count on after [gMASK] and stand still after [MASK]."""
    rows, starts = prompts(mask, seed, padded=False)
    ids_BT = torch.tensor(rows)
    place_T = torch.arange(LENGTH)
    positions_BT = place_T.repeat(len(rows), 1)
    allowed_BTS = (place_T[:, None] >= place_T).repeat(len(rows), 1, 1)
    for row, start in enumerate(starts):
        allowed_BTS[row, :, :start] = True
        if mask == MASK:
            positions_BT[row, start:] = rows[row].index(MASK)
    return Case(ids_BT, positions_BT, allowed_BTS, answers(ids_BT, starts), torch.ones_like(ids_BT, dtype=torch.bool))


def infilling_case() -> Case:
    """Two blanks filled in another order than they stand, written out by hand (Du et al. 2022, section 2.1, figure 2).

    Row 1: a b [M] f [M] with c d and g h i missing, filled in second blank first. Row 2: one blank, then padding.
    """
    a, b, c, d, f, g, h, i = 11, 12, 13, 14, 15, 16, 17, 18
    ids = [
        [a, b, MASK, f, MASK, START, g, h, i, START, c, d],
        [a, MASK, f, b, START, c, d, g, PAD, PAD, PAD, PAD],
    ]
    targets = [
        [*[IGNORED] * 5, g, h, i, END, c, d, END],
        [*[IGNORED] * 4, c, d, g, END, *[IGNORED] * 4],
    ]
    places = [[0, 1, 2, 3, 4, 4, 4, 4, 4, 2, 2, 2], [0, 1, 2, 3, 1, 1, 1, 1, 0, 0, 0, 0]]
    inside = [[0, 0, 0, 0, 0, 1, 2, 3, 4, 1, 2, 3], [0, 0, 0, 0, 1, 2, 3, 4, 0, 0, 0, 0]]
    allowed_BTS = torch.ones(2, 12, 12).tril().bool()
    allowed_BTS[0, :, :5] = True
    allowed_BTS[1, :, :4] = True
    allowed_BTS[1, :, 8:] = torch.eye(12)[:, 8:].bool()
    seen_BT = torch.tensor(ids) != PAD
    positions_BTA = torch.stack((torch.tensor(places), torch.tensor(inside)), -1)
    return Case(torch.tensor(ids), positions_BTA, allowed_BTS, torch.tensor(targets), seen_BT)


def causal_case(left: bool, seed: int) -> Case:
    """Rows of different lengths, padded at the left or right, each position predicting the next token."""
    generator = torch.Generator().manual_seed(seed)
    ids_BT = torch.randint(4, VOCABULARY, (3, LENGTH), generator=generator)
    lengths_B1 = torch.tensor([[LENGTH], [11], [5]])
    place_T = torch.arange(LENGTH)
    seen_BT = place_T >= LENGTH - lengths_B1 if left else place_T < lengths_B1
    ids_BT[~seen_BT] = PAD
    positions_BT = (seen_BT.long().cumsum(1) - 1).clamp_min(0)
    allowed_BTS = (place_T[:, None] >= place_T) & seen_BT[:, None] | torch.eye(LENGTH).bool()
    targets_BT = torch.full_like(ids_BT, IGNORED)
    scored_BT = seen_BT[:, :-1] & seen_BT[:, 1:]
    targets_BT[:, :-1][scored_BT] = ids_BT[:, 1:][scored_BT]
    return Case(ids_BT, positions_BT, allowed_BTS, targets_BT, seen_BT)


def cases_of(name: str, model: torch.nn.Module) -> dict[str, Case]:
    """Every network's inputs by their name."""
    if name == "chatglm-6b":
        return {"gmask": chatglm_case(model, GMASK, 1), "mask": chatglm_case(model, MASK, 2)}
    if name == "glm-130b":
        return {"gmask": glm130b_case(GMASK, 3), "mask": glm130b_case(MASK, 4)}
    if name == "glm-10b":
        return {"infilling": infilling_case()}
    return {"left": causal_case(True, 5), "right": causal_case(False, 6)}


def logits_of(model: torch.nn.Module, case: Case) -> Tensor:
    """Run the network; SwissArmyTransformer takes masks as numbers, but GLM-130B as True where one may not look."""
    mask_B1TS = case.allowed_BTS[:, None].float()
    positions = case.positions.transpose(1, 2).contiguous() if case.positions.ndim == 3 else case.positions
    if isinstance(model, GLM130B):
        return run_glm130b(model, case.ids_BT, positions, ~case.allowed_BTS[:, None])
    return model(input_ids=case.ids_BT, position_ids=positions, attention_mask=mask_B1TS)[0]


def run_glm130b(model: GLM130B, ids_BT: Tensor, positions_BT: Tensor, hidden_B1TS: Tensor) -> Tensor:
    """Hand GLM-130B's attention its mask as bool, which it needs: the trunk makes every mask a number."""
    attend = model.mixins["fp32-softmax"].attention_fn

    def attend_with_bool(query, key, value, mask, *args, **kwargs):
        return attend(query, key, value, hidden_B1TS, *args, **kwargs)

    model.mixins["fp32-softmax"].attention_fn = attend_with_bool
    model.collect_hooks_()
    logits_BTV = model(input_ids=ids_BT, position_ids=positions_BT, attention_mask=hidden_B1TS)[0]
    model.mixins["fp32-softmax"].attention_fn = attend
    return logits_BTV


# ------------------------------------------------------------------------------------- names of published checkpoints


def published(name: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """SwissArmyTransformer's tensors as the published checkpoint holds them."""
    if name in ("chatglm2-6b", "chatglm3-6b"):
        return published_chatglm2(name, tensors)
    out = {}
    for key, tensor in tensors.items():
        if name == "chatglm-6b" and "query_key_value" in key:  # all q, all k, all v -> head after head
            heads = tensor.unflatten(0, (3, WIDE["heads"], -1)).transpose(0, 1)
            tensor = heads.flatten(0, 2).contiguous()
        out[rename(name, key)] = tensor
    return out


def rename(name: str, key: str) -> str:
    """One tensor's name in the published checkpoint."""
    if name == "chatglm-6b":
        return key.replace("mixins.chatglm-final.", "")
    if name == "glm-10b":
        key = key.replace("mixins.block_position_embedding.", "transformer.")
        return "glm." + key.replace("transformer.word_embeddings", "word_embeddings")
    return key  # the checkpoint of GLM-130B is one of SwissArmyTransformer


def published_chatglm2(name: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """One product makes gate and value, in this order; ChatGLM2's gate is dense_h_to_4h, ChatGLM3's the other one."""
    out = {}
    for key, tensor in tensors.items():
        if key.startswith("mixins.mlp."):
            continue
        if "dense_h_to_4h" in key:
            layer = key.split(".")[2]
            other = tensors[f"mixins.mlp.w2.{layer}.weight"]
            tensor = torch.cat((tensor, other) if name == "chatglm2-6b" else (other, tensor))
        key = key.replace("mixins.chatglm-final.lm_head", "transformer.output_layer")
        key = key.replace("transformer.word_embeddings", "transformer.embedding.word_embeddings")
        key = key.replace("transformer.layers.", "transformer.encoder.layers.")
        key = key.replace("transformer.final_layernorm", "transformer.encoder.final_layernorm")
        out[key.replace(".attention.", ".self_attention.")] = tensor
    return out


def parameters_of(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Every parameter once, a tied head under the name of the embedding."""
    named = dict(model.named_parameters(remove_duplicate=False))
    embedding = model.transformer.word_embeddings.weight
    return {key: value for key, value in named.items() if value is not embedding or "embeddings" in key}


def load_published(name: str, model: torch.nn.Module, weights: dict[str, Tensor]) -> None:
    """Put a published checkpoint into the network: every tensor in its place, none left over, none missing."""
    numbered, count = {}, 0
    for key, parameter in parameters_of(model).items():  # each number of a parameter gets a name of its own: its index
        numbered[key] = torch.arange(count, count + parameter.numel()).view(parameter.shape)
        count += parameter.numel()
    places = published(name, numbered)
    if set(places) != set(weights):
        raise SystemExit(f"tensors that do not fit: {sorted(set(places) ^ set(weights))}")
    flat = torch.full((count,), float("nan"))
    for key, place in places.items():
        flat[place.flatten()] = weights[key].float().flatten()
    with torch.no_grad():
        for key, parameter in parameters_of(model).items():
            parameter.copy_(flat[numbered[key]])


def config_of(name: str) -> dict:
    """The keys of the published config.json, with the numbers of the tiny network."""
    base = {"num_layers": LAYERS, "torch_dtype": "float32", "layernorm_epsilon": EPSILON}
    if name == "glm-130b":  # published as arguments of a program: SwissArmyTransformer's names for them
        return base | {
            "model_type": "glm-130b", "hidden_size": WIDE["width"], "num_attention_heads": WIDE["heads"],
            "inner_hidden_size": WIDE["hidden"], "vocab_size": VOCABULARY, "max_sequence_length": 32,
        }  # fmt: skip
    code = {"AutoConfig": "configuration.Config", "AutoModel": "modeling.Model"}
    if name == "chatglm-6b":
        return base | SPECIAL | {
            "model_type": "chatglm", "architectures": ["ChatGLMModel"], "auto_map": code, "eos_token_id": END,
            "hidden_size": WIDE["width"], "num_attention_heads": WIDE["heads"], "inner_hidden_size": WIDE["hidden"],
            "vocab_size": VOCABULARY, "max_sequence_length": 32, "position_encoding_2d": True, "use_cache": True,
        }  # fmt: skip
    if name == "glm-10b":  # its tables have one row more than max_sequence_length says
        return base | {
            "model_type": "glm", "architectures": ["GLMModel"], "auto_map": code, "hidden_size": SMALL["width"],
            "num_attention_heads": SMALL["heads"], "vocab_size": VOCABULARY, "max_sequence_length": 31,
            "attention_dropout_prob": 0.1, "attention_scale": 1.0, "block_position_encoding": True,
            "checkpoint_activations": False, "checkpoint_num_layers": 1, "embedding_dropout_prob": 0.1,
            "initializer_range": 0.02, "output_dropout_prob": 0.1, "output_predict": True, "parallel_output": True,
            "pool_token": "cls", "relative_encoding": False, "spell_func": "lstm", "spell_length": None,
        }  # fmt: skip
    rope = {"rope_ratio": 50} if name == "chatglm3-6b" else {}
    return base | rope | {
        "model_type": "chatglm", "architectures": ["ChatGLMModel"], "auto_map": code, "add_bias_linear": False,
        "add_qkv_bias": True, "apply_query_key_layer_scaling": True, "apply_residual_connection_post_layernorm": False,
        "attention_dropout": 0.0, "attention_softmax_in_fp32": True, "bias_dropout_fusion": True,
        "ffn_hidden_size": GROUPED["hidden"], "fp32_residual_connection": False, "hidden_dropout": 0.0,
        "hidden_size": GROUPED["width"], "kv_channels": GROUPED["width"] // GROUPED["heads"],
        "multi_query_attention": True, "multi_query_group_num": 2, "num_attention_heads": GROUPED["heads"],
        "original_rope": True, "padded_vocab_size": VOCABULARY, "post_layer_norm": True, "rmsnorm": True,
        "seq_length": 32, "use_cache": True, "tie_word_embeddings": False, "eos_token_id": 2, "pad_token_id": 0,
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- verbs

NAMES = ("chatglm-6b", "glm-130b", "glm-10b", "chatglm2-6b", "chatglm3-6b")


def make(name: str, folder: Path) -> None:
    """Write one network's file; the gradients are those of the sum of the cases' mean losses."""
    model = build(name)
    draw(model, seed=NAMES.index(name))
    tensors = {}
    for case_name, case in cases_of(name, model).items():
        logits_BTV = logits_of(model, case)
        F.cross_entropy(logits_BTV.flatten(0, 1), case.targets_BT.flatten(), ignore_index=IGNORED).backward()
        parts = {
            "ids": case.ids_BT, "positions": case.positions, "targets": case.targets_BT, "allowed": case.allowed_BTS,
            "seen": case.seen_BT, "logits": logits_BTV.detach(),
        }  # fmt: skip
        for part, tensor in parts.items():
            small = tensor.to(torch.int16) if tensor.dtype == torch.int64 else tensor
            tensors[f"{case_name}/{part}"] = small.contiguous()
    weights = {key: parameter.detach() for key, parameter in parameters_of(model).items()}
    gradients = {key: parameter.grad for key, parameter in parameters_of(model).items()}
    for kind, values in (("weights", weights), ("gradients", gradients)):
        for key, tensor in published(name, values).items():
            tensors[f"{kind}/{key}"] = tensor.contiguous()
    save_file(tensors, folder / f"{name}.safetensors", metadata={"config": json.dumps(config_of(name))})


def run(name: str, weights: Path, out: Path) -> None:
    """Write the logits of every case with the weights of a published checkpoint."""
    model = build(name)
    load_published(name, model, load_file(weights))
    with torch.no_grad():
        logits = {case: logits_of(model, inputs) for case, inputs in cases_of(name, model).items()}
    save_file(logits, out)


def answer(folder: Path) -> dict:
    """Greedy answers, every token from a new run of the whole row; each one written lowers its own score by PENALTY.

    Returns:
        by network: rows of `prompt`, which ends in START, `answer`, and `margin`, the least lead of a chosen token.
    """
    found = {}
    for name in ("chatglm-6b", "glm-130b", "glm-10b"):
        model = build(name)
        weights = load_file(folder / f"{name}.safetensors")
        load_published(name, model, {key[8:]: value for key, value in weights.items() if key.startswith("weights/")})
        found[name] = [
            answer_one(name, model, mask, seed, length)
            for mask in (GMASK, MASK)
            for seed, length in ((5, 3), (2, 8), (3, 15))
        ]
    return found


@torch.no_grad()
def answer_one(name: str, model: torch.nn.Module, mask: int, seed: int, length: int) -> dict:
    """One prompt of `length` random words and a mask among them (at the end: [gMASK]), and what follows."""
    context = torch.randint(4, 40, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    context.insert(length if mask == GMASK else length // 2, mask)
    ids, margin = [*context, START], float("inf")
    for _ in range(12):
        logits_V = logits_of(model, answering(name, model, ids, context.index(mask), len(context), mask))[0, -1]
        for token in ids[len(context) + 1 :]:  # else networks with a tied head repeat what they read last
            logits_V[token] -= PENALTY
        best, second = logits_V.topk(2).values.tolist()
        ids, margin = [*ids, int(logits_V.argmax())], min(margin, best - second)
    return {"prompt": [*context, START], "answer": ids[len(context) + 1 :], "margin": round(margin, 4)}


def answering(name: str, model: torch.nn.Module, ids: list[int], place: int, context: int, mask: int) -> Case:
    """A prompt with what has been written: ChatGLM-6B's own inputs, for the others the rules of their authors."""
    ids_1T = torch.tensor([ids])
    if name == "chatglm-6b":
        mask_1TS, positions = model.get_inputs(ids_1T)
        return Case(ids_1T, positions.transpose(1, 2), mask_1TS[:, 0] > 0.5, ids_1T, ids_1T != PAD)
    allowed_1TS = torch.ones(1, len(ids), len(ids)).tril().bool()
    allowed_1TS[:, :, :context] = True
    written, places_T = len(ids) - context, torch.arange(len(ids))
    if name == "glm-10b" or mask == MASK:
        places_T[context:] = place
    steps_T = torch.cat((torch.zeros(context, dtype=torch.long), torch.arange(1, written + 1)))
    positions = places_T[None] if name == "glm-130b" else torch.stack((places_T, steps_T), -1)[None]
    return Case(ids_1T, positions, allowed_1TS, ids_1T, ids_1T != PAD)


def main(arguments: list[str]) -> None:
    """Parse and do."""
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("make").add_argument("folder", type=Path)
    runner = verbs.add_parser("run")
    runner.add_argument("name", choices=NAMES)
    runner.add_argument("weights", type=Path)
    runner.add_argument("file", type=Path)
    answerer = verbs.add_parser("answer")
    answerer.add_argument("folder", type=Path)
    answerer.add_argument("file", type=Path)
    given = parser.parse_args(arguments)
    if given.verb == "answer":
        given.file.write_text(json.dumps(answer(given.folder)) + "\n")
        return
    if given.verb == "run":
        run(given.name, given.weights, given.file)
        return
    given.folder.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        make(name, given.folder)


if __name__ == "__main__":
    main(sys.argv[1:])
