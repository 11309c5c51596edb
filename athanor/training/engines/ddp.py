"""DDP: every process holds the whole model and a share of the batch; gradients are added up while they are computed.

Li et al. 2020 ("PyTorch Distributed"). torch's averages gradients over processes; a sum over scored positions wants
their sum, so the hook that exchanges them adds, in float32.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from athanor.base.errors import AthanorError
from athanor.models.language import LanguageModel
from athanor.training.engines.processes import Processes
from athanor.training.objective import Scored


class Ddp(Processes):
    """The same weights everywhere."""

    name = "ddp"

    def wrap(self, scored: Scored) -> nn.Module:
        learning = [weight for weight in scored.parameters() if weight.requires_grad]
        if not learning:
            raise AthanorError("engine=ddp: the model has no weight that learns", fix="use engine=single")
        # Weights in bf16 give their gradients away after every piece; then every piece's must be exchanged.
        self.waits = all(weight.dtype == torch.float32 for weight in learning)
        # XLNet's batches of one text use no segments, and an expert may get no token: DDP must not wait for these.
        sparse = not isinstance(scored.model, LanguageModel) or scored.model.config.experts is not None
        self.module = DistributedDataParallel(scored, gradient_as_bucket_view=True, find_unused_parameters=sparse)
        self.module.register_comm_hook(None, add_up)
        return self.module

    def piece(self, last: bool) -> AbstractContextManager[Any]:
        return nullcontext() if last or not self.waits else self.module.no_sync()


def add_up(_: None, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """The sum of a bucket of gradients over all processes."""
    buffer = bucket.buffer()
    total = buffer.float()
    done = dist.all_reduce(total, async_op=True).get_future()
    return done.then(lambda future: buffer.copy_(future.value()[0]))
