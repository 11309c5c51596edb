"""athanor import: a Hugging Face folder into the store."""

from pathlib import Path

import click

from athanor.base.words import say
from athanor.verbs.options import json_option, print_json, store_option


@click.command(epilog="\b\nExample:  athanor import ~/my-model && athanor chat")
@click.argument("path")
@store_option
@json_option
def command(path: str, store: str | None, as_json: bool) -> None:
    """Take the checkpoint in the folder PATH into the store as a model: chat, serve, quantize and export work on it.

    Pickles are refused, every tensor is checked, and the copy must give the logits of the source to the bit.
    """
    from athanor.base.progress import make_progress
    from athanor.base.stopping import StopRequest
    from athanor.recipes.recipe import Recipe, RecipeStep
    from athanor.recipes.runner import plan_recipe, run_recipe
    from athanor.store.artifact import find_store

    place = str(Path(path).expanduser().resolve())
    recipe = Recipe("import", {}, "nano", 1, (RecipeStep("import", "import", {}, {"path": place}),))
    plan = plan_recipe(recipe)
    made = run_recipe(recipe, plan, find_store(store, create_at=Path.cwd()), make_progress(StopRequest().listen()))[
        "import"
    ]
    if as_json:
        print_json({"artifact": made.id, **made.record})
        return
    click.echo(say(f"→ {made.id} · the same logits and token ids as the source · athanor chat {made.id}",
                   f"→ {made.id} · 与来源的 logit 和词元完全一致 · athanor chat {made.id}"))  # fmt: skip
