"""Runs a recipe: plans every artifact's name first, then makes only the ones that are not there yet.

A step fills work/<name>/; when it is done the folder is hashed, synced and renamed to artifacts/<name>/. A killed run
leaves a workplace behind, never half an artifact, and the next run goes on from it.
"""

import contextlib
import fcntl
import gc
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import athanor
from athanor.base.device import machine, peak_memory
from athanor.base.errors import AthanorError
from athanor.base.files import empty_folder, explain_disk_error
from athanor.base.progress import Progress
from athanor.base.settings import Settings, parse_settings
from athanor.base.tables import duration, size
from athanor.base.words import say
from athanor.data.reading.read import ReadSettings
from athanor.data.reading.removed import without_for
from athanor.recipes.code import code_version
from athanor.recipes.dial import Choice, choose
from athanor.recipes.processes import Job, run_job, spreads
from athanor.recipes.recipe import Recipe, RecipeStep
from athanor.recipes.steps import Step, step_named
from athanor.store.artifact import RESUME, Artifact, Store, artifact_name
from athanor.training.engines.part import PartDone

LOOK = 0.2  # seconds between two looks for what another process makes


@dataclass(frozen=True)
class PlannedStep:
    """A step with every number filled in, and the name of the artifact it will make.

    Attributes:
        chosen: the settings that the dial filled in, each with its reason.
    """

    name: str
    do: str
    step: Step
    settings: Settings
    parents: dict[str, str]
    artifact: str
    code: str
    chosen: dict[str, Choice]


def plan_recipe(
    recipe: Recipe, given: Mapping[str, str] | None = None, removed: Sequence[dict[str, Any]] = ()
) -> list[PlannedStep]:
    """Fill in every setting and name every artifact before anything runs.

    Args:
        given: artifacts of the store that steps name as parents: the name used there -> the artifact's.
        removed: `read_removed` of the store: what reading leaves out.

    Raises:
        AthanorError: a setting is unknown or out of range, or a source to be read is not there.
    """
    planned: dict[str, PlannedStep] = {}
    for row in recipe.steps:
        parents = {
            role: planned[name].artifact if name in planned else (given or {})[name]
            for role, name in row.parents.items()
        }
        planned[row.name] = _plan_step(row, recipe, parents, removed)
    return list(planned.values())


def settings_of(row: RecipeStep, recipe: Recipe) -> tuple[Settings, dict[str, Choice]]:
    """The settings of a step with every number filled in, and those that the dial chose.

    Raises:
        AthanorError: a setting is unknown or out of range.
    """
    cls = step_named(row.do).settings_class()
    chosen = {
        key: choice for key, choice in choose(recipe.scale, row.do, row.settings).items() if key not in row.settings
    }
    values = {key: choice.value for key, choice in chosen.items()} | dict(row.settings)
    if "seed" in cls.model_fields and "seed" not in values:
        values["seed"] = recipe.seed
    if "recipe" in cls.model_fields and "recipe" not in values:
        values["recipe"] = recipe.name
    return parse_settings(cls, values, row.name), chosen


def _plan_step(
    row: RecipeStep, recipe: Recipe, parents: dict[str, str], removed: Sequence[dict[str, Any]]
) -> PlannedStep:
    settings, chosen = settings_of(row, recipe)
    return name_step(row.name, row.do, leave_out(settings, removed), parents, chosen)


def leave_out(settings: Settings, removed: Sequence[dict[str, Any]]) -> Settings:
    """Settings of a step that reads, with what was removed from the store left out."""
    if not isinstance(settings, ReadSettings) or not removed:
        return settings
    return settings.model_copy(update={"without": without_for(settings.path, removed)})


def name_step(
    name: str, do: str, settings: Settings, parents: dict[str, str], chosen: dict[str, Choice]
) -> PlannedStep:
    """A step whose settings are all known, with the name of the artifact it will make."""
    step = step_named(do)
    code = code_version(step.module)
    made_of = {**settings.model_dump(mode="json"), "outside": step.outside(settings)}
    artifact = artifact_name(step.makes, do, made_of, parents, code)
    return PlannedStep(name, do, step, settings, parents, artifact, code, chosen)


