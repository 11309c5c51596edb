"""The layer that treats every position alone: one for all tokens, or several of which each token is sent to a few.

Shape letters as in `transformer.py`; X tokens (any leading axes flattened), E experts, C experts per token.
"""

import torch
from torch import Tensor, nn

from athanor.models import kernels
from athanor.models.config import TransformerConfig
from athanor.models.linear import Linear

ACTIVATIONS = {
    "swiglu": kernels.swiglu,
    "geglu": kernels.geglu,
    "geglu_exact": kernels.geglu_exact,
    "gelu_tanh": kernels.gelu_tanh,
    "gelu": nn.functional.gelu,
    "quick_gelu": kernels.quick_gelu,
    "relu": nn.functional.relu,
}


class FeedForward(nn.Module):
    """Gated (Shazeer 2020) or plain; `hidden` is the width in between, None the config's."""

    def __init__(self, config: TransformerConfig, hidden: int | None = None):
        super().__init__()
        hidden = config.hidden if hidden is None else hidden
        self.activation = ACTIVATIONS[config.mlp]
        # Gated: gate and up lie side by side, and one product makes both.
        self.up = Linear(config.width, hidden * (2 if config.gated else 1), bias=config.bias_mlp)
        self.down = Linear(hidden, config.width, bias=config.bias_mlp)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down(self.activation(self.up(x_BTD)))


class Routes:
    """Who was sent where in one forward pass: give it to the model, then ask for the loss that balances the load.

    Args:
        counted_BT: tokens that count, such as those that are no padding; None: all.
    """

    def __init__(self, counted_BT: Tensor | None = None):
        self.counted_X1 = None if counted_BT is None else counted_BT.flatten()[:, None].float()
        self.sent_E: Tensor | None = None  # tokens sent to each expert, all layers together
        self.probability_E: Tensor | None = None  # sum of the router's probabilities
        self.tokens: Tensor | float = 0.0  # tokens routed, each once per layer

    def add(self, probability_XE: Tensor, chosen_XC: Tensor) -> None:
        """Count what one layer's router said."""
        sent_XE = torch.zeros_like(probability_XE).scatter_(1, chosen_XC, 1.0)
        if self.counted_X1 is not None:
            sent_XE, probability_XE = sent_XE * self.counted_X1, probability_XE * self.counted_X1
        self.tokens = self.tokens + (len(sent_XE) if self.counted_X1 is None else self.counted_X1.sum())
        sent_E, probability_E = sent_XE.sum(0), probability_XE.sum(0)
        self.sent_E = sent_E if self.sent_E is None else self.sent_E + sent_E
        self.probability_E = probability_E if self.probability_E is None else self.probability_E + probability_E

    def balance(self) -> Tensor:
        """E sum over experts of f P: f the share of tokens sent to an expert, P the router's mean probability for it.

        C when the load is even, at most E when it is not. Layers count together, as in `transformers`. Source: Switch
        Transformer (Fedus et al. 2021, equations 4 to 6), where C = 1; the idea is GShard's (Lepikhin et al. 2020,
        section 2.2).

        Raises:
            ValueError: no layer has experts, or nothing was run.
        """
        if self.sent_E is None or self.probability_E is None:
            raise ValueError("nothing was routed: run a network with experts first, giving it these routes")
        return len(self.sent_E) * (self.sent_E * self.probability_E).sum() / self.tokens**2


class Experts(nn.Module):
    """Feed-forward layers of which each token is sent to the C the router finds most probable; no token is dropped.

    The result is the sum of their results, weighted by the router's softmax (Shazeer et al. 2017, section 2; Mixtral,
    Jiang et al. 2024, section 2.1). Tokens are sorted by expert, so that each expert runs once.
    """

    def __init__(self, config: TransformerConfig):
        super().__init__()
        assert config.experts is not None and config.experts_per_token is not None
        self.per_token, self.normal = config.experts_per_token, config.router_normal
        self.router = nn.Linear(config.width, config.experts, bias=False)
        self.experts = nn.ModuleList(FeedForward(config, config.expert_size) for _ in range(config.experts))

    def forward(self, x_BTD: Tensor, routes: Routes | None) -> Tensor:
        x_XD = x_BTD.flatten(0, -2)
        probability_XE = self.router(x_XD).float().softmax(-1)
        weight_XC, chosen_XC = probability_XE.topk(self.per_token, dim=-1)
        if self.normal:
            weight_XC = weight_XC / weight_XC.sum(-1, keepdim=True)
        if routes is not None:
            routes.add(probability_XE, chosen_XC)
        order = chosen_XC.flatten().argsort(stable=True)
        token = order // self.per_token
        counts = chosen_XC.flatten().bincount(minlength=len(self.experts)).tolist()
        pieces = []
        for expert, rows_D in zip(self.experts, x_XD[token].split(counts), strict=True):
            if len(rows_D) or torch.is_grad_enabled():  # while training every weight gets a gradient, if only of zeros
                pieces.append(expert(rows_D))
        weight = weight_XC.flatten()[order].to(x_XD.dtype)
        y_XD = torch.zeros_like(x_XD).index_add(0, token, torch.cat(pieces) * weight[:, None])
        return y_XD.view(x_BTD.shape)
