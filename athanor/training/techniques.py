"""Techniques that change how a model computes while it learns, each switched on by one setting."""

import functools
import math
import os
import shutil
from typing import Any

import torch
from torch import Tensor, nn

from athanor.base.errors import AthanorError
from athanor.training.settings import LoopSettings


def apply_techniques(model: nn.Module, settings: LoopSettings) -> nn.Module:
    """Switch on what the settings ask for; returns the same model."""
    if settings.recompute:
        for trunk in trunks(model, "recompute"):
            trunk.recompute = True
    if settings.neftune:
        add_noise(model, settings.neftune)
    if settings.compile:
        for trunk in trunks(model, "compile"):
            compile_blocks(trunk)
    return model


def require_compiler() -> None:
    """Refuse to compile where torch would find no C++ compiler.

    Raises:
        AthanorError: there is none.
    """
    if shutil.which(os.environ.get("CXX", "g++")) is None and shutil.which("clang++") is None:
        raise AthanorError(
            "compile=true needs a C++ compiler, and none is here",
            fix="install g++ (Debian: apt install g++), or leave compile out",
        )


def compile_blocks(trunk: nn.Module) -> None:
    """Let torch.compile fuse what stands between the products of every block; attention keeps its own kernel."""
    require_compiler()
    for block in trunk.blocks:
        block.attention.attend = torch.compiler.disable(functools.partial(attend, block.attention))
        block.compile()


def attend(attention: nn.Module, *given: Any) -> Tensor:
    """What a layer's class does now: an engine may have changed it."""
    return type(attention).attend(attention, *given)


def trunks(model: nn.Module, setting: str) -> list[Any]:
    """The trunks of a network.

    Raises:
        AthanorError: it has none.
    """
    from athanor.models.transformer import Transformer

    found = [module for module in model.modules() if isinstance(module, Transformer)]
    if not found:
        raise AthanorError(f"{setting}=true works on Transformers; {type(model).__name__} is none", fix="leave it out")
    return found


def add_noise(model: nn.Module, alpha: float) -> None:
    """Add uniform noise to embeddings in training: alpha / sqrt(T D) U(-1, 1) (NEFTune, Jain et al. 2023, equation 1).

    Raises:
        AthanorError: the model has no token embedding.
    """
    tokens = getattr(model, "tokens", None)
    if not isinstance(tokens, nn.Module):
        raise AthanorError(f"neftune={alpha}: {type(model).__name__} has no token embedding", fix="leave it out")

    def noisy(module: nn.Module, given: Any, x_BTD: Tensor) -> Tensor:
        if not model.training or not torch.is_grad_enabled():
            return x_BTD
        size = alpha / math.sqrt(x_BTD.shape[-2] * x_BTD.shape[-1])
        return x_BTD + torch.empty_like(x_BTD).uniform_(-size, size)

    tokens.register_forward_hook(noisy)
