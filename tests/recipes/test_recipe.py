"""Recipes whose steps take several parents: read strictly, run with every parent under its name, written back."""

from pathlib import Path

import pytest
import yaml

from athanor.base.errors import AthanorError
from athanor.recipes.recipe import load_recipe, nested
from athanor.recipes.resolved import resolved_yaml
from athanor.recipes.runner import plan_recipe

TEXTS = """
steps:
  web: {do: read, path: "python:"}
  clean: {from: {documents: web}}
  skills: {conversations: 10}
  tokenizer: {vocabulary: 300, from: {corpus: clean, conversations: skills}}
  one: {do: pack, from: {corpus: clean, tokenizer: tokenizer}}
  two: {do: pack, shard_tokens: 2000, from: {corpus: clean, tokenizer: tokenizer}}
"""


def recipe(folder: Path, mix: str) -> str:
    (folder / "mine.yaml").write_text(TEXTS + f"  mix: {mix}\n")
    return str(folder / "mine.yaml")


def test_each_parent_has_its_name_and_the_resolved_recipe_runs_the_same(tmp_path: Path) -> None:
    loaded = load_recipe(recipe(tmp_path, "{from: {sources: {web: one, books: two}}, alpha: 0.5}"))
    plan = plan_recipe(loaded)
    made = {planned.name: planned.artifact for planned in plan}
    assert plan[-1].parents == {"sources.web": made["one"], "sources.books": made["two"]}
    written = tmp_path / "again.yaml"
    written.write_text(resolved_yaml(loaded, plan))
    assert yaml.safe_load(written.read_text())["steps"]["mix"]["from"] == {"sources": {"web": "one", "books": "two"}}
    assert [planned.artifact for planned in plan_recipe(load_recipe(str(written)))] == list(made.values())
    swapped = plan_recipe(load_recipe(recipe(tmp_path, "{from: {sources: {web: two, books: one}}, alpha: 0.5}")))
    assert swapped[-1].artifact != plan[-1].artifact


@pytest.mark.parametrize(
    ("mix", "said"),
    [
        ("{}", r"needs sources\nto do:   from: \{sources: \{name: a step"),
        ("{from: {sources: {}}}", "needs sources"),
        ("{from: {sources: one}}", r"from sources: 'one'\nallowed: \{sources: \{name: a step"),
        ("{from: {sources: {web: three}}}", "sources.web: 'three' is not an earlier step"),
        ("{from: {sources: {web: mix}}}", "'mix' is not an earlier step"),
        ("{from: {sources: {web: {deeper: one}}}}", "is not an earlier step"),
        ("{from: {sources: {../web: one}}}", "'../web' is no name"),
        ("{from: {sources: {web.en: one}}}", "is no name"),
        ("{from: {sources: {1: one}}}", "1 is no name"),
        ("{from: {source: {web: one}}}", "did you mean 'sources'"),
        ("{from: one}", "no list of roles"),
    ],
)
def test_parents_that_make_no_sense_are_refused(mix: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(AthanorError) as caught:
        load_recipe(recipe(tmp_path, mix))
    assert caught.match(said)


def test_a_single_role_takes_no_names(tmp_path: Path) -> None:
    path = recipe(tmp_path, "{do: pack, from: {corpus: {a: clean}, tokenizer: tokenizer}}")
    with pytest.raises(AthanorError, match=r"allowed: \{corpus: a step\}"):
        load_recipe(path)


def test_roles_are_nested_as_they_are_written() -> None:
    assert nested({"corpus": "a", "tasks.x": "b", "tasks.y": "c"}) == {"corpus": "a", "tasks": {"x": "b", "y": "c"}}


def test_a_recipe_can_put_a_step_before_those_it_extends(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "extends: quickstart\nsteps:\n  pack: {from: {corpus: unique}}\n"
        "  unique: {do: copies, from: {corpus: clean, against: {}}}\n"
    )
    names = [step.name for step in load_recipe(str(tmp_path / "mine.yaml")).steps]
    plain = [step.name for step in load_recipe("quickstart").steps]
    assert [name for name in names if name != "unique"] == plain
    assert names.index("clean") < names.index("unique") < names.index("pack")


def test_parents_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "steps:\n  a: {do: copies, from: {corpus: b}}\n  b: {do: copies, from: {corpus: a}}\n"
    )
    with pytest.raises(AthanorError, match="a: from corpus: 'b' is not an earlier step"):
        load_recipe(str(tmp_path / "mine.yaml"))


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("data.path=python:", "python:"), ("data.path=a: b", "a: b"), ("data.path='{x}'", "{x}"), ("data.path=", ""),
        ("data.max_bytes=1000", 1000), ("data.text_field=null", None), ("data.more={a: 1}", {"a": 1}),
    ],
)  # fmt: skip
def test_what_the_command_line_sets_is_text_unless_it_is_plainly_more(override: str, value: object) -> None:
    key = override.partition("=")[0].partition(".")[2]
    assert load_recipe("quickstart", [override]).steps[0].settings[key] == value