def run_recipe(
    recipe: Recipe,
    plan: Sequence[PlannedStep],
    store: Store,
    progress: Progress,
    expected: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Artifact]:
    """Make every artifact of the plan that the store does not have, in order.

    Args:
        expected: what each step was estimated to take, kept in its record beside what it took.

    Returns:
        step name to artifact.

    Raises:
        Stopped: a stop was asked for; everything finished is kept, and a resumable step has saved where it was.
        AthanorError: a step refused its input or its result.
    """
    require_programs([planned for planned in plan if not store.has(planned.artifact)])
    store.create()
    gc.freeze()  # torch's objects live as long as we do: collecting around them halved the speed of reading
    made: dict[str, Artifact] = {}
    try:
        for number, planned in enumerate(plan, 1):
            progress.check()
            place = f"[{number}/{len(plan)}] {planned.name}"
            if store.has(planned.artifact):
                progress.note(f"{place} ✓ {say('already made', '已完成')} · {planned.artifact}")
                made[planned.name] = store.get(planned.artifact)
                continue
            progress.note(place)
            made[planned.name] = make_artifact(planned, store, progress, dict((expected or {}).get(planned.name, {})))
    finally:
        progress.close()
        if made:
            store.remember(recipe.name, {name: artifact.id for name, artifact in made.items()})
    return made


def require_programs(plan: Sequence[PlannedStep]) -> None:
    """Refuse before anything is made what would be refused when a step that trains begins.

    Raises:
        AthanorError: a tracker or the compiler is not on this machine.
    """
    for planned in plan:
        if getattr(planned.settings, "tracker", "none") != "none":
            from athanor.training.trackers import require_tracker

            require_tracker(planned.settings.tracker)  # type: ignore[attr-defined]
        if getattr(planned.settings, "compile", False):
            from athanor.training.techniques import require_compiler

            require_compiler()


def follow_recipe(plan: Sequence[PlannedStep], store: Store, progress: Progress) -> None:
    """What a process that `torchrun` started does when it is not the first: it takes part in the steps that spread.

    All processes share the store; what the first one makes alone is waited for.
    """
    for planned in plan:
        if not spreads(planned.settings) or store.has(planned.artifact):
            continue
        while not all(store.has(parent) for parent in planned.parents.values()):
            progress.check()
            time.sleep(LOOK)
        with contextlib.suppress(PartDone):
            run_job(_job(planned, store, store.workplace(planned.artifact)), progress)


def _job(planned: PlannedStep, store: Store, folder: Path) -> Job:
    return Job(planned.do, planned.name, planned.settings, planned.parents, store.root.resolve(), folder.resolve())


def make_artifact(
    planned: PlannedStep, store: Store, progress: Progress, expected: dict[str, Any] | None = None
) -> Artifact:
    """Run one step and commit its artifact."""
    with _locked(store, planned.artifact):
        folder = store.workplace(planned.artifact)
        empty_folder(folder, keep=RESUME)
        clock = time.monotonic()
        try:
            measurements = run_job(_job(planned, store, folder), progress)
        except (AthanorError, OSError) as problem:
            _tidy(folder)
            raise explain_disk_error(problem, folder) if isinstance(problem, OSError) else problem from None
        seconds = time.monotonic() - clock
        shutil.rmtree(folder / RESUME, ignore_errors=True)
        record = {**_record(planned, measurements, seconds), "expected": expected or {}}
        artifact = store.commit(planned.artifact, record)
    where = store.artifacts / artifact.id
    total = sum(row["bytes"] for row in artifact.record["files"].values())
    progress.note(f"  → {_short(where)} · {size(total)} · {duration(seconds)}")
    return artifact


def _tidy(folder: Path) -> None:
    """After a refusal: give the space of unfinished files back, keep what a step saved for resuming."""
    empty_folder(folder, keep=RESUME)
    if not (folder / RESUME).is_dir():
        folder.rmdir()


def _record(planned: PlannedStep, measurements: dict[str, Any], seconds: float) -> dict[str, Any]:
    return {
        "kind": planned.step.makes,
        "step": planned.do,
        "name": planned.name,
        "settings": planned.settings.model_dump(mode="json"),
        "reasons": {key: choice.reason for key, choice in planned.chosen.items()},
        "parents": planned.parents,
        "code": planned.code,
        "version": athanor.__version__,
        "machine": machine(),
        "volatile": planned.step.volatile,
        "measurements": {"peak_memory": peak_memory(), **measurements, "seconds": round(seconds, 3)},
    }


@contextlib.contextmanager
def _locked(store: Store, name: str) -> Iterator[None]:
    """Two runs never fill the same workplace; the lock goes with its process, however that ends."""
    path = store.work / f".{name}.lock"
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                raise BlockingIOError  # its holder took the file away while it was opened here: it guards nothing now
        except OSError:
            raise AthanorError(
                f"another run is making {name} in {store.root} right now",
                fix="wait for it, or give this run a store of its own with --store FOLDER",
            ) from None
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _short(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
