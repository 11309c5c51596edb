"""Counts by formula against counts as published, and against the networks the trunk builds."""

import pytest
import torch

from athanor.base.errors import AthanorError
from athanor.models.convert import their_pieces
from athanor.models.language import LanguageModel
from athanor.models.published import PUBLISHED, find_model
from athanor.models.settings import read_config
from athanor.models.shapes import SHAPES, Shape

EXACT = [name for name, model in PUBLISHED.items() if not model.within]
ROUNDED = [name for name, model in PUBLISHED.items() if model.within]
BUILT = [name for name, model in PUBLISHED.items() if model.runs]


@pytest.mark.parametrize("name", EXACT)
def test_an_exact_publication_is_met_exactly(name):
    assert PUBLISHED[name].parameters == PUBLISHED[name].count


@pytest.mark.parametrize("name", ROUNDED)
def test_a_rounded_publication_is_met_within_its_rounding(name):
    model = PUBLISHED[name]
    assert abs(model.parameters / model.count - 1) <= model.within < 0.02


@pytest.mark.parametrize("name", BUILT)
def test_what_is_said_to_run_is_built_with_that_many_weights(name):
    """On the meta device, which takes no memory."""
    model = PUBLISHED[name]
    with torch.device("meta"):
        if model.record is None:
            network = LanguageModel(model.parts[0])
        else:
            family, config = read_config(model.record, name)
            stored = their_pieces(family.build(config), family)  # without Whisper's bias of keys, which is always zero
            assert sum(weight.numel() for weight in stored.values()) == model.parameters
            return
    assert sum(weight.numel() for weight in network.parameters()) == model.parameters


def test_every_row_says_what_it_lacks_or_runs():
    for name, model in PUBLISHED.items():
        counted = any(isinstance(part, Shape) for part in model.parts)
        assert model.runs == (not model.lacks) == (model.record is not None or not counted), name
        assert model.source and model.context > 0, name
    assert len(EXACT) >= 60


def test_the_family_tree_is_there():
    assert PUBLISHED["chatglm-6b"].parameters == 6_173_286_400 == PUBLISHED["chatglm-6b"].count
    assert PUBLISHED["glm-130b"].parameters == pytest.approx(128.7e9, rel=1e-4)
    assert PUBLISHED["palm-540b"].parameters == pytest.approx(540.35e9, rel=1e-4)


def test_scales_are_found_too_and_a_misspelling_is_answered():
    assert find_model("nano").parts == (SHAPES["nano"],)
    with pytest.raises(AthanorError) as caught:
        find_model("chatglm-7b")
    assert "chatglm-6b" in str(caught.value)
