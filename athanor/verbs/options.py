"""Options and small tools that several verbs share."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from athanor.base.errors import AthanorError
from athanor.base.words import say
from athanor.base.workers import ENGINES
from athanor.store.artifact import Artifact, Store, find_store

if TYPE_CHECKING:
    from athanor.inference.runtime import Runtime

Function = TypeVar("Function", bound=Callable[..., Any])

CHAT_ORDER = ("merge", "quantize", "finetune", "pretrain")  # which step's model to take when none is named
new_folder_option = click.option("--out", type=Path, required=True, help=say("a folder to be made", "新建的输出文件夹"))


def store_option(function: Function) -> Function:
    """--store FOLDER."""
    text = say(
        "store folder (default: $ATHANOR_STORE, else the nearest .athanor)",
        "仓库目录（默认：$ATHANOR_STORE 或最近的 .athanor）",
    )
    return click.option("--store", metavar="FOLDER", help=text)(function)


def json_option(function: Function) -> Function:
    """--json."""
    text = say("print the result as JSON for machines", "以 JSON 输出，供程序读取")
    return click.option("--json", "as_json", is_flag=True, help=text)(function)


def workers_options(function: Function) -> Function:
    """--workers N and --engine local|ray."""
    processes = say(
        "processes that do the corpus steps (ray: as many as the cluster has processors)",
        "执行语料步骤的进程数（ray 默认用集群的全部处理器）",
    )
    engine = say(
        "where they run: on this machine, or on a Ray cluster; the result is the same",
        "在本机或 Ray 集群上执行，结果相同",
    )
    function = click.option("--engine", type=click.Choice(ENGINES), default="local", show_default=True, help=engine)(
        function
    )
    return click.option("--workers", type=int, metavar="N", help=processes)(function)


def print_json(value: Any) -> None:
    """One JSON value on standard output."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=2))


def latest(store: Store, kind: str, steps: tuple[str, ...] = (), or_else: str = "") -> Artifact:
    """The artifact of a kind (or of another one) that the recipe run last made; `steps` is the order of preference."""
    beginnings = tuple(f"{one}-" for one in (kind, or_else) if one)
    for recipe in reversed(store.recipes()):
        names = store.remembered(recipe)
        ordered = [names[step] for step in steps if step in names] + list(names.values())
        for name in ordered:
            if name.startswith(beginnings) and store.has(name):
                return store.get(name)
    raise AthanorError(f"the store {store.root} holds no {kind}", fix="athanor run quickstart")


def find_artifact(store: Store, name: str) -> Artifact:
    """An artifact by its name, a unique beginning of it, or the name of a step of the newest recipe run."""
    for recipe in reversed(store.recipes()):
        names = store.remembered(recipe)
        if name in names and store.has(names[name]):
            return store.get(names[name])
    return store.get(name)


def find_model(
    store: str | None, name: str | None, steps: tuple[str, ...] = CHAT_ORDER
) -> tuple[Path, Artifact | None]:
    """A model's folder: by artifact, step (finetune), checkpoint's path, or (unset) the newest of the store.

    `steps` gives the order of preference among the models of one run.
    """
    if name and (Path(name).expanduser() / "config.json").is_file():
        return Path(name).expanduser(), None
    if name and (Path(name).expanduser() / "adapter_config.json").is_file():
        raise AthanorError(
            f"{name} holds an adapter, not a model",
            fix=f"fold it into its base: athanor import {name} --base MODEL && athanor export adapter --to hf",
        )
    place = find_store(store)
    artifact = find_artifact(place, name) if name else latest(place, "model", steps)
    if artifact.kind != "model":
        hint = "fold it into its base first: athanor finetune … --merge" if artifact.kind == "adapter" else ""
        raise AthanorError(
            f"{artifact.id} is not a model", allowed="an artifact model-… or a checkpoint's folder", fix=hint
        )
    artifact.verify()
    return artifact.path, artifact


def open_speaker(
    store: str | None, name: str | None, more: tuple[str, ...] = ()
) -> "tuple[str, Runtime, tuple[str, ...]]":
    """A model that can be talked to, its name, and those of further adapters beside it.

    Args:
        name: as `find_model` has it, or an adapter's, which is put beside its base.
        more: further adapters of the same base, which `Sampling` may ask for.
    """
    from athanor.inference.runtime import open_model
    from athanor.recipes.adapters import base_of

    place = None if name and is_checkpoint(name) and not more else find_store(store)
    if name and is_checkpoint(name):
        folder, artifact, base = Path(name).expanduser(), None, None
    else:
        assert place is not None
        artifact = find_artifact(place, name) if name else latest(place, "model", CHAT_ORDER, or_else="adapter")
        if artifact.kind not in ("model", "adapter"):
            raise AthanorError(
                f"{artifact.id} is not a model", allowed="an artifact model-… or adapter-…, or a checkpoint's folder"
            )
        artifact.verify()
        base = artifact if artifact.kind == "model" else base_of(artifact)
        folder = base.path
    adapters = {} if artifact is None or artifact.kind == "model" else {artifact.id: artifact.path}
    chosen = next(iter(adapters), None)
    for one in more:
        assert place is not None
        found = find_artifact(place, one)
        if found.kind != "adapter" or base is None or base_of(found).id != base.id:
            raise AthanorError(
                f"{found.id} is no adapter of {base.id if base else folder}",
                allowed="adapters of the model that is opened",
            )
        found.verify()
        adapters[found.id] = found.path
    title = artifact.id if artifact else folder.resolve().name
    return title, open_model(folder, adapters=adapters, chosen=chosen), tuple(one for one in adapters if one != chosen)


def encoder_decoder(store: str | None, name: str | None) -> tuple[str, Path] | None:
    """Name and folder of a model, as `open_speaker` finds it, if it reads or hears something and writes about it."""
    from athanor.inference.listener import is_speech
    from athanor.inference.writer import is_encoder_decoder

    artifact = None
    if name and is_checkpoint(name):
        folder = Path(name).expanduser()
    else:
        place = find_store(store)
        artifact = find_artifact(place, name) if name else latest(place, "model", CHAT_ORDER, or_else="adapter")
        folder = artifact.path
    if not (folder / "config.json").is_file() or not (is_encoder_decoder(folder) or is_speech(folder)):
        return None
    if artifact is not None:
        artifact.verify()
    return (artifact.id if artifact else folder.resolve().name), folder


def is_checkpoint(name: str) -> bool:
    """Whether a name is that of a checkpoint's folder."""
    return (Path(name).expanduser() / "config.json").is_file()
