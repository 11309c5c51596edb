"""Networks of pictures by themselves: places of patches, cutting and joining, learning, and what they refuse."""

import pytest
import torch

from athanor.models.config import TransformerConfig
from athanor.models.contrastive import ContrastiveConfig, ContrastiveModel, TextTowerConfig, contrastive_loss
from athanor.models.vision.mae import MaskedAutoencoder, MaskedAutoencoderConfig, cut, join
from athanor.models.vision.patches import TowerConfig, interpolated
from athanor.models.vision.vit import ViT, ViTConfig

VOCABULARY, END = 97, 90


def small_tower(**more) -> TowerConfig:
    return TowerConfig(**{"image": 16, "patch": 4, "width": 32, "layers": 2, "heads": 4, "hidden": 48, **more})


def test_positions_of_a_wide_table_are_those_of_the_tall_one_turned():
    """The reference knows square tables only; rows and columns must not be confused."""
    table = torch.randn(2 * 5, 8, generator=torch.Generator().manual_seed(0))
    turned = table.view(2, 5, 8).transpose(0, 1).reshape(10, 8)
    wide, tall = interpolated(table, (2, 5), (3, 7)), interpolated(turned, (5, 2), (7, 3))
    assert torch.allclose(wide.view(3, 7, 8), tall.view(7, 3, 8).transpose(0, 1), atol=1e-6)


def test_cut_and_joined_images_are_the_same():
    image = torch.randn(2, 3, 8, 12)
    patches = cut(image, 4)
    assert patches.shape == (2, 6, 48)
    assert torch.equal(patches[1, 4].view(4, 4, 3), image[1, :, 4:8, 4:8].permute(1, 2, 0))  # row 1, column 1
    assert torch.equal(join(patches, 4, (2, 3)), image)
    with pytest.raises(ValueError, match="patches of 5"):
        cut(image, 5)


def test_masked_autoencoder_learns_from_hidden_patches_only():
    """A seen patch of the image may change its own target; the loss must not see that."""
    network = MaskedAutoencoder(MaskedAutoencoderConfig(tower=small_tower(), decoder_width=16)).initialise(0)
    image, noise = torch.randn(2, 3, 16, 16), torch.rand(2, 16)
    guessed = network(image, noise)
    assert guessed.hidden_BT.sum(1).tolist() == [12, 12]
    target = cut(image, 4)
    target[~guessed.hidden_BT] = 9.0
    assert torch.equal(network.loss(join(target, 4, (4, 4)), guessed), network.loss(image, guessed))
    target[guessed.hidden_BT] = 9.0
    assert not torch.equal(network.loss(join(target, 4, (4, 4)), guessed), network.loss(image, guessed))
    drawn = [network(image, generator=torch.Generator().manual_seed(seed)).hidden_BT for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    with pytest.raises(ValueError, match="noise"):
        network(image, noise[:, :5])


def contrastive() -> ContrastiveModel:
    trunk = TransformerConfig(
        width=24, layers=1, heads=3, hidden=40, max_positions=20, vocabulary=VOCABULARY, tied=True, position="learned"
    )
    config = ContrastiveConfig(vision=small_tower(), text=TextTowerConfig(trunk=trunk, end_id=END), joint=8)
    return ContrastiveModel(config).initialise(0)


def test_pairs_are_learned():
    """A few steps of training on four pairs tell them apart."""
    network = contrastive()
    draw = torch.Generator().manual_seed(0)
    image, ids = torch.randn(4, 3, 16, 16, generator=draw), torch.randint(3, END, (4, 6), generator=draw)
    ids[:, 4] = END
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(80):
        loss = contrastive_loss(network(image, ids))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert abs(losses[0] - 1.386) < 0.5 and losses[-1] < 0.1, losses
    assert network(image, ids).argmax(1).tolist() == [0, 1, 2, 3]


def test_what_the_networks_cannot_do_is_said():
    network, vit = contrastive(), ViT(ViTConfig(tower=small_tower()))
    image, ids = torch.randn(2, 3, 16, 16), torch.tensor([[5, END, 7], [5, 6, 7]])
    with pytest.raises(ValueError, match="text 1 has no token 90"):
        network(image, ids)
    with pytest.raises(ValueError, match="segments"):
        network.text_vectors(ids[:1], None, torch.zeros_like(ids[:1]))
    with pytest.raises(ValueError, match="interpolate=True"):
        vit.features(torch.randn(1, 3, 16, 20))
    with pytest.raises(ValueError, match="no room"):
        vit.features(torch.randn(1, 3, 16, 3), interpolate=True)
    with pytest.raises(ValueError, match="must be"):
        vit.features(torch.randn(1, 1, 16, 16))
    with pytest.raises(ValueError, match="classes"):
        vit(image)
    with pytest.raises(ValueError, match="pooled"):
        vit.pool(vit.features(image))


@pytest.mark.parametrize(
    ("build", "config"),
    [
        (ViT, ViTConfig(tower=small_tower(), classes=3)),
        (MaskedAutoencoder, MaskedAutoencoderConfig(tower=small_tower(), decoder_width=16)),
        (ContrastiveModel, contrastive().config),
    ],
)
def test_first_weights_follow_the_seed(build, config):
    one, same, other = (build(config).initialise(seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    moved = [name for name in one if not torch.equal(one[name], other[name])]
    assert len(moved) > len(one) / 4
    assert all(bool(weight.any()) for name, weight in one.items() if not name.endswith("bias"))
