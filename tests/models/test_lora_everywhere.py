"""Low-rank adapters of embeddings, heads, routers and experts: what they compute, learn, fold into and refuse."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from athanor.base.errors import AthanorError
from athanor.inference.quantize import quantize_model
from athanor.models.adapters.attach import attach, drop, extract, merge, select, select_rows
from athanor.models.adapters.files import read_adapter, save_adapter
from athanor.models.adapters.lora import Adapter, LoraSettings, fresh
from athanor.models.config import TransformerConfig
from athanor.models.convert import load_checkpoint, save_checkpoint
from athanor.models.language import LanguageModel
from athanor.models.settings import family_of

SHAPE = {"vocabulary": 97, "width": 32, "layers": 2, "heads": 4, "kv_heads": 2, "hidden": 64, "max_positions": 64}
CONFIGS = {
    "untied": TransformerConfig(**SHAPE),
    "tied": TransformerConfig(**SHAPE, tied=True),
    "experts": TransformerConfig(**SHAPE, experts=4, experts_per_token=2, norm_eps=1e-5),
}
ENDS = ["embed_tokens", "lm_head"]
EXPERTS = ["experts.gate_up_proj", "experts.down_proj", "gate.weight"]
IDS = torch.randint(3, 97, (2, 12), generator=torch.Generator().manual_seed(1))
TARGETS = torch.randint(3, 97, (2, 12), generator=torch.Generator().manual_seed(2))


def make(kind: str) -> LanguageModel:
    model = LanguageModel(CONFIGS[kind]).initialise(3)
    with torch.no_grad():
        for number, weight in enumerate(model.parameters()):
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(number)) * 0.1)
    return model.eval()


def lively(model: LanguageModel, targets: list[str], **settings) -> Adapter:
    """An adapter none of whose numbers is zero."""
    made = fresh(model, family_of(model.config), LoraSettings(**{"rank": 3, "alpha": 7, **settings}), targets)
    generator = torch.Generator().manual_seed(5)
    return replace(made, pieces={
        name: replace(one, a_RK=torch.randn(one.a_RK.shape, generator=generator) * 0.2,
                      b_PR=torch.randn(one.b_PR.shape, generator=generator) * 0.2)
        for name, one in made.pieces.items()
    })  # fmt: skip


@pytest.mark.parametrize(("kind", "targets"), [("untied", ENDS), ("tied", ENDS), ("experts", [*EXPERTS, *ENDS])])
def test_a_new_adapter_changes_nothing_and_all_of_it_learns(kind: str, targets: list[str]) -> None:
    model = make(kind)
    with torch.no_grad():
        before = model(IDS)
    attach(model, family_of(model.config), fresh(model, family_of(model.config), LoraSettings(), targets), train=True)
    torch.testing.assert_close(model(IDS), before)
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-2)
    first = None
    for _ in range(5):
        total, count = model.loss(IDS, TARGETS)
        first = float(total) if first is None else first
        (total / count).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert float(total) < 0.95 * first
    changed = extract(model, family_of(model.config), "adapter")
    assert all(bool(one.a_RK.any()) and bool(one.b_PR.any()) for one in changed.pieces.values())
    drop(model, "adapter")
    with torch.no_grad():
        assert torch.equal(model(IDS), before)
    assert kind != "tied" or model.head is None
    assert set(model.state_dict()) == set(LanguageModel(model.config).state_dict())


@pytest.mark.parametrize("kind", ["untied", "tied"])
@pytest.mark.parametrize("targets", [["lm_head"], ["embed_tokens"], ENDS])
def test_the_loss_of_a_changed_head_is_that_of_its_logits(kind: str, targets: list[str]) -> None:
    model = make(kind)
    attach(model, family_of(model.config), lively(model, targets), train=True)
    model.train()
    learning = [one for one in model.parameters() if one.requires_grad]
    total, _ = model.loss(IDS, TARGETS)
    expected = F.cross_entropy(model(IDS).flatten(0, 1), TARGETS.flatten(), reduction="sum")
    torch.testing.assert_close(total, expected)
    for one, other in zip(torch.autograd.grad(total, learning), torch.autograd.grad(expected, learning), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_merged_network_is_no_longer_tied(tmp_path: Path) -> None:
    """What embedding and head share without the adapter they do not share with it."""
    model = make("tied")
    family = family_of(model.config)
    for targets in (["embed_tokens"], ["lm_head"], ENDS):
        attach(model, family, lively(model, targets))
        expected = model(IDS)
        merged = merge(model, "adapter")
        assert not merged.config.tied and model.config.tied
        torch.testing.assert_close(merged(IDS), expected, rtol=1e-5, atol=1e-5)
        folder = tmp_path / "-".join(targets)
        save_checkpoint(merged, folder, family=family.name)
        assert torch.equal(load_checkpoint(folder)(IDS), merged(IDS))
        drop(model, "adapter")
    attach(model, family, lively(model, ["q_proj"]), "one")
    attach(model, family, lively(model, ["lm_head"]), "two")
    select(model, "one")
    expected = model(IDS)
    merged = merge(model, "one")
    assert merged.config.tied and merged.head is None
    torch.testing.assert_close(merged(IDS), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_rows_of_a_batch_have_their_own_embeddings_and_experts() -> None:
    model = make("experts")
    family = family_of(model.config)
    attach(model, family, lively(model, ENDS), "one")
    attach(model, family, lively(model, ["embed_tokens", "q_proj"], alpha=20), "two")
    alone = []
    for name in ("one", "two"):
        select(model, name)
        alone.append(model(IDS))
    select_rows(model, ["one", "two"])
    torch.testing.assert_close(model(IDS), torch.stack((alone[0][0], alone[1][1])))


def test_an_adapter_beside_a_quantised_embedding_and_head() -> None:
    """The codes stay; the frozen part is what they stand for."""
    small = quantize_model(make("tied"))
    adapter = lively(make("tied"), ENDS)
    with torch.no_grad():
        before = small(IDS)
        attach(small, family_of(small.config), adapter)
        assert float((small(IDS) - before).abs().max()) > 0.1
        with pytest.raises(AthanorError, match="quantised"):
            merge(small, "adapter")
        drop(small, "adapter")
        assert torch.equal(small(IDS), before)
    with pytest.raises(AthanorError, match="quantised"):
        attach(small, family_of(small.config), lively(make("tied"), ["embed_tokens"], decomposed=True))


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    model = make("experts")
    family = family_of(model.config)
    with pytest.raises(AthanorError, match="decomposed"):
        attach(model, family, replace(lively(model, EXPERTS), settings=LoraSettings(rank=3, decomposed=True)))
    other = replace(lively(model, ["lm_head"]), beside={"lm_head": torch.zeros(97, 32)})
    with pytest.raises(AthanorError, match="another weight of the base"):
        attach(model, family, other)
    attach(model, family, lively(model, ["lm_head"], dropout=0.5), train=True)
    model.train()
    with pytest.raises(AthanorError, match="dropout"):
        model.loss(IDS, TARGETS)
    glm = TransformerConfig(
        **SHAPE | {"hidden": 128, "kv_heads": None}, prefix=True, position="learned", position_axes=2, tied=True,
        norm="layer", norm_eps=1e-5, bias_qkv=True, bias_out=True, bias_mlp=True, mlp="gelu_tanh",
    )  # fmt: skip
    fixed, family = LanguageModel(glm).initialise(1), family_of(glm)
    attach(fixed, family, lively(fixed, ["word_embeddings"]))
    with pytest.raises(AthanorError, match="tied"):  # whose files have no head
        save_checkpoint(merge(fixed, "adapter"), tmp_path, family=family.name)


@pytest.mark.parametrize(
    "wrong",
    [
        {"target_parameters": "gate_up_proj"}, {"target_parameters": ["q_proj"]}, {"target_parameters": ["up_proj"]},
        {"lora_dropout": 0.1}, {"use_dora": True}, {"layers_to_transform": 1},
    ],
)  # fmt: skip
def test_settings_of_experts_that_peft_does_not_follow_either(wrong: dict, tmp_path: Path) -> None:
    model = make("experts")
    family = family_of(model.config)
    save_adapter(lively(model, EXPERTS), tmp_path, family, model.config)
    assert len(read_adapter(tmp_path, family, model.config).pieces) == 6
    record = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**record, **wrong}))
    with pytest.raises(AthanorError, match="target_parameters"):
        read_adapter(tmp_path, family, model.config)
