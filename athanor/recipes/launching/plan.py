"""What is started on every machine of a cluster: `athanor run` under torchrun, the same words everywhere."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from athanor.base.errors import AthanorError
from athanor.recipes.recipe import Recipe
from athanor.recipes.runner import settings_of
from athanor.recipes.steps import step_named

PORT = 29_500  # where the processes meet; torchrun's own default
SAVING = 100  # seconds that processes have to write a checkpoint when they are asked to stop
RESTARTS = 3  # how often torchrun starts all processes again when one is lost
# Without it torchrun's agent keeps the addresses of processes that are gone (see `engines/processes.py`).
ENVIRONMENT = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


@dataclass(frozen=True, kw_only=True)
class Launch:
    """A run on several machines, which share the folder of the store.

    Attributes:
        name: of the job; small letters, digits and hyphens.
        words: `run`, the recipe, overrides and options, as after `athanor`.
        nodes: machines.
        gpus: of each; 0: processors only.
        processes: started on each.
        cores: of each.
        hours: longest time; None: the cluster's own limit.
    """

    name: str
    words: tuple[str, ...]
    nodes: int = 1
    gpus: int = 0
    processes: int = 1
    cores: int = 8
    hours: float | None = None

    def torchrun(self, *meeting: str) -> list[str]:
        """The command for one machine.

        Args:
            meeting: torchrun's options that say where the machines meet, and what tells them apart.
        """
        count = ["--nnodes", str(self.nodes), "--nproc-per-node", str(self.processes)]
        count += ["--shutdown-timeout", str(SAVING)]
        return ["torchrun", *count, *meeting, "-m", "athanor", *self.words]


def with_engine(recipe: Recipe, engine: str, overrides: Sequence[str], processes: int) -> list[str]:
    """The overrides, and for every step that can spread what nothing was said about: the engine, and a row for each
    process where the dial chose fewer.

    Raises:
        AthanorError: a setting is unknown or out of range, does not go with the engine or so many processes, or no step
            of the recipe can spread.
    """
    for row in recipe.steps:
        settings_of(row, recipe)
    able = [row for row in recipe.steps if "engine" in step_named(row.do).settings_class().model_fields]
    if not able:
        raise AthanorError(f"no step of {recipe.name} spreads over processes", fix="run it on one machine: athanor run")
    more = []
    for row in able:
        told: dict[str, Any] = {} if "engine" in row.settings else {"engine": engine}
        settings, chosen = settings_of(row, recipe)
        spread: Any = settings.model_copy(update={**told, "processes": processes})
        if "rows" in chosen and spread.rows < spread.pieces:
            told["rows"] = spread.pieces
        # refused here, not hours later when the cluster has room
        settings_of(replace(row, settings={**row.settings, **told, "processes": processes}), recipe)
        more += [f"{row.name}.{key}={value}" for key, value in told.items()]
    return [*overrides, *more]
