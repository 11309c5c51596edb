"""athanor import: a Hugging Face folder, or an adapter in PEFT's layout, into the store."""

from pathlib import Path
from typing import Any

import click

from athanor.base.words import say
from athanor.verbs.options import find_model, json_option, print_json, store_option

BASE = ("for an adapter: the model it was made for", "导入适配器时：它所属的模型")


@click.command(
    epilog="\b\nExample:  athanor import ~/my-model && athanor chat\n"
    "          athanor import ~/my-adapter --base model-1f2e3d4c && athanor export adapter --to gguf"
)
@click.argument("path")
@click.option("--base", metavar="MODEL", help=say(*BASE))
@store_option
@json_option
def command(path: str, base: str | None, store: str | None, as_json: bool) -> None:
    """Take the checkpoint in the folder PATH into the store as a model: chat, serve, quantize and export work on it.

    Pickles are refused, every tensor is checked, and the copy must give the logits of the source to the bit. With
    --base (an artifact's name or a checkpoint's folder) PATH is an adapter in PEFT's layout. Its tokenizer is
    tokenizer.json or an older file in its place; one that is Python code is never run, but built from its data where
    the class is known (ChatGLM, GLM-4, Qwen-7B, Baichuan, InternLM, Yi), else refused.
    """
    from athanor.base.progress import make_progress
    from athanor.base.stopping import StopRequest
    from athanor.inference.writer import is_encoder_decoder
    from athanor.recipes.runner import run_recipe
    from athanor.store.artifact import find_store

    recipe, plan = plan_model(path) if base is None else plan_adapter(path, *find_model(store, base))
    place = find_store(store, create_at=Path.cwd())
    made = run_recipe(recipe, plan, place, make_progress(StopRequest().listen()))[plan[-1].name]
    if as_json:
        print_json({"artifact": made.id, **made.record})
        return
    if base is None:
        chats = (made.path / "chat_template.jinja").is_file() or is_encoder_decoder(made.path)
        use = "chat" if chats else "serve"  # without a template it continues texts
        click.echo(say(f"→ {made.id} · the same logits and token ids as the source · athanor {use} {made.id}",
                       f"→ {made.id} · 与来源的 logit 和词元完全一致 · athanor {use} {made.id}"))  # fmt: skip
        return
    name, parent = made.id, made.record["parents"]["base"]
    click.echo(say(f"→ {name} for {parent} · the same logits as the source · athanor export {name} --to hf",
                   f"→ {name}，属于 {parent} · 与来源的 logit 完全一致 · athanor export {name} --to hf"))  # fmt: skip


def plan_model(path: str) -> tuple[Any, list[Any]]:
    """The step that imports a checkpoint.

    Raises:
        AthanorError: the folder holds an adapter, whose base was not named.
    """
    from athanor.base.errors import AthanorError
    from athanor.models.adapters.layout import CONFIG
    from athanor.recipes.recipe import Recipe, RecipeStep
    from athanor.recipes.runner import plan_recipe

    folder = Path(path).expanduser().resolve()
    if (folder / CONFIG).is_file() and not (folder / "config.json").is_file():
        raise AthanorError(
            f"{folder} holds an adapter, which is no model by itself", fix=f"athanor import {path} --base MODEL"
        )
    recipe = Recipe("import", {}, "nano", 1, (RecipeStep("import", "import", {}, {"path": str(folder)}),))
    return recipe, plan_recipe(recipe)


def plan_adapter(path: str, folder: Path, base: Any) -> tuple[Any, list[Any]]:
    """The step that imports an adapter of `base`; without it, of the model in `folder`, imported first."""
    from athanor.recipes.adapters import ImportAdapterSettings, fingerprint
    from athanor.recipes.code import code_version
    from athanor.recipes.recipe import Recipe, RecipeStep
    from athanor.recipes.runner import PlannedStep, plan_recipe
    from athanor.recipes.steps import STEPS
    from athanor.store.artifact import artifact_name

    step = STEPS["import_adapter"]
    settings = ImportAdapterSettings(path=str(Path(path).expanduser().resolve()))
    outside = fingerprint(settings)
    recipe = Recipe("import-adapter", {}, "nano", 1, ())
    first: list[PlannedStep] = []
    if base is None:
        row = RecipeStep("import", "import", {}, {"path": str(folder.resolve())})
        first = plan_recipe(Recipe(recipe.name, {}, "nano", 1, (row,)))
    parents, code = {"base": base.id if base else first[0].artifact}, code_version(step.module)
    made_of = {**settings.model_dump(mode="json"), "outside": outside}
    name = artifact_name(step.makes, "import_adapter", made_of, parents, code)
    return recipe, [*first, PlannedStep("adapter", "import_adapter", step, settings, parents, name, code, {})]
