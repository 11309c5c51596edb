"""athanor verify: check every byte of a store."""

import click

from athanor.base.errors import AthanorError
from athanor.base.words import say
from athanor.verbs.options import find_artifact, json_option, print_json, store_option


@click.command(epilog="\b\nExample:  athanor verify\n          athanor verify model-1f2e3d4c")
@click.argument("names", nargs=-1)
@store_option
@json_option
def command(names: tuple[str, ...], store: str | None, as_json: bool) -> None:
    """Compare every file and tensor with the checksums in its record; NAMES limits it to some artifacts."""
    from athanor.store.artifact import Artifact, find_store

    place = find_store(store)
    folders = [find_artifact(place, name).path for name in names] or sorted(
        path.parent for path in place.artifacts.glob("*/artifact.json")
    )
    problems = {}
    for folder in folders:
        try:
            Artifact(folder).verify()
        except AthanorError as problem:
            problems[folder.name] = problem.as_row()
            click.echo(f"✗ {problem}", err=True)
    if as_json:
        print_json({"checked": len(folders), "problems": problems})
    elif not problems:
        click.echo(say(f"✓ {len(folders)} artifacts are whole", f"✓ {len(folders)} 个产物完好"))
    if problems:
        raise AthanorError(f"{len(problems)} of {len(folders)} artifacts are damaged", fix="see the lines above")
