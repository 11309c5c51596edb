"""Training networks with experts: the next-token loss, and a share of the loss that keeps the experts evenly used."""

from collections.abc import Callable

from torch import Tensor, nn

from athanor.base.errors import AthanorError
from athanor.models.feedforward import Routes
from athanor.models.language import LanguageModel
from athanor.training.setup import next_token_loss

BALANCE = 0.01  # Fedus et al. 2021, section 2.2: large enough to balance, small enough not to drown the task
Loss = Callable[[nn.Module, tuple[Tensor, Tensor, Tensor]], tuple[Tensor, Tensor]]


def loss_for(model: LanguageModel, balance: float | None) -> Loss:
    """The loss a network is trained on: next tokens, and with experts a share of `Routes.balance`.

    Args:
        balance: the share; None: 0.01 where there are experts.

    Raises:
        AthanorError: a share is given and the network has no experts to balance.
    """
    if model.config.experts is None:
        if balance is not None:
            raise AthanorError(f"balance={balance}: the network has no experts", fix="leave balance out")
        return next_token_loss
    share = BALANCE if balance is None else balance

    def balanced_loss(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        assert isinstance(model, LanguageModel)
        ids_BT, targets_BT, documents_BT = batch
        routes = Routes()
        total, count = model.loss(ids_BT, targets_BT, documents_BT, routes)
        return total + share * count * routes.balance(), count  # the loop divides both by the count

    return balanced_loss
